//! What a `tokenizer.json` may not say, though the library that reads it takes it: it would stop in the middle of a text,
//! or give ids that the model has no row for.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use tokenizers::{ModelWrapper, Tokenizer};

/// Why something is refused.
type Refused = std::result::Result<(), String>;

/// The part of the text that has to be looked at before the library reads it.
#[derive(Deserialize)]
struct Head {
    model: Model,
}

#[derive(Deserialize)]
struct Model {
    #[serde(default)]
    continuing_subword_prefix: Option<String>,
    #[serde(default)]
    merges: Vec<Merge>,
}

/// A merge as old files and as new ones have it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Joined(String),
    Pair(IgnoredAny, String),
}

/// Refuses merges whose second part is shorter than the prefix that is to be taken from it.
pub(super) fn check_text(text: &str) -> Refused {
    if !text.contains("\"merges\"") || !has_prefix(text) {
        return Ok(());
    }
    // What is no tokenizer at all has its own error.
    let Ok(Head { model }) = serde_json::from_str::<Head>(text) else { return Ok(()) };
    let prefix = model.continuing_subword_prefix.unwrap_or_default();
    for merge in &model.merges {
        let second = match merge {
            Merge::Joined(both) => both.split_once(' ').map_or("", |(_, second)| second),
            Merge::Pair(_, second) => second,
        };
        if !second.starts_with(&prefix) {
            return Err(format!("merges: {second:?} does not begin with continuing_subword_prefix {prefix:?}"));
        }
    }
    Ok(())
}

/// Whether the key is there with a text in it; few tokenizers have one, and their files are large.
fn has_prefix(text: &str) -> bool {
    let mut values = text.split("\"continuing_subword_prefix\"").skip(1);
    values.any(|value| {
        let value = value.trim_start().trim_start_matches(':').trim_start();
        value.starts_with('"') && !value.starts_with("\"\"")
    })
}

/// Refuses a part that the library stops on, and every id beyond the `rows` of the table of words.
pub(super) fn check(tokenizer: &Tokenizer, rows: usize) -> Refused {
    if let ModelWrapper::BPE(model) = tokenizer.get_model()
        && let Some(dropout) = model.dropout.filter(|dropout| *dropout != 0.0)
    {
        // Equal texts would have other tokens every time.
        return Err(format!("model: dropout \"{dropout}\" is not supported (supported: null, 0)"));
    }
    if let Some(step) = tokenizer.get_pre_tokenizer() {
        check_lengths(&serde_json::to_value(step).unwrap_or_default())?;
    }
    if let Some(processor) = tokenizer.get_post_processor() {
        check_processor(&serde_json::to_value(processor).unwrap_or_default(), rows)?;
    }
    match tokenizer.get_vocab(true).into_values().max().map(|largest| largest as usize) {
        Some(largest) if largest >= rows => Err(outside(largest, rows)),
        _ => Ok(()),
    }
}

/// The error for an id that the model has no row for.
pub(super) fn outside(id: usize, rows: usize) -> String {
    format!("token id {id} is outside the embedding table of {rows} rows (vocab_size)")
}

/// Refuses pieces of no length, wherever they are.
fn check_lengths(step: &Value) -> Refused {
    if step["type"] == "FixedLength" && step["length"] == 0 {
        return Err("pre_tokenizer: FixedLength: length \"0\" is not supported (supported: 1 or more)".to_owned());
    }
    parts(step, "pretokenizers").iter().try_for_each(check_lengths)
}

/// Refuses templates that name what is not there or do not have the text exactly once.
fn check_processor(processor: &Value, rows: usize) -> Refused {
    parts(processor, "processors").iter().try_for_each(|processor| check_processor(processor, rows))?;
    let refuse = |reason: String| Err(format!("post_processor: {reason}"));
    // BERT's and RoBERTa's: a word and its id.
    for key in ["cls", "sep"] {
        if let Some(id) = processor[key][1].as_u64().filter(|&id| id >= rows as u64) {
            return refuse(outside(id as usize, rows));
        }
    }
    let mut texts = 0;
    for piece in parts(processor, "single") {
        match (piece["Sequence"]["id"].as_str(), piece["SpecialToken"]["id"].as_str()) {
            (Some("A"), _) => texts += 1,
            (Some(other), _) => return refuse(format!("single: Sequence {other:?} is not supported (supported: A)")),
            (None, Some(name)) => check_special(&processor["special_tokens"][name], name, rows)?,
            (None, None) => {}
        }
    }
    match texts {
        1 => Ok(()),
        _ if processor["type"] != "TemplateProcessing" => Ok(()),
        other => refuse(format!("single: Sequence A comes {other} times; a text goes in once")),
    }
}

