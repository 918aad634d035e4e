//! The same export by this process and by a cluster on this machine: how much of the speed is left, and what a task costs.
//!
//! A scheduler and executors are processes of the program, started before the clock; the client is this process. Models are loaded
//! before, everywhere. Plain and cluster take turns, `--repeat` times, and the medians are compared: what others do on the machine
//! meets both. A file is read in parts, so that there are tasks for all executors. Left out: the start of the processes, and a
//! network: everything is on one machine.
//!
//! The last part runs a job of `--tasks` tasks that do next to nothing, and reads from the kernel's account what the scheduler took.
//!
//! `cargo bench --bench cluster -- --file short.parquet --rows 20000 --precision int8 --repeat 3 --tasks 2000`

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Instant;
use std::{env, fs};

use datafusion::arrow::array::AsArray;
use datafusion::arrow::datatypes::{Int64Type, UInt64Type};
use datafusion::error::Result;
use datafusion::prelude::SessionContext;
use datafusion_embed::cluster::Cluster;
use datafusion_embed::{SessionOptions, session};

mod account;
use account::account;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().collect();
    let value = |name: &str| arguments.iter().position(|a| a == name).and_then(|at| arguments.get(at + 1)).cloned();
    let number = |name: &str| value(name).map(|n| n.parse::<usize>().expect("a number"));
    // `cargo bench` passes --bench; without it this is a test run that only has to work.
    let bench = arguments.iter().any(|argument| argument == "--bench");
    let plan = Plan {
        file: value("--file").unwrap_or_else(|| "sql/docs.parquet".to_owned()),
        rows: number("--rows").unwrap_or(if bench { 320 } else { 4 }),
        precision: value("--precision").unwrap_or_else(|| "int8".to_owned()),
        repeat: number("--repeat").unwrap_or(if bench { 3 } else { 1 }),
        tasks: number("--tasks").unwrap_or(if bench { 2000 } else { 8 }),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("runtime");
    match runtime.block_on(run(&plan)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print(&format!("{error}"));
            ExitCode::FAILURE
        }
    }
}

/// What is measured.
struct Plan {
    file: String,
    rows: usize,
    precision: String,
    repeat: usize,
    tasks: usize,
}

/// One way to run the statements.
struct Way {
    name: &'static str,
    ctx: SessionContext,
    /// Scheduler and executors, ended with this.
    _processes: Vec<Process>,
}

async fn run(plan: &Plan) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name).display().to_string();
    let ways = [
        plain("plain, 1 thread", 1, plan)?,
        plain("plain, 2 threads", 2, plan)?,
        cluster("1 executor of 1 task", &[1], plan)?,
        cluster("2 executors of 1 task", &[1, 1], plan)?,
        cluster("1 executor of 2 tasks", &[2], plan)?,
    ];
    // Row groups are what is dealt out.
    let rows = format!("SELECT id, body FROM '{}' LIMIT {}", plan.file, plan.rows);
    let group = (plan.rows / 40).max(1);
    let copied = format!("COPY ({rows}) TO '{}' OPTIONS ('format.max_row_group_size' '{group}')", at("in.parquet"));
    ways[0].ctx.sql(&copied).await?.collect().await?;
    let select = format!("SELECT id, embed(body) AS v FROM '{}'", at("in.parquet"));
    for way in &ways {
        let warm = format!("SELECT count(embed(body)) FROM (SELECT body FROM '{}' LIMIT 8)", at("in.parquet"));
        way.ctx.sql(&warm).await?.collect().await?;
    }
    let statements = [
        (
            "into a folder",
            format!("COPY ({select}) TO '{}/' STORED AS PARQUET OPTIONS ('mode' 'overwrite')", at("out")),
        ),
        ("into one file", format!("COPY ({select}) TO '{}'", at("out.parquet"))),
        (
            "without embed",
            format!("SELECT id % 10, count(*), max(length(body)) FROM '{}' GROUP BY id % 10", at("in.parquet")),
        ),
    ];
    print(&format!(
        "{}, first {} rows, {}, kernels {}\n\n| | {} |\n|---|{}",
        plan.file,
        plan.rows,
        plan.precision,
        datafusion_embed::kernel_path().expect("kernels"),
        ways.each_ref().map(|way| way.name).join(" | "),
        "---|".repeat(ways.len())
    ));
    for (name, sql) in &statements {
        let mut seconds = ways.each_ref().map(|_| Vec::new());
        for _ in 0..plan.repeat {
            for (way, seconds) in ways.iter().zip(&mut seconds) {
                let began = Instant::now();
                way.ctx.sql(sql).await?.collect().await?;
                seconds.push(began.elapsed().as_secs_f64());
            }
        }
        let [plain1, plain2, one, two, wide] = seconds.map(median);
        print(&format!(
            "| {name}, s | {plain1:.3} | {plain2:.3} | {one:.3} | {two:.3} | {wide:.3} |\n| of the plain speed | | | {:.3} | {:.3} | {:.3} |",
            plain1 / one,
            plain2 / two,
            plain2 / wide
        ));
        print(&format!(
            "\n{name}: a second executor gains {:.3}, a second thread {:.3}: {:.3} of it\n",
            one / two,
            plain1 / plain2,
            (one / two) / (plain1 / plain2)
        ));
    }
    tasks(plan, folder.path()).await
}

