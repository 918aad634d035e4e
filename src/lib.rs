//! Sentence-embedding models inside the Apache DataFusion query engine.
//!
//! `embed(text)` is a vectorised scalar function: a text column goes in, a `FixedSizeList<Float32>` column comes out, with
//! the vectors that [sentence-transformers](https://sbert.net) gives. No Python, no server, no second copy of the data,
//! and with the bundled model no network and no set-up either.
//!
//! ```
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! use datafusion::prelude::SessionContext;
//!
//! let ctx = SessionContext::new();
//! datafusion_embed::register(&ctx)?;
//! let nearest = "SELECT column1 AS text FROM (VALUES ('a bicycle'), ('a tax form'), ('a garden')) \
//!                ORDER BY cosine_similarity(embed(column1), embed('flowers')) DESC LIMIT 1";
//! let rows = ctx.sql(nearest).await?.to_string().await?;
//! # #[cfg(feature = "bundled-model")]
//! assert!(rows.contains("a garden"));
//! # datafusion::error::Result::<()>::Ok(())
//! # }).unwrap();
//! ```
//!
//! # Architecture
//!
//! ```text
//! SQL --> functions/ --> plan/ ------> engine/ ----------------------------------------> Arrow array --> sink
//!         a call         EmbedExec:   texts  -> tokens -> model batches -> model/ -> vectors
//!                        where the    each      u32       flat, under      kernels/  f32
//!                        fewest rows  once      ids       a token budget             [rows, dim]
//!                        pass
//! ```
//!
//! | place | what |
//! |---|---|
//! | `lib.rs` | front door: this page, re-exports, [`register`] |
//! | `access.rs` | [`Access`]: what a host lets a session do, and how it hears what happens there |
//! | `options.rs` | [`EmbedOptions`]: every setting, its unit, its default and why |
//! | `error.rs` | one [`Error`], converted to `DataFusionError` at the border |
//! | `functions/` | one file per SQL function; a face, not a body |
//! | `expr_fn.rs` | the same as expressions, for programs that build plans with DataFrames |
//! | `plan/` | what the optimizer may do with a call: the rule that lifts it, the logical node, the operator `EmbedExec` |
//! | `cache/` | vectors on disk, by what they depend on |
//! | `engine/` | texts -> tokens -> model batches -> vectors; the only owner of threads and counters |
//! | `model/` | a model directory -> a ready model: where files come from, description, tokenizer, encoder, pooling |
//! | `kernels/` | CPU arithmetic: packed matrices, attention, normalisation; the only `unsafe` code |
//! | `embedder.rs` | vectors of texts that a program has in its hands, without SQL |
//! | `models.rs` | the models of this machine: what is there, fetching ahead, trying one out |
//! | `files/` | reading: what a name stands for; stores: what an address leads to, and who we are there; writing: a file, an object or a folder is there complete or not there; what may be removed |
//! | `session.rs` | the session that program, wheel and cluster share |
//! | `state.rs` | a session's state with other parts |
//! | `marked.rs` | messages of ours in the bytes of a plan |
//! | `cluster/` | the same statements on many machines, by Ballista: what of a plan runs there, and the processes that run it |
//! | `stages.rs` | each stage alone, for the benches |
//! | `program/` | the program embedsql: a *user* of the crate, sees public items only |
//! | `bin/` | its `main` |
//!
//! # Invariants
//!
//! * **I1** The vector of a text depends on the text, model, role, precision, `max_tokens` and `dimensions` only: not on
//!   its neighbours, the batch size, the partition count or the row order. On the CPU this holds to the bit for one
//!   machine and one kernel path.
//! * **I2** Row i out belongs to row i in. NULL in, NULL out, and no other NULL is ever made: a failure is an error.
//! * **I3** Only `functions/`, `plan/`, `files/`, `cluster/` and `lib.rs` know planner types; only `model/` and `kernels/` know
//!   tensors; only `engine/` starts threads (`files/` and `cluster/` wait for disks, stores and schedulers on those of DataFusion's
//!   runtime, and `files/` for a model in a store on one of its own, because whoever looks for a model waits without being a task).
//! * **I4** The library prints nothing, changes no environment variable, and touches the network only for a model that was asked
//!   for by hub id or address, for an address that a statement names in a session with our stores, and for the cluster of a session
//!   that has one.
//! * **I5** Planning never runs a model: it reads small configuration files. An equal literal is embedded at most once per query,
//!   however often it occurs, before anything else of it runs. (Where DataFusion itself makes rows while it plans, VALUES, and
//!   for conditions of DELETE and UPDATE, a literal is still folded; so it is by a planner that is not ours.)
//! * **I6** From the last activation to the Arrow buffer there is no allocation per row.
//!
//! `program/` is a user of the library: it prints, and has threads that wait.
//!
//! `tests/it/invariants.rs` holds I1, I2 and I5; `tests/it/tidy.rs` holds I3 and I4 by reading the sources.
//! I6 is held by counting allocations, in `src/model/tests.rs` and `src/engine/ticket.rs`. `tests/it/structure.rs` holds that no
//! two files import each other and that nothing stands twice.
//!
//! # Who owns what
//!
//! * *What decides a vector* is data: a call (`engine/call.rs`) is what a plan writes down. The device, the concurrency, folders and
//!   sizes are the *machine's*, and are asked for where the plan runs.
//! * A *session* is found, never carried: it lies in the configuration of a context, under an entry that has no settings.
//!   `engine/mod.rs` has a table of what lives from when to when.
//! * A *snapshot* of a model's files is the only way to its weights, its fingerprint and its space in a cache.
//! * A device has one *lane*, whose workers serve every session of the process.
//! * What a statement writes is in `files/`, and so is the list of what may ever be removed.
//!
//! # What became of the first design
//!
//! * The logical node and the operator were to hold a session. They hold data and find the session, so that a plan can be written
//!   down (`EmbedCodec`) and run elsewhere.
//! * candle was to load weights for all devices. Every device reads them from the same snapshot now, and gives finished vectors.
//! * Each session was to have its workers. A device has them, because it is the device that gets no faster by more.
//! * Models of the hub were to come by hf-hub. They come by ureq: `Cargo.toml` says why.
//! * Kept vectors were to lie in an embedded database. They lie in segments of our own: `cache/` says why.
//! * The program was a binary of its own. It is a module, so that a wheel and the processes of a cluster run the same code, and
//!   what made its files whole is the library's.
//!
//! # Words
//!
//! | word | here |
//! |---|---|
//! | model batch | what one forward pass takes: the tokens of some texts end to end |
//! | record batch | Arrow's |
//! | backend | a model's arithmetic on one device, pooling and steps included |
//! | lane, share | the workers of a device; how many of them a session may keep busy |
//! | feed, slot | a stream's access to its query: texts go in; where each one's vector will be |
//! | ticket | a model batch on its way, wanted by any number of streams |
//! | memo | what a query remembers, so that equal texts go through the model once |
//! | space, segment | a folder of kept vectors that depend on the same; a pair of files in it |
//! | snapshot | a model's files at one moment |
//! | late | of a call: not needed yet where the plan stands, so it runs higher up |
//! | run, list, mark | a statement that writes into a folder; what it says there first; what says that it is complete |
//! | cut | of a text: longer than the model reads |
//! | precision, role | arithmetic of the encoder; which prompt goes before a text |

