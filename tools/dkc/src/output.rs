//! Printing keys and counts.

use crate::args::Format;
use crate::keys::escape;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use dkc::client::request_id::RequestId;
use dkc::client::resolved::{Fate, Resolved};
use dkc::wire::client::{Resolution, ResolvedPart};
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::io::{self, Write};

/// A key and its count; `None` if it does not exist.
pub(crate) struct Row<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) count: Option<i64>,
}

/// Prints the answer to a question about one key.
pub(crate) fn write_one(out: &mut impl Write, format: Format, row: &Row<'_>) -> io::Result<()> {
    match format {
        Format::Text => writeln!(out, "{}", row.count.unwrap_or(0)),
        Format::Json => writeln!(out, "{}", json_of(row)),
        Format::Csv => write_csv(out, row),
    }
}

/// Prints the answer to a question about any number of keys.
pub(crate) fn write_many(out: &mut impl Write, format: Format, rows: &[Row<'_>]) -> io::Result<()> {
    match format {
        Format::Text => rows.iter().try_for_each(|row| write_text(out, row)),
        Format::Json => writeln!(out, "{}", rows.iter().map(json_of).collect::<Value>()),
        Format::Csv => rows.iter().try_for_each(|row| write_csv(out, row)),
    }
}

/// Prints a key and its count as one line among many of their kind.
pub(crate) fn write_line(out: &mut impl Write, format: Format, row: &Row<'_>) -> io::Result<()> {
    match format {
        Format::Text => write_text(out, row),
        Format::Json => writeln!(out, "{}", json_of(row)),
        Format::Csv => write_csv(out, row),
    }
}

fn write_text(out: &mut impl Write, row: &Row<'_>) -> io::Result<()> {
    writeln!(out, "{}\t{}", escape(row.key), row.count.unwrap_or(0))
}

fn write_csv(out: &mut impl Write, row: &Row<'_>) -> io::Result<()> {
    writeln!(out, "{},{}", csv_field(&escape(row.key)), row.count.unwrap_or(0))
}

fn json_of(row: &Row<'_>) -> Value {
    let mut object = Map::new();
    match str::from_utf8(row.key) {
        Ok(key) => object.insert("key".to_owned(), json!(key)),
        Err(_) => object.insert("key_base64".to_owned(), json!(STANDARD.encode(row.key))),
    };
    object.insert("count".to_owned(), json!(row.count.unwrap_or(0)));
    object.insert("found".to_owned(), json!(row.count.is_some()));
    Value::Object(object)
}

/// Prints what became of a request: for people a sentence, as CSV a line for each shard.
pub(crate) fn write_resolved(
    out: &mut impl Write,
    format: Format,
    id: &RequestId,
    resolved: &Resolved,
) -> io::Result<()> {
    let word = |resolution: Resolution| match resolution {
        Resolution::Applied => "applied",
        Resolution::Fenced => "not applied",
        Resolution::Forgotten => "forgotten",
    };
    let of = id.increments;
    match format {
        Format::Text => match resolved.fate {
            Fate::Applied { overflowed: 0 } => writeln!(out, "applied"),
            Fate::Applied { overflowed } => {
                writeln!(out, "applied, but for {overflowed} of {of} increments that would have overflowed")
            }
            Fate::NotApplied => writeln!(out, "not applied, and never will be"),
            Fate::Partly { applied, overflowed } => writeln!(
                out,
                "{applied} of {of} increments were decided, {overflowed} of those overflowed; the others never will be applied"
            ),
            Fate::Forgotten => writeln!(out, "forgotten: its sender had the answer"),
        },
        Format::Json => {
            let (fate, applied, overflowed) = match resolved.fate {
                Fate::Applied { overflowed } => ("applied", of, overflowed),
                Fate::NotApplied => ("not applied", 0, 0),
                Fate::Partly { applied, overflowed } => ("partly applied", applied, overflowed),
                Fate::Forgotten => ("forgotten", 0, 0),
            };
            let part = |part: &ResolvedPart| {
                json!({
                    "shard": part.shard.0,
                    "resolution": word(part.resolution),
                    "index": part.applied_index.0,
                    "first_position": part.first_position,
                    "increments": part.increments,
                    "overflowed": part.overflowed,
                })
            };
            let parts: Value = resolved.parts.iter().map(part).collect();
            let (applied, of) = (json!(applied), json!(of));
            writeln!(
                out,
                "{}",
                json!({"fate": fate, "decided": applied, "increments": of, "overflowed": overflowed, "parts": parts})
            )
        }
        Format::Csv => resolved.parts.iter().try_for_each(|part| {
            let ResolvedPart { shard, applied_index, first_position, increments, overflowed, .. } = part;
            let resolution = word(part.resolution);
            writeln!(out, "{shard},{resolution},{applied_index},{first_position},{increments},{overflowed}")
        }),
    }
}

/// A field of a CSV line, quoted where RFC 4180 asks for it.
pub(crate) fn csv_field(field: &str) -> Cow<'_, str> {
    if field.contains([',', '"', '\r', '\n']) {
        Cow::Owned(format!("\"{}\"", field.replace('"', "\"\"")))
    } else {
        Cow::Borrowed(field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(format: Format, rows: &[Row<'_>]) -> String {
        let mut out = Vec::new();
        match rows {
            [row] => write_one(&mut out, format, row),
            rows => write_many(&mut out, format, rows),
        }
        .expect("a Vec takes everything");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn one_key_is_a_bare_number() {
        let row = [Row { key: b"a", count: Some(-3) }];
        assert_eq!(printed(Format::Text, &row), "-3\n");
        assert_eq!(printed(Format::Csv, &row), "a,-3\n");
        assert_eq!(printed(Format::Json, &row), "{\"count\":-3,\"found\":true,\"key\":\"a\"}\n");
    }

    #[test]
    fn several_keys_are_a_line_each() {
        let rows = [Row { key: b"a b", count: Some(7) }, Row { key: b"\xff\\", count: None }];
        assert_eq!(printed(Format::Text, &rows), "a b\t7\n\\xff\\\\\t0\n");
        assert_eq!(printed(Format::Csv, &rows), "a b,7\n\\xff\\\\,0\n");
        assert_eq!(
            printed(Format::Json, &rows),
            "[{\"count\":7,\"found\":true,\"key\":\"a b\"},{\"count\":0,\"found\":false,\"key_base64\":\"/1w=\"}]\n"
        );
        assert_eq!(printed(Format::Json, &[]), "[]\n");
        assert_eq!(printed(Format::Csv, &[]), "");
    }

    #[test]
    fn csv_fields_are_quoted_where_needed() {
        assert_eq!(csv_field("plain key"), "plain key");
        assert_eq!(csv_field("a,b"), "\"a,b\"");
        assert_eq!(csv_field("say \"hi\""), "\"say \"\"hi\"\"\"");
        assert_eq!(csv_field("two\nlines"), "\"two\nlines\"");
    }
}
