//! The vectors of `spec/vectors`, as they stand in their files (`spec/README.md`).

use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

/// A file of vectors.
#[derive(Deserialize)]
pub(crate) struct VectorFile {
    pub(crate) accepted: Vec<Accepted>,
    pub(crate) rejected: Vec<Rejected>,
}

/// Bytes and what they mean.
#[derive(Deserialize)]
pub(crate) struct Accepted {
    pub(crate) name: String,
    pub(crate) kind: String,
    hex: String,
    #[serde(default)]
    given: Table,
    pub(crate) fields: Table,
}

/// Bytes and the error that they are.
#[derive(Deserialize)]
pub(crate) struct Rejected {
    pub(crate) name: String,
    pub(crate) kind: String,
    hex: String,
    #[serde(default)]
    given: Table,
    pub(crate) error: String,
}

impl VectorFile {
    /// The file of this name; it holds cases of both sorts.
    pub(crate) fn read(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../spec/vectors")
            .join(name);
        let text = fs::read_to_string(&path).unwrap();
        let file: Self = toml::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(!file.accepted.is_empty() && !file.rejected.is_empty());
        file
    }
}

impl Accepted {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        from_hex(&self.hex)
    }

    pub(crate) fn given<T: DeserializeOwned>(&self) -> T {
        typed(&self.name, &self.given)
    }

    pub(crate) fn fields<T: DeserializeOwned>(&self) -> T {
        typed(&self.name, &self.fields)
    }
}

impl Rejected {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        from_hex(&self.hex)
    }

    pub(crate) fn given<T: DeserializeOwned>(&self) -> T {
        typed(&self.name, &self.given)
    }
}

fn typed<T: DeserializeOwned>(name: &str, table: &Table) -> T {
    let value = Value::Table(table.clone());
    value
        .try_into()
        .unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The bytes of hex digits with white space between them.
pub(crate) fn from_hex(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    assert!(digits.len().is_multiple_of(2), "half a byte");
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}