mod access;
pub mod cache;
#[cfg(feature = "cluster")]
pub mod cluster;
mod embedder;
mod engine;
mod error;
pub mod expr_fn;
pub mod files;
mod functions;
#[expect(unsafe_code, reason = "vector instructions are unsafe to call where the processor may lack them")]
mod kernels;
#[cfg(feature = "cluster")]
mod marked;
mod model;
pub mod models;
mod options;
mod plan;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod program;
mod session;
#[cfg(feature = "stages")]
#[doc(hidden)]
pub mod stages;
mod state;

pub use access::{Access, Download, Event};
pub use embedder::Embedder;
pub use engine::Counts;
pub use error::Error;
pub use options::{Device, EmbedOptions, Precision, parse_size};
#[cfg(feature = "cluster")]
pub use plan::EmbedCodec;
pub use plan::{EmbedPlanner, Expected, create_logical_plan, reset_settings, sql_to_statement};
pub use session::SessionOptions;

use std::sync::Arc;

use datafusion::error::Result;
use datafusion::prelude::SessionContext;

use engine::{Session, SessionEntry};
use functions::{Embed, Settings};

/// Puts `embed` and its sisters into a session, with the settings that it has already or their defaults.
///
/// Changes no `datafusion.*` setting. Calling it again keeps the counters of `embed_models()`. Gives the names of functions of
/// the session that these took the place of, and logs them.
///
/// A session that has DataFusion's own planner gets one that runs `embed` where the fewest rows pass, and that makes DELETE
/// and UPDATE exact, where DataFusion 55.2 changes every row of a table in memory for a condition like `WHERE false`; see
/// [`EmbedPlanner`].
pub fn register(ctx: &SessionContext) -> Result<Vec<String>> {
    let options = ctx.state_ref().read().config().options().extensions.get::<EmbedOptions>().cloned();
    register_with(ctx, options.unwrap_or_default())
}

