//! A download that ends well has the bytes that were uploaded, and never others.

use super::{Facts, Invariant};
use crate::observation::Observation;

/// Nothing to remember.
#[derive(Debug, Default)]
pub struct NeverWrongBytes;

impl Invariant for NeverWrongBytes {
    fn name(&self) -> &'static str {
        "never wrong bytes"
    }

    fn observe(&mut self, observation: &Observation<'_>, facts: &Facts) -> Result<(), String> {
        let Observation::Downloaded {
            file,
            offset,
            bytes,
            ..
        } = observation
        else {
            return Ok(());
        };
        let Some(content) = facts.contents.get(file) else {
            return Err(format!(
                "file {file} was downloaded, and nobody uploaded it"
            ));
        };
        let from = usize::try_from(*offset).unwrap_or(usize::MAX);
        let expected = content.bytes().get(from..from.saturating_add(bytes.len()));
        match expected == Some(&bytes[..]) {
            true => Ok(()),
            false => Err(format!(
                "file {file}: the {} bytes from {offset} are not those that were uploaded",
                bytes.len()
            )),
        }
    }
}
