//! What `put` and `get` tell of one file, and of several.

use std::time::Duration;

use sarsen_edge::exit::one_line;
use sarsen_edge::json::crc32;
use serde_json::{Value, json};

use crate::context::Context;
use crate::failure::Failure;
use crate::table::{seconds, size};

/// A file that went up or came down.
pub(crate) struct Transfer {
    pub(crate) path: String,
    pub(crate) bytes: u64,
    pub(crate) elapsed: Duration,
    pub(crate) crc32: Option<u32>,
    pub(crate) chunks: u32,
    /// What is worth knowing beside: a field's name and its value.
    pub(crate) more: (&'static str, Value),
}

impl Transfer {
    fn document(&self) -> Value {
        let mut document = json!({
            "path": self.path,
            "bytes": self.bytes,
            "seconds": self.elapsed.as_secs_f64(),
            "mb_per_s": mb_per_s(self.bytes, self.elapsed),
            "crc32": self.crc32.map(crc32),
            "chunks": self.chunks,
        });
        let (name, value) = &self.more;
        document[*name] = value.clone();
        document
    }

    fn line(&self) -> String {
        let crc = self.crc32.map(|crc| format!(", crc32 {}", crc32(crc)));
        format!(
            "{}: {} in {}, {:.1} MB/s{}",
            one_line(&self.path),
            size(self.bytes),
            seconds(self.elapsed),
            mb_per_s(self.bytes, self.elapsed),
            crc.unwrap_or_default()
        )
    }
}

/// The transfers of one command.
#[derive(Default)]
pub(crate) struct Transfers {
    done: Vec<Transfer>,
    pub(crate) failures: Vec<Failure>,
}

impl Transfers {
    pub(crate) fn add(&mut self, transfer: Transfer) {
        self.done.push(transfer);
    }

    /// One of several failed: it is told, and the rest goes on.
    pub(crate) fn fail(&mut self, failure: Failure, context: &Context) {
        context.tell(&failure);
        self.failures.push(failure);
    }

    /// Writes the result: of one file what it is, of several their sums.
    pub(crate) fn summarize(
        &self,
        target: &str,
        is_one: bool,
        context: &Context,
    ) -> Result<(), Failure> {
        let lines: Vec<String> = self.done.iter().map(Transfer::line).collect();
        let document = match &self.done[..] {
            [one] if is_one => one.document(),
            _ => self.sums(target),
        };
        context.summary(&document, &lines.join("\n"))
    }

    fn sums(&self, target: &str) -> Value {
        let bytes = self.done.iter().map(|it| it.bytes).sum();
        let elapsed = self.done.iter().map(|it| it.elapsed).sum();
        json!({
            "path": target,
            "bytes": bytes,
            "seconds": Duration::as_secs_f64(&elapsed),
            "mb_per_s": mb_per_s(bytes, elapsed),
            "crc32": null,
            "chunks": self.done.iter().map(|it| u64::from(it.chunks)).sum::<u64>(),
            "files": self.done.len(),
            "failed": self.failures.len(),
        })
    }
}

/// Megabytes a second; zero for what took no time.
fn mb_per_s(bytes: u64, elapsed: Duration) -> f64 {
    #[expect(
        clippy::cast_precision_loss,
        reason = "a speed is shown with a few digits"
    )]
    let megabytes = bytes as f64 / 1e6;
    match elapsed.is_zero() {
        true => 0.0,
        false => megabytes / elapsed.as_secs_f64(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transfer(bytes: u64) -> Transfer {
        Transfer {
            path: "/a".into(),
            bytes,
            elapsed: Duration::from_millis(500),
            crc32: Some(0xab),
            chunks: 2,
            more: ("short", json!([])),
        }
    }

    #[test]
    fn one_file_is_told_in_full() {
        let one = transfer(3_000_000);
        let told = json!({
            "path": "/a", "bytes": 3_000_000, "seconds": 0.5, "mb_per_s": 6.0,
            "crc32": "000000ab", "chunks": 2, "short": [],
        });
        assert_eq!(one.document(), told);
        assert_eq!(
            one.line(),
            "/a: 2.86 MiB in 0.50 s, 6.0 MB/s, crc32 000000ab"
        );
    }

    #[test]
    fn several_files_are_summed_up() {
        let mut transfers = Transfers::default();
        transfers.add(transfer(1_000_000));
        transfers.add(transfer(2_000_000));
        let told = json!({
            "path": "/to", "bytes": 3_000_000, "seconds": 1.0, "mb_per_s": 3.0,
            "crc32": null, "chunks": 4, "files": 2, "failed": 0,
        });
        assert_eq!(transfers.sums("/to"), told);
    }
}
