//! `embedsql data.parquet`: a first look at a file, and the query that would embed it.

use datafusion::arrow::datatypes::Schema;

use super::complete::quoted;
use super::failure::Failure;
use super::job::Job;
use super::script::{Text, run_text};

/// Names that columns of texts often have, the likeliest first.
const LIKELY: [&str; 8] = ["body", "text", "content", "document", "description", "abstract", "message", "title"];

/// Columns, number of rows, the first rows, and what to type next.
pub(super) async fn look(job: Job, file: String) -> Result<(), Failure> {
    let name = format!("'{}'", file.replace('\'', "''"));
    let first = format!("DESCRIBE {name}; SELECT count(*) AS rows FROM {name}; SELECT * FROM {name} LIMIT 3;");
    run_text(job.clone(), Text::own(first)).await?;
    let frame = job.ctx.sql(&format!("SELECT * FROM {name} LIMIT 0")).await?;
    let next = text_column(frame.schema().as_arrow()).map_or_else(String::new, |column| {
        format!("-- next: SELECT *, embed({}) AS vector FROM {name} LIMIT 3;\n", quoted(column))
    });
    job.write(next.as_bytes())
}

/// The column that is most likely what somebody wants to embed.
fn text_column(schema: &Schema) -> Option<&str> {
    let texts =
        || schema.fields().iter().filter(|field| field.data_type().is_string()).map(|field| field.name().as_str());
    let likely = LIKELY.iter().find_map(|likely| texts().find(|name| name.eq_ignore_ascii_case(likely)));
    likely.or_else(|| texts().next())
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::datatypes::{DataType, Field};

    use super::*;

    #[test]
    fn texts_are_known_by_their_names() {
        let column = |names: &[&str]| {
            let texts = names.iter().map(|name| Field::new(*name, DataType::Utf8View, true));
            let number = Field::new("body", DataType::Int64, true);
            text_column(&Schema::new(std::iter::once(number).chain(texts).collect::<Vec<_>>())).map(str::to_owned)
        };
        assert_eq!(column(&["lang", "title", "Text"]).as_deref(), Some("Text"));
        assert_eq!(column(&["lang", "other"]).as_deref(), Some("lang"));
        assert_eq!(column(&[]), None);
    }
}