/// What the scheduler takes for a task.
async fn tasks(plan: &Plan, folder: &Path) -> Result<()> {
    let scheduler = Process::start(&["scheduler", "--bind", "127.0.0.1:0"]);
    let _executor = Process::start(&["executor", "--scheduler", &scheduler.address, "--tasks", "2", "-q"]);
    let cluster = Cluster::new(&scheduler.address)?;
    let mut options = SessionOptions::default().on_cluster(cluster);
    options.config.options_mut().execution.target_partitions = plan.tasks;
    let ctx = session(options)?;
    let files = folder.join("files");
    fs::create_dir(&files)?;
    for file in 0..plan.tasks {
        fs::write(files.join(format!("{file}.csv")), format!("id,t\n{file},x\n"))?;
    }
    let count = async |sql: String| ctx.sql(&sql).await?.collect().await;
    count(format!("SELECT count(*) FROM '{}/0.csv'", files.display())).await?;
    let (began, before) = (Instant::now(), account(scheduler.child.id(), "cpu"));
    let counted = count(format!("SELECT count(t) FROM '{}/'", files.display())).await?;
    assert_eq!(counted[0].column(0).as_primitive::<Int64Type>().value(0), plan.tasks as i64, "every file is read");
    let (seconds, cpu) = (began.elapsed().as_secs_f64(), account(scheduler.child.id(), "cpu") - before);
    print(&format!(
        "\n{} tasks: {seconds:.2} s, of the scheduler's processor {:.3} ms each, its memory {:.0} MiB at most\n",
        plan.tasks,
        cpu * 1e3 / plan.tasks as f64,
        account(scheduler.child.id(), "VmHWM")
    ));
    let rows = ctx.sql("SELECT CAST(count(*) AS BIGINT UNSIGNED) FROM embed_models()").await?.collect().await?;
    assert_eq!(rows[0].column(0).as_primitive::<UInt64Type>().value(0), 0, "nothing was embedded");
    Ok(())
}

fn plain(name: &'static str, threads: usize, plan: &Plan) -> Result<Way> {
    let mut options = SessionOptions::default();
    set(&mut options, "embed.precision", &plan.precision)?;
    set(&mut options, "embed.concurrency", &threads.to_string())?;
    set(&mut options, "datafusion.execution.target_partitions", &threads.to_string())?;
    Ok(Way { name, ctx: session(options)?, _processes: Vec::new() })
}

fn cluster(name: &'static str, executors: &[usize], plan: &Plan) -> Result<Way> {
    let scheduler = Process::start(&["scheduler", "--bind", "127.0.0.1:0"]);
    let mut options = SessionOptions::default().on_cluster(Cluster::new(&scheduler.address)?);
    set(&mut options, "embed.precision", &plan.precision)?;
    let executors = executors.iter().map(|tasks| {
        let tasks = tasks.to_string();
        Process::start(&["executor", "--scheduler", &scheduler.address, "--tasks", &tasks, "-q"])
    });
    let mut processes: Vec<_> = executors.collect();
    processes.push(scheduler);
    Ok(Way { name, ctx: session(options)?, _processes: processes })
}

fn set(options: &mut SessionOptions, key: &str, value: &str) -> Result<()> {
    options.config.options_mut().set(key, value)
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}

/// A process of the program that listens.
struct Process {
    child: Child,
    address: String,
}

impl Process {
    fn start(line: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_embedsql"));
        command.args(line).arg("--until-stdin-ends").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let mut said = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut said).expect("a line");
        let address = said.trim().strip_prefix("listening on ").expect("an address").to_owned();
        Self { child, address }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // It ends by itself, too.
        let _ = self.child.wait();
    }
}

#[expect(clippy::print_stdout, reason = "a bench shows its numbers")]
fn print(text: &str) {
    println!("{text}");
}
