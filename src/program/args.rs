//! The command line: what may be typed, and what it means.

use std::convert::Infallible;
use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use clap::builder::{PathBufValueParser, RangedU64ValueParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};

use super::config;
use super::failure::Failure;
use super::messages::tidy;
use super::print::Format;
use super::screen::{MAX_ROWS, View};
#[cfg(feature = "cluster")]
use crate::cluster::Cluster;
use crate::files::{FileKind, expand_home};

const EXAMPLES: &str = "\
Examples:
  embedsql -c \"SELECT title, embed(body) FROM 'docs.parquet' LIMIT 10\"
  embedsql -c \"COPY (SELECT id, embed(body) AS vector FROM 'docs.parquet') TO 'vectors.parquet'\"
  embedsql -f report.sql --format csv --output report.csv
  embedsql docs.parquet                    (a first look: columns, rows, what to type next)
  embedsql --model BAAI/bge-small-en-v1.5 --device cuda < queries.sql
  embedsql models check nomic-ai/nomic-embed-text-v1.5
  embedsql --cluster local:2 -c \"SELECT count(*) FROM 'docs.parquet'\"
  embedsql                                 (a prompt; \\? there for help)

Exit codes: 0 success, 1 a statement failed, 2 wrong usage; 129, 130, 143 stopped by SIGHUP, Ctrl-C, SIGTERM.";

/// SQL over files, with sentence-embedding models as the function embed(text).
///
/// Runs the SQL of -c and -f in the order given; without them the SQL on standard input; on a terminal, a prompt.
/// The first statement that fails ends the run.
#[derive(Debug, Parser)]
#[command(name = "embedsql", disable_version_flag = true, after_help = EXAMPLES)]
#[command(disable_help_subcommand = true, args_conflicts_with_subcommands = true, args_override_self = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) action: Option<Action>,

    /// SQL to run, a script (.sql), or a file of data to look at
    #[arg(value_name = "SQL|FILE", allow_hyphen_values = false)]
    pub(crate) input: Option<String>,

    /// Run this SQL, one or more statements (repeatable)
    // SQL may begin with a comment, and a comment with two hyphens.
    #[arg(short, long, value_name = "SQL", allow_hyphen_values = true)]
    pub(crate) command: Vec<String>,

    /// Run the SQL of this file; - is standard input (repeatable)
    #[arg(short, long, value_name = "FILE", value_parser = PathBufValueParser::new().map(in_home))]
    pub(crate) file: Vec<PathBuf>,

    /// How results are written
    #[arg(long, value_enum, default_value_t = Format::Table, global = true)]
    pub(crate) format: Format,

    /// Write results to this file instead of standard output; it appears only when all went well
    #[arg(long, value_name = "FILE", value_parser = PathBufValueParser::new().map(in_home), global = true)]
    pub(crate) output: Option<PathBuf>,

    /// Rows of a result that are shown on a terminal; 0 is all
    #[arg(long, value_name = "N", default_value_t = MAX_ROWS)]
    pub(crate) max_rows: usize,

    /// Model of embed(): bundled name, directory, or hub id owner/name or owner/name@revision (= --set embed.model=NAME)
    #[arg(long, value_name = "NAME")]
    pub(crate) model: Option<String>,

    /// Where the model runs: auto, cpu, cuda, cuda:N, metal (= --set embed.device=DEVICE)
    #[arg(long, value_name = "DEVICE")]
    pub(crate) device: Option<String>,

    /// Arithmetic of the model: f32, bf16, int8 (= --set embed.precision=NAME)
    #[arg(long, value_name = "NAME")]
    pub(crate) precision: Option<String>,

    /// Folder where vectors are kept, so that none is computed twice (= --set embed.cache=DIR)
    #[arg(long, value_name = "DIR")]
    pub(crate) cache: Option<String>,

    /// Run statements that read files on a cluster: HOST:PORT of its scheduler, or local:N for N executors on this machine
    #[cfg(feature = "cluster")]
    #[arg(long, value_name = "HOST:PORT", value_parser = parse_place)]
    pub(crate) cluster: Option<Place>,

    #[cfg(feature = "cluster")]
    #[command(flatten)]
    pub(crate) protection: ProtectionArgs,

    /// Threads for queries and for the model, 1 to 1024 [default: all cores]
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=1024))]
    pub(crate) threads: Option<usize>,

    /// Memory that sorts, joins and aggregates may take before they spill, such as 512M or 2G [default: no limit]
    #[arg(long, value_name = "SIZE", value_parser = parse_limit)]
    pub(crate) memory_limit: Option<usize>,

    /// Set any embed.* or datafusion.* setting (repeatable); SHOW ALL lists them
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_setting)]
    pub(crate) set: Vec<(String, String)>,

    /// Results and errors only: no greeting, no row counts, no progress
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,

    /// Show how long statements take
    #[arg(long)]
    pub(crate) timing: bool,

    /// Leave out the config file, ~/.config/embedsql/config.toml, which has flags by their long names: model = "NAME"
    #[arg(long)]
    pub(crate) no_config: bool,

    /// Print version, features, devices and CPU kernels
    #[arg(short = 'V', long)]
    pub(crate) version: bool,
}

