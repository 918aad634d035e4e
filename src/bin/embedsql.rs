//! The program embedsql; what it does is the library's module `program`.

use std::process::ExitCode;

fn main() -> ExitCode {
    datafusion_embed::program::main(std::env::args_os()).into()
}