/// Puts `embed` and its sisters into a session, with these settings.
///
/// ```
/// use datafusion::prelude::SessionContext;
/// use datafusion_embed::{EmbedOptions, register_with};
///
/// let ctx = SessionContext::new();
/// register_with(&ctx, EmbedOptions::default().model("BAAI/bge-small-en-v1.5"))?;
/// # datafusion::error::Result::<()>::Ok(())
/// ```
///
/// What the session may do to come by models stays as it was, see [`register_as`].
pub fn register_with(ctx: &SessionContext, options: EmbedOptions) -> Result<Vec<String>> {
    put_into(ctx, options, session_or_new(ctx))
}

/// Puts `embed` and its sisters into a session, with these settings, and says what the session may do to come by models and
/// who is told what happens meanwhile. SQL changes the settings; no SQL changes the [`Access`].
///
/// The model of `options` is the host's own choice and allowed from wherever it comes, under that very name.
pub fn register_as(ctx: &SessionContext, options: EmbedOptions, access: Access) -> Result<Vec<String>> {
    let access = access.with_own_model(&options.model);
    let session = session_or_new(ctx);
    session.set_access(access.clone());
    // Also where SQL drops the functions and the host registers again.
    ctx.state_ref().write().config_mut().set_extension(Arc::new(access));
    put_into(ctx, options, session)
}

fn put_into(ctx: &SessionContext, options: EmbedOptions, session: Arc<Session>) -> Result<Vec<String>> {
    let state = ctx.state_ref();
    let mut state = state.write();
    let extensions = &mut state.config_mut().options_mut().extensions;
    extensions.insert(options.clone());
    extensions.insert(SessionEntry(Arc::clone(&session)));
    let replaced = functions::register(&mut state, &Settings::new(options, session))?;
    for name in &replaced {
        log::warn!("datafusion-embed: the function {name} of this session is replaced by that of datafusion-embed");
    }
    plan::install(&mut state);
    Ok(replaced)
}

