//! The whole path: `COPY (SELECT id, embed(body) FROM 'x.parquet') TO 'y.parquet'`, rows/s, tokens/s and peak memory.
//!
//! Cost of a row = its tokens x 21.23 MFLOP (matrix products of all-MiniLM-L6-v2) + attention, which grows with the square
//! of a text's tokens + what DataFusion and Parquet need, which is far below one per cent. So a result is also given as a
//! share of the machine's *f32 limit*: f32 products of 4096 x 384 x 1536, one independent product per thread, the faster of
//! the `gemm` crate and this crate's kernel, best of 30, measured in the same run. That is what the machine reaches for a
//! fiftieth of a second; the share in brackets is of the mean of 200 such products, which is what it keeps up. Tokens are
//! real ones: there is no padding.
//!
//! Every line is a process of its own, with `embed.concurrency` and `target_partitions` set to its threads; the model is
//! loaded before the clock starts, the file is read and written inside it. The median of `--repeat` runs is shown.
//! Left out: the start of the process, the network, and rivals.
//!
//! `cargo bench --bench sql -- --file docs.parquet --rows 2000 --threads 1,2 --repeat 3`

use std::process::{Command, ExitCode};
use std::sync::Barrier;
use std::time::Instant;
use std::{env, thread};

use datafusion::arrow::array::AsArray;
use datafusion::arrow::datatypes::Int64Type;
use datafusion::error::Result;
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion_embed::stages::Product;

mod account;
use account::account;

/// Matrix products of one token through all-MiniLM-L6-v2: 6 layers x 2 x (4 x 384 x 384 + 2 x 384 x 1536).
const FLOP_PER_TOKEN: f64 = 21.23e6;

/// What a child process measured.
struct Measured {
    seconds: f64,
    tokens: i64,
    peak_mib: f64,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().collect();
    let value = |name: &str| arguments.iter().position(|a| a == name).and_then(|at| arguments.get(at + 1)).cloned();
    // `cargo bench` passes --bench; without it this is a test run that only has to work.
    let bench = arguments.iter().any(|argument| argument == "--bench");
    let file = value("--file").unwrap_or_else(|| "sql/docs.parquet".to_owned());
    let rows: usize = value("--rows").map_or(if bench { 320 } else { 4 }, |rows| rows.parse().expect("--rows N"));
    if let Some(threads) = value("--child") {
        return child(&file, rows, threads.parse().expect("--child N"), &value("--precision").expect("--precision"));
    }
    let threads = value("--threads").unwrap_or_else(|| "1,2".to_owned());
    let precisions = value("--precision").unwrap_or_else(|| "f32".to_owned());
    let repeat: usize = value("--repeat").map_or(if bench { 3 } else { 1 }, |n| n.parse().expect("--repeat N"));

    let mut out = String::from(
        "| precision | threads | rows/s | tokens/s | share of f32 limit | limit GFLOP/s | peak MiB |\n|---|---|---|---|---|---|---|\n",
    );
    for threads in threads.split(',').map(|n| n.parse::<usize>().expect("--threads N,N")) {
        let limit = f32_limit(threads, bench);
        for precision in precisions.split(',') {
            let runs: Option<Vec<_>> = (0..repeat).map(|_| in_child(&file, rows, threads, precision)).collect();
            let Some(mut runs) = runs else { return ExitCode::FAILURE };
            runs.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
            let Measured { seconds, tokens, peak_mib } = runs.swap_remove(runs.len() / 2);
            let per_second = tokens as f64 / seconds;
            out += &format!(
                "| {precision} | {threads} | {:.1} | {per_second:.0} | {:.2} ({:.2}) | {:.0} ({:.0}) | {peak_mib:.0} |\n",
                rows as f64 / seconds,
                per_second * FLOP_PER_TOKEN / limit.best,
                per_second * FLOP_PER_TOKEN / limit.mean,
                limit.best / 1e9,
                limit.mean / 1e9,
            );
        }
    }
    print(&format!(
        "{file}, first {rows} rows, kernels {}\n\n{out}",
        datafusion_embed::kernel_path().expect("kernels")
    ));
    ExitCode::SUCCESS
}

/// Runs one measurement in a process of its own, so that memory and threads are its own.
fn in_child(file: &str, rows: usize, threads: usize, precision: &str) -> Option<Measured> {
    let program = env::current_exe().expect("this program has a path");
    let (rows, threads) = (rows.to_string(), threads.to_string());
    let arguments = ["--file", file, "--rows", &rows, "--child", &threads, "--precision", precision];
    let output = Command::new(program).args(arguments).output().expect("a child process");
    let text = String::from_utf8_lossy(&output.stdout);
    let numbers: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    match (output.status.success(), &numbers[..]) {
        (true, &[seconds, tokens, peak_mib]) => Some(Measured { seconds, tokens: tokens as i64, peak_mib }),
        _ => {
            print(&format!("child failed: {text}{}", String::from_utf8_lossy(&output.stderr)));
            None
        }
    }
}

