//! Errors of the library as exceptions of Python, with the same one line.

use datafusion::error::DataFusionError;
use datafusion_embed::Error;
use pyo3::PyErr;
use pyo3::exceptions::{
    PyFileNotFoundError, PyKeyboardInterrupt, PyNotImplementedError, PyOSError, PyRuntimeError, PyValueError,
};

/// `ValueError` for what a caller has written, `OSError` for what lies somewhere, `RuntimeError` for the rest.
pub(crate) fn of_embed(error: &Error) -> PyErr {
    let line = error.to_string();
    match error {
        Error::Setting(_) | Error::Limit { .. } | Error::Text(_) => PyValueError::new_err(line),
        Error::Model(_) | Error::Write(_) | Error::Read(_) => PyOSError::new_err(line),
        Error::Cancelled => PyKeyboardInterrupt::new_err(line),
        _ => PyRuntimeError::new_err(line),
    }
}

/// The same for a statement.
pub(crate) fn of_query(error: &DataFusionError) -> PyErr {
    let root = error.find_root();
    if let DataFusionError::External(inner) = root
        && let Some(error) = inner.downcast_ref::<Error>()
    {
        return of_embed(error);
    }
    let line = one_line(error);
    match root {
        // A name that ends like a file's is looked for as a table first.
        DataFusionError::Plan(_) if line.starts_with("file ") && line.contains("not found") => {
            PyFileNotFoundError::new_err(line)
        }
        DataFusionError::SQL(..)
        | DataFusionError::Plan(_)
        | DataFusionError::SchemaError(..)
        | DataFusionError::Configuration(_) => PyValueError::new_err(line),
        DataFusionError::NotImplemented(_) => PyNotImplementedError::new_err(line),
        DataFusionError::IoError(_) | DataFusionError::ObjectStore(_) => PyOSError::new_err(line),
        _ => PyRuntimeError::new_err(line),
    }
}

/// As the program says it.
fn one_line(error: &DataFusionError) -> String {
    datafusion_embed::program::one_line(error)
}