/// What the program does instead of running SQL.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub(crate) enum Action {
    /// List the models that are here: bundled, in the hub's cache folder
    Models {
        #[command(subcommand)]
        action: Option<ModelsAction>,
    },
    /// Hand out the tasks of a cluster: runs until it is stopped
    #[cfg(feature = "cluster")]
    Scheduler {
        /// HOST:PORT to listen on; without --token-file and --certificates nothing is protected there
        #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:50050")]
        bind: String,
        /// End when standard input does
        #[arg(long, hide = true)]
        until_stdin_ends: bool,
    },
    /// Run the tasks of a cluster: runs until it is stopped
    #[cfg(feature = "cluster")]
    Executor(ExecutorArgs),
    /// Print what makes a shell complete the flags of this program
    Completions {
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Print the manual page, for man -l -
    Man,
    /// Look after a folder of vectors that --cache made
    Cache {
        #[command(subcommand)]
        action: CacheAction,
    },
}

/// How `embedsql executor` runs.
#[cfg(feature = "cluster")]
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub(crate) struct ExecutorArgs {
    /// HOST:PORT of the scheduler
    #[arg(long, value_name = "HOST:PORT", value_parser = parse_cluster)]
    pub(crate) scheduler: Cluster,
    /// HOST:PORT by which the scheduler and others reach it [default: any free port of 127.0.0.1]
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:0", hide_default_value = true)]
    pub(crate) bind: String,
    /// Tasks at once, each a thread of the model, 1 to 1024 [default: all cores]
    #[arg(long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=1024))]
    pub(crate) tasks: Option<usize>,
    /// Folder for results that wait to be fetched [default: the system's for temporary files]
    #[arg(long, value_name = "DIR", value_parser = PathBufValueParser::new().map(in_home))]
    pub(crate) work_folder: Option<PathBuf>,
    /// Where models run: auto, cpu, cuda, cuda:N, metal (= --set embed.device=DEVICE)
    #[arg(long, value_name = "DEVICE")]
    pub(crate) device: Option<String>,
    /// Folder where vectors are kept, so that none is computed twice (= --set embed.cache=DIR)
    #[arg(long, value_name = "DIR")]
    pub(crate) cache: Option<String>,
    /// Memory that sorts, joins and aggregates may take before they spill [default: no limit]
    #[arg(long, value_name = "SIZE", value_parser = parse_limit)]
    pub(crate) memory_limit: Option<usize>,
    /// Set any embed.* or datafusion.* setting (repeatable)
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_setting)]
    pub(crate) set: Vec<(String, String)>,
    /// End when standard input does
    #[arg(long, hide = true)]
    pub(crate) until_stdin_ends: bool,
}

/// What all processes of a cluster protect their ports by.
#[cfg(feature = "cluster")]
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub(crate) struct ProtectionArgs {
    /// File with the token that all processes of a cluster know; EMBEDSQL_TOKEN is the token itself
    #[arg(long, value_name = "FILE", env = "EMBEDSQL_TOKEN_FILE", global = true, hide_env = true)]
    #[arg(value_parser = PathBufValueParser::new().map(in_home))]
    pub(crate) token_file: Option<PathBuf>,
    /// Folder with ca.pem, cert.pem and key.pem, by which all processes of a cluster speak TLS
    #[arg(long, value_name = "DIR", env = "EMBEDSQL_CERTIFICATES", global = true, hide_env = true)]
    #[arg(value_parser = PathBufValueParser::new().map(in_home))]
    pub(crate) certificates: Option<PathBuf>,
}

