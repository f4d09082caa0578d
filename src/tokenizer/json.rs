//! JSON as Python's `json.dumps` writes it, which is what models saw in training.

use std::fmt::Write;

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};

/// Values within each other. `serde_json` reads no deeper than 128.
const DEPTH: usize = 128;

/// The keyword arguments of `json.dumps`.
#[derive(Default)]
pub(super) struct Style {
    pub indent: Option<usize>,
    pub ascii: bool,
    pub sorted: bool,
    /// Between items, and after a key.
    pub separators: Option<[String; 2]>,
}

impl Style {
    pub fn write(&self, value: &Value) -> Result<String, Error> {
        let mut out = String::new();
        self.value(value, 0, &mut out)?;
        Ok(out)
    }

    fn value(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
        if depth > DEPTH {
            return Err(Error::new(ErrorKind::InvalidOperation, format!("tojson: more than {DEPTH} levels")));
        }
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number if value.is_integer() => write!(out, "{value}").expect("writes to a string"),
            ValueKind::Number => out.push_str(&float(f64::try_from(value.clone())?)),
            ValueKind::String => self.string(value.as_str().unwrap_or_default(), out),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.items('[', ']', &items, depth, out, |item, out| self.value(item, depth + 1, out))?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sorted {
                    keys.sort();
                }
                let colon = self.separators.as_ref().map_or(": ", |pair| &pair[1]);
                self.items('{', '}', &keys, depth, out, |key, out| {
                    match key.as_str() {
                        Some(text) => self.string(text, out),
                        None => self.string(&key.to_string(), out),
                    }
                    out.push_str(colon);
                    self.value(&value.get_item(key)?, depth + 1, out)
                })?;
            }
            kind => {
                return Err(Error::new(ErrorKind::InvalidOperation, format!("tojson: {kind} is not JSON")));
            }
        }
        Ok(())
    }

    fn items(
        &self,
        open: char,
        close: char,
        items: &[Value],
        depth: usize,
        out: &mut String,
        mut write: impl FnMut(&Value, &mut String) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let comma = match &self.separators {
            Some(pair) => &pair[0],
            None if self.indent.is_some() => ",",
            None => ", ",
        };
        let line = |depth: usize, out: &mut String| {
            if let Some(indent) = self.indent {
                out.push('\n');
                out.extend(std::iter::repeat_n(' ', indent * depth));
            }
        };
        out.push(open);
        for (i, item) in items.iter().enumerate() {
            if i > 0 {
                out.push_str(comma);
            }
            line(depth + 1, out);
            write(item, out)?;
        }
        if !items.is_empty() {
            line(depth, out);
        }
        out.push(close);
        Ok(())
    }

    fn string(&self, text: &str, out: &mut String) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                // Noncharacters stay: `chat` marks quotations with one of them, and takes it out again.
                '\u{fdd0}'..='\u{fdef}' => out.push(c),
                c if c < ' ' || (self.ascii && c > '~') => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        write!(out, "\\u{unit:04x}").expect("writes to a string");
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

/// Python's `repr` of a float: the shortest digits, with an exponent below 1e-4 and from 1e16 on.
fn float(x: f64) -> String {
    if x.is_nan() {
        return "NaN".to_owned();
    }
    if x.is_infinite() {
        return if x > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    if x == 0.0 || (1e-4..1e16).contains(&x.abs()) {
        return format!("{x:?}");
    }
    let scientific = format!("{x:e}");
    let (digits, exponent) = scientific.split_once('e').expect("an exponent");
    let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |exponent| ('-', exponent));
    format!("{digits}e{sign}{exponent:0>2}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn dumps(value: serde_json::Value, style: Style) -> String {
        style.write(&Value::from(minijinja::value::Serde(value))).unwrap()
    }

    // All as Python 3.12 prints them.
    #[test]
    fn writes_as_python_does() {
        let value = json!({"b": [1, -2.5, true, null], "a": {"é\u{7f}\"\\": "\n\u{1}😀"}, "e": [], "o": {}});
        assert_eq!(
            dumps(value.clone(), Style::default()),
            "{\"b\": [1, -2.5, true, null], \"a\": {\"é\u{7f}\\\"\\\\\": \"\\n\\u0001😀\"}, \"e\": [], \"o\": {}}"
        );
        assert_eq!(
            dumps(value, Style { indent: Some(2), ascii: true, sorted: true, separators: None }),
            "{\n  \"a\": {\n    \"\\u00e9\\u007f\\\"\\\\\": \"\\n\\u0001\\ud83d\\ude00\"\n  },\n  \"b\": [\n    1,\n    -2.5,\n    true,\n    null\n  ],\n  \"e\": [],\n  \"o\": {}\n}"
        );
        let compact = Style { separators: Some([",".into(), ":".into()]), ..Style::default() };
        assert_eq!(dumps(json!({"a": [1, 2]}), compact), r#"{"a":[1,2]}"#);
    }

    #[test]
    fn floats_as_python_does() {
        for (x, text) in [
            (1.0, "1.0"),
            (-0.0, "-0.0"),
            (0.1, "0.1"),
            (1e-4, "0.0001"),
            (1e-5, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (123456789012345680.0, "1.2345678901234568e+17"),
            (1e16, "1e+16"),
            (9007199254740992.0, "9007199254740992.0"),
            (1e300, "1e+300"),
        ] {
            assert_eq!(float(x), text);
        }
    }
}
