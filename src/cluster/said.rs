//! What a person is to read of an error that happened on an executor: between two marks, because what a client gets of it is the debug
//! text of several layers.

use datafusion::error::DataFusionError;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

const BEGINS: &str = "embedsql-says-";
const ENDS: &str = "-embedsql-said";

/// A text between its marks.
pub(super) fn marked(text: &str) -> String {
    format!("{BEGINS}{}{ENDS}", utf8_percent_encode(text, NON_ALPHANUMERIC))
}

/// What is marked in a text, with its marks.
pub(super) fn marked_in(text: &str) -> Option<&str> {
    let begin = text.find(BEGINS)?;
    let length = text[begin..].find(ENDS)? + ENDS.len();
    Some(&text[begin..begin + length])
}

/// The error of a job that failed, as a person is to read it.
pub(super) fn told(text: &str) -> DataFusionError {
    let marked = marked_in(text).map(|text| &text[BEGINS.len()..text.len() - ENDS.len()]);
    match marked {
        Some(text) => DataFusionError::Execution(percent_decode_str(text).decode_utf8_lossy().into_owned()),
        None => DataFusionError::Execution(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use ballista_core::error::BallistaError;

    use super::*;

    #[test]
    fn an_error_comes_through_the_layers_as_it_is_to_be_read() {
        let text = "a \"quoted\" text,\nof two lines";
        let error = BallistaError::DataFusionError(Box::new(DataFusionError::Execution(marked(text))));
        let through = format!("Job failed: Task failed due to runtime execution error: {error:?}");
        assert_eq!(told(&through).strip_backtrace(), format!("Execution error: {text}"));
        assert!(told("Job failed: no executors").to_string().contains("no executors"));
        assert_eq!(marked_in(&through), Some(marked(text).as_str()));
    }
}