/// Where a cluster is.
#[cfg(feature = "cluster")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// As many executors on this machine, for the time of the session.
    Here(usize),
    There(Cluster),
}

/// What is done with a folder of vectors.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub(crate) enum CacheAction {
    /// What the folder holds, by model
    Stats {
        /// Folder of embed.cache
        #[arg(value_parser = parse_folder)]
        directory: String,
    },
    /// Read every vector and compare it with its checksum; damaged ones are counted, and computed again when they are needed
    Verify {
        /// Folder of embed.cache
        #[arg(value_parser = parse_folder)]
        directory: String,
    },
    /// Remove the oldest vectors until the folder holds no more than so many bytes
    Prune {
        /// Folder of embed.cache
        #[arg(value_parser = parse_folder)]
        directory: String,
        /// Such as 512M or 2G
        #[arg(long, value_name = "SIZE", value_parser = parse_size)]
        to: usize,
    },
    /// Remove all vectors
    Clear {
        /// Folder of embed.cache
        #[arg(value_parser = parse_folder)]
        directory: String,
    },
}

/// What is done with one model.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub(crate) enum ModelsAction {
    /// Fetch a model ahead of time, so that it is used without the network
    Pull {
        /// Hub id: owner/name or owner/name@revision
        name: String,
    },
    /// Load a model, embed a few texts in every precision, and say what it is, how fast and how exact
    Check {
        /// Bundled name, directory, or hub id
        name: String,
    },
}

/// One thing to run, in the order of the command line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The SQL text of a -c.
    Command(String),
    /// The path of a -f.
    File(PathBuf),
    /// Standard input: `-f -`, or neither -c nor -f and standard input is not a terminal.
    Stdin,
}

/// What somebody means who says neither -c nor -f.
fn meant(input: &str) -> Result<Source, Failure> {
    let path = expand_home(input);
    let ends_with = |ending| Path::new(&*path).extension().is_some_and(|found| found.eq_ignore_ascii_case(ending));
    if ends_with("sql") {
        return Ok(Source::File(path.into_owned().into()));
    }
    if !input.contains(char::is_whitespace) || Path::new(&*path).exists() {
        if FileKind::of(&path).is_some() || Path::new(&*path).exists() || path.contains("://") {
            return Ok(Source::Command(format!("\\look {path}")));
        }
        let message =
            format!("{input:?} is no command, no file and no SQL; -c runs SQL, -f a script (see embedsql --help)");
        return Err(Failure::Usage(message));
    }
    Ok(Source::Command(input.to_owned()))
}

impl Args {
    fn parse_line(line: &[OsString]) -> Result<(ArgMatches, Args), u8> {
        let matches = Args::command().try_get_matches_from(line).map_err(|error| answer(&error))?;
        let args = Args::from_arg_matches(&matches).map_err(|error| answer(&error))?;
        Ok((matches, args))
    }

    /// How results are shown on a terminal; with --quiet as a whole, because nothing would say what is left out.
    pub(crate) fn view(&self) -> View {
        View { max_rows: if self.quiet { 0 } else { self.max_rows }, ..View::default() }
    }

    /// Reads a command line, the program's name first; `Err` is the exit code after help was printed or an error reported.
    pub(crate) fn read(line: impl IntoIterator<Item = OsString>) -> Result<(Args, Vec<Source>), u8> {
        let line: Vec<OsString> = line.into_iter().collect();
        let (matches, args) = Self::parse_line(&line)?;
        // What subcommands need is on their line.
        let flags = match args.no_config || args.action.is_some() {
            true => Vec::new(),
            false => config::flags(Args::command).map_err(|failure| failure.report())?,
        };
        let (matches, args) = match flags.is_empty() {
            true => (matches, args),
            false => {
                let (name, rest) = line.split_at(line.len().min(1));
                Self::parse_line(&[name, &flags, rest].concat())?
            }
        };
        let mut sources = sources(&args, &matches);
        if let Some(input) = &args.input {
            sources.push(meant(input).map_err(|failure| failure.report())?);
        }
        if args.action.is_none() && sources.is_empty() && !std::io::stdin().is_terminal() {
            sources.push(Source::Stdin);
        }
        Ok((args, sources))
    }
}

