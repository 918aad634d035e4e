//! The extension module `datafusion_embed._native`: what of the Python package is not Python.
//!
//! | file | what |
//! |---|---|
//! | `errors.rs` | errors of the library as exceptions |
//! | `waiting.rs` | work without the GIL, that Ctrl-C stops |
//! | `model.rs` | a model: texts to a NumPy array |
//! | `connection.rs` | a session: SQL to results |
//! | `results.rs` | results as Arrow's C stream |

mod connection;
mod errors;
mod model;
mod results;
mod waiting;

use std::ffi::OsString;

use pyo3::prelude::*;

/// The parts of the package that are compiled.
#[pymodule]
mod _native {
    use super::*;

    #[pymodule_export]
    use super::connection::Connection;
    #[pymodule_export]
    use super::model::Model;
    #[pymodule_export]
    use super::results::Results;

    /// Runs the program embedsql with a command line, its own name first, and gives its exit code.
    #[pyfunction]
    fn run_program(py: Python<'_>, line: Vec<OsString>) -> u8 {
        py.detach(|| datafusion_embed::program::main(line))
    }

    /// What `datafusion_embed.__version__` says.
    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