/// Refuses a special token of a template that is not described, or has ids beyond the table.
fn check_special(token: &Value, name: &str, rows: usize) -> Refused {
    let Some(ids) = token["ids"].as_array().filter(|ids| ids.len() == parts(token, "tokens").len()) else {
        return Err(format!(
            "post_processor: special_tokens lacks {name:?}, or its ids and its tokens are not as many"
        ));
    };
    let largest = ids.iter().filter_map(Value::as_u64).max().unwrap_or_default() as usize;
    if largest >= rows {
        return Err(format!("post_processor: special_tokens: {name:?}: {}", outside(largest, rows)));
    }
    Ok(())
}

fn parts<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map(Vec::as_slice).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_prefix_is_looked_for_where_there_may_be_one() {
        for text in
            ["", "{\"merges\": []}", "\"continuing_subword_prefix\": null", "\"continuing_subword_prefix\" : \"\""]
        {
            assert!(!has_prefix(text), "{text}");
        }
        assert!(has_prefix("{\"x\": 1, \"continuing_subword_prefix\" : \"##\"}"));
        let file = |merges: Value| json!({"model": {"continuing_subword_prefix": "##", "merges": merges}}).to_string();
        for fine in [json!(["a ##b"]), json!([["a", "##b"], ["##b", "##"]]), json!([])] {
            assert_eq!(check_text(&file(fine)), Ok(()));
        }
        for wrong in [json!(["a b"]), json!([["a", "##b"], ["a", "#"]]), json!(["a"])] {
            assert!(check_text(&file(wrong)).is_err_and(|reason| reason.starts_with("merges: ")));
        }
    }

    #[test]
    fn templates_name_what_is_there_and_the_text_once() {
        let template = |single: Value| {
            let known = json!({"[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]},
                               "far": {"id": "far", "ids": [10], "tokens": ["far"]},
                               "odd": {"id": "odd", "ids": [1, 2], "tokens": ["odd"]}});
            json!({"type": "TemplateProcessing", "single": single, "special_tokens": known})
        };
        let (text, token) = (json!({"Sequence": {"id": "A"}}), |name: &str| json!({"SpecialToken": {"id": name}}));
        let single = json!([token("[CLS]"), text]);
        assert_eq!(check_processor(&template(single.clone()), 10), Ok(()));
        assert_eq!(check_processor(&json!({"type": "Sequence", "processors": [template(single)]}), 10), Ok(()));
        assert_eq!(check_processor(&json!({"type": "ByteLevel"}), 10), Ok(()));
        let wrong = [
            (json!([text, text]), "comes 2 times"),
            (json!([token("[CLS]")]), "comes 0 times"),
            (json!([{"Sequence": {"id": "B"}}]), "\"B\" is not supported"),
            (json!([text, token("[SEP]")]), "lacks \"[SEP]\""),
            (json!([text, token("odd")]), "\"odd\", or its ids"),
            (json!([text, token("far")]), "\"far\": token id 10 is outside the embedding table of 10 rows"),
        ];
        for (single, words) in wrong {
            let nested = json!({"type": "Sequence", "processors": [template(single)]});
            let reason = check_processor(&nested, 10).expect_err(words);
            assert!(reason.contains(words), "{reason}");
        }
        let bert = json!({"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 11]});
        assert!(check_processor(&bert, 10).is_err_and(|reason| reason.contains("token id 11")));
    }

    #[test]
    fn pieces_have_a_length() {
        let nested = |length| json!({"type": "Sequence", "pretokenizers": [{"type": "FixedLength", "length": length}]});
        assert_eq!(check_lengths(&nested(1)), Ok(()));
        assert!(check_lengths(&nested(0)).is_err_and(|reason| reason.contains("FixedLength")));
    }
}