/// clap keeps -c and -f apart; their indices bring back the order in which they were typed.
fn sources(args: &Args, matches: &ArgMatches) -> Vec<Source> {
    let indices = |name| matches.indices_of(name).into_iter().flatten();
    let commands = args.command.iter().map(|sql| Source::Command(sql.clone()));
    let files = args.file.iter().map(|path| match path.as_os_str() == "-" {
        true => Source::Stdin,
        false => Source::File(path.clone()),
    });
    let mut sources: Vec<(usize, Source)> =
        indices("command").zip(commands).chain(indices("file").zip(files)).collect();
    sources.sort_by_key(|(index, _)| *index);
    sources.into_iter().map(|(_, source)| source).collect()
}

/// Prints help as clap has it, and an error as one line like every other error of this program.
fn answer(error: &clap::Error) -> u8 {
    if !error.use_stderr() {
        // Help into a closed pipe is no failure.
        let _ = error.print();
        return 0;
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        // Half a command: its help says what goes on.
        let _ = error.print();
        return 2;
    }
    let text = error.render().to_string();
    let told = text.lines().take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"));
    let told = tidy(&told.collect::<Vec<_>>().join("\n"));
    let told = told.strip_prefix("error: ").unwrap_or(&told);
    Failure::Usage(format!("{told} (see embedsql --help)")).report()
}

/// A path in which `~` is the home folder: no shell has seen it in `--output='~/x'`.
fn in_home(path: PathBuf) -> PathBuf {
    path.to_str().map(|path| expand_home(path).into_owned().into()).unwrap_or(path)
}

fn parse_folder(text: &str) -> Result<String, Infallible> {
    Ok(expand_home(text).into_owned())
}

#[cfg(feature = "cluster")]
fn parse_cluster(text: &str) -> Result<Cluster, String> {
    Cluster::new(text).map_err(|error| error.to_string())
}

#[cfg(feature = "cluster")]
fn parse_place(text: &str) -> Result<Place, String> {
    match text.strip_prefix("local:").map(|executors| executors.parse()) {
        Some(Ok(executors @ 1..=64)) => Ok(Place::Here(executors)),
        Some(_) => Err("expected local:N with N from 1 to 64".to_owned()),
        None => parse_cluster(text).map(Place::There),
    }
}

fn parse_size(text: &str) -> Result<usize, String> {
    crate::parse_size(text).map_err(|error| error.to_string())
}

fn parse_limit(text: &str) -> Result<usize, String> {
    match parse_size(text)? {
        0 => Err(format!("'{text}' leaves no memory at all; leave the flag out for no limit")),
        bytes => Ok(bytes),
    }
}

fn parse_setting(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE, such as embed.batch_size=64")?;
    let key = key.trim().to_ascii_lowercase();
    match key.starts_with("embed.") || key.starts_with("datafusion.") {
        true => Ok((key, value.to_owned())),
        false => Err(format!("setting {key:?} is neither embed.* nor datafusion.*")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_memory_at_all_is_no_limit() {
        assert_eq!(parse_limit("2GB"), Ok(2 << 30));
        assert!(parse_limit("0").is_err_and(|message| message.contains("no memory")));
    }

    #[test]
    fn commands_and_files_keep_their_order() {
        let line = ["embedsql", "-f", "a.sql", "-c", "b", "-f", "-", "--command", "c"];
        let matches = Args::command().try_get_matches_from(line).expect("valid line");
        let args = Args::from_arg_matches(&matches).expect("valid line");
        let expected =
            [Source::File("a.sql".into()), Source::Command("b".into()), Source::Stdin, Source::Command("c".into())];
        assert_eq!(sources(&args, &matches), expected);
    }

    #[test]
    fn sql_may_begin_with_a_hyphen() {
        let matches = Args::command().try_get_matches_from(["embedsql", "-c", "-- why\nSELECT 1", "-q"]);
        let args = Args::from_arg_matches(&matches.expect("valid line")).expect("valid line");
        assert_eq!((args.command, args.quiet), (vec!["-- why\nSELECT 1".to_owned()], true));
    }

    #[test]
    fn command_line_is_consistent() {
        Args::command().debug_assert();
    }
}
