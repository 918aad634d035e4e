//! The program embedsql; what it does is the library's module `program`.

use std::process::ExitCode;

use mimalloc::MiMalloc;

/// See its line in Cargo.toml.
#[global_allocator]
static MEMORY: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    datafusion_embed::program::main(std::env::args_os()).into()
}