fn child(file: &str, rows: usize, threads: usize, precision: &str) -> ExitCode {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build().expect("runtime");
    match runtime.block_on(export(file, rows, threads, precision)) {
        Ok(Measured { seconds, tokens, peak_mib }) => {
            print(&format!("{seconds} {tokens} {peak_mib}\n"));
            ExitCode::SUCCESS
        }
        Err(error) => {
            print(&format!("{error}\n"));
            ExitCode::FAILURE
        }
    }
}

async fn export(file: &str, rows: usize, threads: usize, precision: &str) -> Result<Measured> {
    let directory = tempfile::tempdir()?;
    let out = directory.path().join("vectors.parquet").display().to_string();
    let config = SessionConfig::new().with_target_partitions(threads);
    let ctx = SessionContext::new_with_config(config).enable_url_table();
    datafusion_embed::register(&ctx)?;
    ctx.sql(&format!("SET embed.precision = '{precision}'")).await?;
    ctx.sql("SET datafusion.execution.parquet.max_row_group_size = 20000").await?;
    ctx.sql("SELECT embed('load the model')").await?.collect().await?;
    let tokens = "SELECT sum(tokens) FROM embed_models()";
    let before = number(&ctx, tokens).await?;
    let start = Instant::now();
    let copy = format!("COPY (SELECT id, embed(body) AS vector FROM '{file}' LIMIT {rows}) TO '{out}'");
    ctx.sql(&copy).await?.collect().await?;
    let seconds = start.elapsed().as_secs_f64();
    let written = number(&ctx, &format!("SELECT count(*) FROM '{out}'")).await?;
    assert_eq!(written, rows as i64, "every row is written");
    Ok(Measured { seconds, tokens: number(&ctx, tokens).await? - before, peak_mib: account("self", "VmHWM") })
}

async fn number(ctx: &SessionContext, sql: &str) -> Result<i64> {
    let batches = ctx.sql(sql).await?.collect().await?;
    Ok(batches[0].column(0).as_primitive::<Int64Type>().value(0))
}

/// FLOP/s of f32 products.
struct Limit {
    /// Of the fastest of the first 30.
    best: f64,
    /// Of 200 in a row.
    mean: f64,
}

/// What f32 products reach on this many threads.
fn f32_limit(threads: usize, bench: bool) -> Limit {
    const SHAPE: (usize, usize, usize) = (4096, 384, 1536);
    let (m, k, n) = SHAPE;
    let flop = 2.0 * (m * k * n * threads) as f64;
    let rounds = if bench { 200 } else { 1 };
    let ours = seconds_of(threads, rounds, || {
        let mut product = Product::new(m, k, n).expect("kernels");
        move || product.run()
    });
    let gemm = seconds_of(threads, rounds, || {
        let (a, b, mut c) = (vec![0.5f32; m * k], vec![0.5f32; k * n], vec![0.0f32; m * n]);
        move || multiply_with_gemm(&a, &b, &mut c, SHAPE)
    });
    let best = |rounds: &[f64]| rounds.iter().take(30).copied().fold(f64::INFINITY, f64::min);
    let mean = |rounds: &[f64]| rounds.iter().sum::<f64>() / rounds.len() as f64;
    Limit { best: flop / best(&ours).min(best(&gemm)), mean: flop / mean(&ours).min(mean(&gemm)) }
}

/// Seconds of each round, in which every thread runs its own product once.
fn seconds_of<W: FnMut()>(threads: usize, rounds: usize, work: impl Fn() -> W + Sync) -> Vec<f64> {
    let barrier = Barrier::new(threads);
    let run = || {
        let mut work = work();
        work();
        let mut round = || {
            barrier.wait();
            let start = Instant::now();
            work();
            barrier.wait();
            start.elapsed().as_secs_f64()
        };
        (0..rounds).map(|_| round()).collect::<Vec<_>>()
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        let times = workers.into_iter().map(|worker| worker.join().expect("a worker"));
        times.reduce(|a, b| a.iter().zip(b).map(|(a, b)| a.max(b)).collect()).expect("a thread")
    })
}

#[expect(unsafe_code, reason = "the gemm crate's interface takes pointers")]
fn multiply_with_gemm(a: &[f32], b: &[f32], c: &mut [f32], (m, k, n): (usize, usize, usize)) {
    assert!(a.len() == m * k && b.len() == k * n && c.len() == m * n, "shapes");
    // SAFETY: the three matrices have the shapes that the strides describe, as was just checked.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            n as isize,
            false,
            a.as_ptr(),
            1,
            k as isize,
            b.as_ptr(),
            1,
            n as isize,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[expect(clippy::print_stdout, reason = "a bench shows its numbers")]
fn print(text: &str) {
    println!("{text}");
}
