//! `-o`: what was measured, for people and for programs.

use super::table::Table;
use crate::cli::output;
use anyhow::Result;
use serde_json::{Map, Value};

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Table,
    Md,
    Csv,
    Json,
    Jsonl,
}

/// A report: `origin` and `rows` for programs, the table and its notes for people.
pub struct Report {
    pub origin: Value,
    pub rows: Vec<Value>,
    pub head: String,
    pub table: Table,
    pub notes: String,
}

impl Report {
    pub fn print(self, format: Format) -> Result<()> {
        let Report { head, notes, .. } = &self;
        match format {
            Format::Table => output::print(format_args!("{head}\n\n{}\n{notes}", self.table.text()))?,
            Format::Md => output::print(format_args!("{head}\n\n{}\n{notes}", self.table.markdown()))?,
            Format::Csv => output::print(format_args!("{}", csv(&self.rows)))?,
            Format::Json => {
                let mut all = self.origin;
                all["rows"] = Value::Array(self.rows);
                output::print_json(&all)?;
            }
            Format::Jsonl => {
                for row in &self.rows {
                    output::print(format_args!("{row}\n"))?;
                }
            }
        }
        Ok(())
    }
}

/// A line a row; fields of fields are named with a dot.
fn csv(rows: &[Value]) -> String {
    let flat: Vec<Map<String, Value>> = rows.iter().map(|row| flatten("", row)).collect();
    let Some(first) = flat.first() else { return String::new() };
    let names: Vec<String> = first.keys().cloned().collect();
    let cell = |value: Option<&Value>| match value {
        Some(Value::String(text)) if text.contains([',', '"', '\n']) => format!("\"{}\"", text.replace('"', "\"\"")),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => String::new(),
        Some(value) => value.to_string(),
    };
    let lines = flat.iter().map(|row| names.iter().map(|name| cell(row.get(name))).collect::<Vec<_>>().join(","));
    std::iter::once(names.join(",")).chain(lines).map(|line| line + "\n").collect()
}

fn flatten(before: &str, value: &Value) -> Map<String, Value> {
    let mut flat = Map::new();
    for (key, value) in value.as_object().into_iter().flatten() {
        match value {
            Value::Object(_) => flat.extend(flatten(&format!("{before}{key}."), value)),
            value => drop(flat.insert(format!("{before}{key}"), value.clone())),
        }
    }
    flat
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn csv_quotes_and_flattens() {
        let rows = [json!({"name": "a,b", "figure": {"mean": 1.5}}), json!({"name": "c", "figure": {"mean": 2}})];
        assert_eq!(super::csv(&rows), "name,figure.mean\n\"a,b\",1.5\nc,2\n");
    }
}
