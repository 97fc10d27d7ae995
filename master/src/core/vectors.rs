//! The specification's vectors, and how they spell values (`spec/README.md`, Vectors).

use serde::Deserialize;
use toml::{Table, Value};

#[derive(Deserialize)]
pub(super) struct Vectors {
    pub(super) accepted: Vec<Accepted>,
    pub(super) rejected: Vec<Rejected>,
}

#[derive(Deserialize)]
pub(super) struct Accepted {
    pub(super) name: String,
    pub(super) kind: String,
    pub(super) hex: String,
    pub(super) fields: Table,
}

#[derive(Deserialize)]
pub(super) struct Rejected {
    pub(super) name: String,
    pub(super) kind: String,
    pub(super) hex: String,
    pub(super) error: String,
}

impl Vectors {
    /// Those of a file in `spec/vectors`.
    pub(super) fn read(name: &str) -> Self {
        let spec = concat!(env!("CARGO_MANIFEST_DIR"), "/../spec/vectors");
        toml::from_str(&std::fs::read_to_string(format!("{spec}/{name}.toml")).unwrap()).unwrap()
    }
}

/// The bytes that hex digits, with white space between them, stand for.
pub(super) fn bytes(hex: &str) -> Vec<u8> {
    let digits: String = hex.split_whitespace().collect();
    let pairs = digits
        .as_bytes()
        .chunks(2)
        .map(|pair| std::str::from_utf8(pair).unwrap());
    pairs
        .map(|pair| u8::from_str_radix(pair, 16).unwrap())
        .collect()
}

pub(super) fn u64s(value: u64) -> Value {
    Value::String(format!("0x{value:016x}"))
}

pub(super) fn u32s(value: impl Into<i64>) -> Value {
    Value::Integer(value.into())
}

pub(super) fn hex(value: &[u8]) -> Value {
    Value::String(
        value
            .iter()
            .fold("0x".to_owned(), |text, byte| format!("{text}{byte:02x}")),
    )
}

pub(super) fn text(value: impl ToString) -> Value {
    Value::String(value.to_string())
}

pub(super) fn list<T>(items: &[T], describe: impl Fn(&T) -> Value) -> Value {
    Value::Array(items.iter().map(describe).collect())
}

pub(super) fn table<const N: usize>(fields: [(&str, Value); N]) -> Table {
    fields
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}