/// A session as the program has it: `embed` and its sisters, files by their names in FROM ([`files::reading_files`]), `read_text` and
/// `read_lines`, exports that are complete or not there, folders that are never doubled, and vectors in Parquet row groups that a
/// writer has the memory for.
///
/// A host that has a session already takes [`register`] for the functions and [`files`] for the rest.
///
/// ```
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// use datafusion_embed::SessionOptions;
///
/// let ctx = datafusion_embed::session(SessionOptions::default())?;
/// let rows = ctx.sql("SELECT title FROM 'sql/docs.parquet' LIMIT 3").await?.collect().await?;
/// assert_eq!(rows.iter().map(|batch| batch.num_rows()).sum::<usize>(), 3);
/// # datafusion::error::Result::<()>::Ok(())
/// # }).unwrap();
/// ```
pub fn session(options: SessionOptions) -> Result<SessionContext> {
    let access = options.access.clone().with_stores(options.stores.clone());
    let writes = options.writes.clone();
    let ctx = session::without_functions(options)?;
    let options = ctx.state_ref().read().config().options().extensions.get::<EmbedOptions>().cloned();
    register_as(&ctx, options.unwrap_or_default(), access)?;
    functions::average_vectors(&mut ctx.state_ref().write())?;
    // Around the planner that the functions have brought.
    files::install(&mut ctx.state_ref().write(), &writes);
    #[cfg(feature = "cluster")]
    cluster::install(&mut ctx.state_ref().write());
    Ok(ctx)
}

/// Makes every embed call that runs in this session stop soon: workers look between the layers of a model. The calls
/// return [`Error::Cancelled`]; calls that begin later are not touched.
///
/// DataFusion stops a query between record batches, and one record batch can take a model minutes: this is for a program
/// whose user does not want to wait that long.
pub fn cancel(ctx: &SessionContext) {
    if let Some(session) = session_of(ctx) {
        session.cancel();
    }
}

/// What the embed functions have done in this session so far, all models together: for a program that shows how far a query
/// is. `embed_models()` has the same numbers by model, and the metrics of an `EmbedExec` by query.
pub fn counts(ctx: &SessionContext) -> Counts {
    session_of(ctx).map(|session| session.counts()).unwrap_or_default()
}

/// The devices that this build can use.
pub fn devices() -> Vec<&'static str> {
    let built_in = [("cpu", true), ("cuda", cfg!(feature = "cuda")), ("metal", cfg!(feature = "metal"))];
    built_in.into_iter().filter(|(_, there)| *there).map(|(name, _)| name).collect()
}

/// The instructions that the CPU kernels use in this process: `avx512`, `avx2` or `portable`, followed by `+bf16` and
/// `+int8` where those precisions have instructions of their own; elsewhere matrix products are rounded alike and computed in
/// f32, and attention is f32.
///
/// The environment variable `DATAFUSION_EMBED_KERNELS` asks for a lower path by its name.
///
/// # Errors
///
/// [`Error::Setting`] if the variable names a path that this machine does not have.
pub fn kernel_path() -> std::result::Result<String, Error> {
    model::kernel_path()
}

/// The features that this build has; `bundled-model` only where the model's files were there to be compiled in.
pub fn features() -> Vec<&'static str> {
    let features = [
        ("bundled-model", model::is_bundled(options::BUNDLED_NAME)),
        ("candle", cfg!(feature = "candle")),
        ("cli", cfg!(feature = "cli")),
        ("cluster", cfg!(feature = "cluster")),
        ("cuda", cfg!(feature = "cuda")),
        ("hub", cfg!(feature = "hub")),
        ("metal", cfg!(feature = "metal")),
        ("stores", cfg!(feature = "stores")),
    ];
    features.into_iter().filter(|(_, there)| *there).map(|(name, _)| name).collect()
}

/// The session of this context, or a new one with the access that the host gave.
fn session_or_new(ctx: &SessionContext) -> Arc<Session> {
    session_of(ctx).unwrap_or_else(|| {
        let session = Session::default();
        if let Some(access) = ctx.state_ref().read().config().get_extension::<Access>() {
            session.set_access(access.as_ref().clone());
        }
        Arc::new(session)
    })
}

/// The session that [`register`] gave this context.
fn session_of(ctx: &SessionContext) -> Option<Arc<Session>> {
    let state = ctx.state_ref();
    let state = state.read();
    let function = state.scalar_functions().get("embed")?;
    let embed = function.inner().downcast_ref::<Embed>()?;
    Some(Arc::clone(embed.session()))
}

/// The Rust of the README compiles and runs.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
