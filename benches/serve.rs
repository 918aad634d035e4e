//! Many small searches at once: how many a second, and how long one takes.
//!
//! The search: `SELECT title FROM docs ORDER BY cosine_similarity(v, embed_query('...')) DESC LIMIT 5` over 320 vectors in memory, each
//! time with another text, from N tasks on a runtime of as many threads as there are cores. In the same run: the same query with a
//! stored vector in the place of the call (*c*, its core time), a text in bulk (*b*, its core time), the encoding of such a text alone,
//! and searches beside an export that keeps all cores busy. *of the limit* is rate x (b + c) / cores, and beside the export what the
//! searches take of the cores. Times are medians and 99th percentiles of all queries of a line.
//!
//! Left out: the network, and the client of a server.
//!
//! `cargo bench --bench serve -- --precision f32,int8 --queries 2000 --clients 1,16,64`

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use std::{env, thread};

use datafusion::arrow::array::AsArray;
use datafusion::arrow::datatypes::Int64Type;
use datafusion::datasource::MemTable;
use datafusion::error::Result;
use datafusion::physical_plan::collect;
use datafusion::prelude::SessionContext;
use datafusion_embed::{SessionOptions, session};

mod account;
use account::account;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().collect();
    let value = |name: &str| arguments.iter().position(|a| a == name).and_then(|at| arguments.get(at + 1)).cloned();
    // `cargo bench` passes --bench; without it this is a test run that only has to work.
    let bench = arguments.iter().any(|argument| argument == "--bench");
    let queries = value("--queries").map_or(if bench { 2000 } else { 4 }, |n| n.parse().expect("--queries N"));
    let clients = value("--clients").unwrap_or_else(|| if bench { "1,16,64" } else { "2" }.to_owned());
    let precisions = value("--precision").unwrap_or_else(|| if bench { "f32,int8" } else { "int8" }.to_owned());
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(cores).enable_all().build().expect("runtime");
    for precision in precisions.split(',') {
        let clients: Vec<usize> = clients.split(',').map(|n| n.parse().expect("--clients N,N")).collect();
        let measured =
            runtime.block_on(async { Searches::new(precision, queries).await?.all(&clients, cores, bench).await });
        if let Err(error) = measured {
            print(&format!("{error}"));
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// Searches of one precision.
struct Searches {
    ctx: SessionContext,
    precision: String,
    queries: usize,
    /// The next text has this number: none comes twice.
    next: AtomicUsize,
}

impl Searches {
    async fn new(precision: &str, queries: usize) -> Result<Self> {
        let ctx = with_precision(precision)?;
        let table =
            "CREATE TABLE docs AS SELECT title, body, embed(body) AS v FROM 'sql/docs.parquet' WHERE body IS NOT NULL";
        ctx.sql(table).await?.collect().await?;
        Ok(Self { ctx, precision: precision.to_owned(), queries, next: AtomicUsize::new(0) })
    }

    fn text(&self) -> String {
        format!("how to find thing number {} in the garden", self.next.fetch_add(1, Ordering::Relaxed))
    }

    async fn search(&self, vector: &str) -> Result<()> {
        let sql = format!("SELECT title FROM docs ORDER BY cosine_similarity(v, {vector}) DESC LIMIT 5");
        let rows = self.ctx.sql(&sql).await?.collect().await?;
        assert_eq!(rows.iter().map(|batch| batch.num_rows()).sum::<usize>(), 5, "rows of a search");
        Ok(())
    }

    async fn all(self, clients: &[usize], cores: usize, bench: bool) -> Result<()> {
        let this = Arc::new(self);
        this.search(&format!("embed_query('{}')", this.text())).await?;
        let stored = this.stored().await?;
        let bulk = this.bulk(cores).await?;
        let lone = this.lone().await?;
        print(&format!(
            "{}, kernels {}, {cores} cores: c = {:.3} ms, b = {:.3} ms, a text alone {:.3} ms\n",
            this.precision,
            datafusion_embed::kernel_path().expect("kernels"),
            stored * 1e3,
            bulk * 1e3,
            lone * 1e3
        ));
        print(&format!(
            "{}\n\n| clients | searches/s | of the limit | p50 ms | p99 ms |\n|---|---|---|---|---|",
            this.costs().await?
        ));
        for &clients in clients {
            let (rate, times) = Arc::clone(&this).from(clients).await?;
            print(&line(&clients.to_string(), rate, rate * (bulk + stored) / cores as f64, &times));
        }
        let alone = this.export_alone().await?;
        let (busy, rate, times) = Arc::clone(&this).beside_export(bench).await?;
        let taken = rate * this.on_one_core().await? / cores as f64;
        print(&line("1, beside an export", rate, taken, &times));
        print(&format!(
            "\nthe export: {:.3} of its speed alone, and the searches took {taken:.3} of the cores\n",
            alone / busy
        ));
        if bench {
            let before = account("self", "VmRSS");
            Arc::clone(&this).from(16).await?;
            print(&format!(
                "memory: {before:.0} MiB, after {} more searches {:.0} MiB\n",
                this.queries,
                account("self", "VmRSS")
            ));
        }
        Ok(())
    }

    /// Core time of a search with a stored vector.
    async fn stored(&self) -> Result<f64> {
        let before = account("self", "cpu");
        for _ in 0..self.queries {
            self.search("(SELECT v FROM docs LIMIT 1)").await?;
        }
        Ok((account("self", "cpu") - before) / self.queries as f64)
    }

    /// Where the time of a search with a stored vector goes; and of a query of that shape without us, here and in a session of
    /// DataFusion alone.
    async fn costs(&self) -> Result<String> {
        let rows = self.ctx.sql("SELECT title FROM docs").await?.collect().await?;
        let plain = SessionContext::new();
        plain.register_table("docs", Arc::new(MemTable::try_new(rows[0].schema(), vec![rows])?))?;
        let search = "SELECT title FROM docs ORDER BY cosine_similarity(v, (SELECT v FROM docs LIMIT 1)) DESC LIMIT 5";
        let other = "SELECT title FROM docs ORDER BY reverse(title) DESC LIMIT 5";
        let mut lines = Vec::new();
        for (what, ctx, sql) in [
            ("a search with a stored vector", &self.ctx, search),
            ("ORDER BY reverse(title)", &self.ctx, other),
            ("the same in DataFusion alone", &plain, other),
        ] {
            let mut times: [Vec<Duration>; 3] = Default::default();
            for _ in 0..self.queries {
                let began = Instant::now();
                let analysed = ctx.sql(sql).await?;
                let parsed = began.elapsed();
                let plan = analysed.create_physical_plan().await?;
                let planned = began.elapsed();
                collect(plan, ctx.task_ctx()).await?;
                let all = [parsed, planned - parsed, began.elapsed() - planned];
                times.iter_mut().zip(all).for_each(|(times, time)| times.push(time));
            }
            let [parsed, planned, run] = times.map(|mut times| {
                times.sort();
                times[times.len() / 2].as_secs_f64() * 1e3
            });
            lines.push(format!("{what}: parsed {parsed:.3} ms, planned {planned:.3}, run {run:.3}"));
        }
        Ok(lines.join("\n"))
    }

    /// Core time of such a text among many.
    async fn bulk(&self, cores: usize) -> Result<f64> {
        let texts = "concat('how to find thing number ', 1000000 + value, ' in the garden')";
        let sql = format!("SELECT count(embed_query({texts})) FROM generate_series(1, {})", self.queries);
        let began = Instant::now();
        self.ctx.sql(&sql).await?.collect().await?;
        Ok(began.elapsed().as_secs_f64() * cores as f64 / self.queries as f64)
    }

    /// Core time of a search whose text one core encodes alone.
    async fn on_one_core(&self) -> Result<f64> {
        self.ctx.sql("SET embed.concurrency = 1").await?.collect().await?;
        let before = account("self", "cpu");
        for _ in 0..self.queries {
            self.search(&format!("embed_query('{}')", self.text())).await?;
        }
        let taken = (account("self", "cpu") - before) / self.queries as f64;
        self.ctx.sql("SET embed.concurrency = 0").await?.collect().await?;
        Ok(taken)
    }

    /// Time of such a text alone, the rest of a query not counted.
    async fn lone(&self) -> Result<f64> {
        let encoding = "SELECT CAST(sum(encode_ms) AS BIGINT) FROM embed_models()";
        let number = async || -> Result<i64> {
            let rows = self.ctx.sql(encoding).await?.collect().await?;
            Ok(rows[0].column(0).as_primitive::<Int64Type>().value(0))
        };
        let before = number().await?;
        for _ in 0..self.queries {
            self.ctx.sql(&format!("SELECT embed_query('{}')", self.text())).await?.collect().await?;
        }
        Ok((number().await? - before) as f64 / 1e3 / self.queries as f64)
    }

    /// Searches from so many clients: how many a second, and the time of each.
    async fn from(self: Arc<Self>, clients: usize) -> Result<(f64, Vec<Duration>)> {
        let left = Arc::new(AtomicUsize::new(self.queries));
        let began = Instant::now();
        let tasks: Vec<_> = (0..clients)
            .map(|_| {
                let (this, left) = (Arc::clone(&self), Arc::clone(&left));
                tokio::spawn(async move {
                    let mut times = Vec::new();
                    while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                        let began = Instant::now();
                        this.search(&format!("embed_query('{}')", this.text())).await?;
                        times.push(began.elapsed());
                    }
                    Ok::<_, datafusion::error::DataFusionError>(times)
                })
            })
            .collect();
        let mut times = Vec::new();
        for task in tasks {
            times.extend(task.await.expect("a task")?);
        }
        Ok((times.len() as f64 / began.elapsed().as_secs_f64(), times))
    }

    /// An export that keeps all cores busy.
    async fn export(ctx: &SessionContext) -> Result<f64> {
        let folder = tempfile::tempdir()?;
        let out = folder.path().join("vectors.parquet").display().to_string();
        let texts = "SELECT embed(concat(body, value)) AS v FROM 'sql/docs.parquet' CROSS JOIN generate_series(1, 3) AS t(value)";
        let began = Instant::now();
        ctx.sql(&format!("COPY ({texts}) TO '{out}'")).await?.collect().await?;
        Ok(began.elapsed().as_secs_f64())
    }

    async fn export_alone(&self) -> Result<f64> {
        Self::export(&with_precision(&self.precision)?).await
    }

    /// Searches one after the other beside an export of another session: its time, and theirs.
    async fn beside_export(self: Arc<Self>, bench: bool) -> Result<(f64, f64, Vec<Duration>)> {
        let ctx = with_precision(&self.precision)?;
        let export = tokio::spawn(async move { Self::export(&ctx).await });
        let (began, mut times) = (Instant::now(), Vec::new());
        while !export.is_finished() && (bench || times.len() < 2) {
            let began = Instant::now();
            self.search(&format!("embed_query('{}')", self.text())).await?;
            times.push(began.elapsed());
        }
        let rate = times.len() as f64 / began.elapsed().as_secs_f64();
        Ok((export.await.expect("a task")?, rate, times))
    }
}

fn with_precision(precision: &str) -> Result<SessionContext> {
    let mut options = SessionOptions::default();
    options.config.options_mut().set("embed.precision", precision)?;
    session(options)
}

fn line(clients: &str, rate: f64, share: f64, times: &[Duration]) -> String {
    let mut times: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e3).collect();
    times.sort_by(f64::total_cmp);
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
    format!("| {clients} | {rate:.0} | {share:.2} | {:.2} | {:.2} |", at(0.5), at(0.99))
}

#[expect(clippy::print_stdout, reason = "a bench shows its numbers")]
fn print(text: &str) {
    println!("{text}");
}
