//! What `put` and `get` tell of one file, and of several.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use sarsen_client::TreeSums;
use sarsen_edge::exit::{Exit, Explain as _, one_line};
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
    /// What is worth knowing beside: fields' names and their values.
    pub(crate) more: Vec<(&'static str, Value)>,
}

impl Transfer {
    pub(crate) fn document(&self) -> Value {
        let mut document = json!({
            "path": self.path,
            "bytes": self.bytes,
            "seconds": self.elapsed.as_secs_f64(),
            "mb_per_s": mb_per_s(self.bytes, self.elapsed),
            "crc32": self.crc32.map(crc32),
            "chunks": self.chunks,
        });
        for (name, value) in &self.more {
            document[*name] = value.clone();
        }
        document
    }

    pub(crate) fn line(&self) -> String {
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

/// The transfers of one command that may be many.
pub(crate) struct Transfers {
    began: Instant,
    sums: TreeSums,
    /// Of files that were named one by one: what is told of each, in their order.
    lines: BTreeMap<usize, String>,
    exits: Exits,
}

impl Transfers {
    /// The command begins.
    pub(crate) fn begin() -> Self {
        Self {
            began: Instant::now(),
            sums: TreeSums::default(),
            lines: BTreeMap::new(),
            exits: Exits::default(),
        }
    }

    /// Adds what some of them came to.
    pub(crate) fn add(&mut self, sums: &TreeSums) {
        self.sums.files += sums.files;
        self.sums.folders += sums.folders;
        self.sums.failed += sums.failed;
        self.sums.skipped += sums.skipped;
        self.sums.bytes += sums.bytes;
        self.sums.chunks += sums.chunks;
    }

    /// Keeps what is told of a file that was named.
    pub(crate) fn tell(&mut self, place: usize, transfer: &Transfer) {
        self.lines.insert(place, transfer.line());
    }

    /// Something failed before it was tried.
    pub(crate) fn fail_one(&mut self, failure: &Failure, context: &Context) {
        self.sums.failed += 1;
        self.fail(failure, context);
    }

    /// One of several failed: it is told, and the rest goes on.
    pub(crate) fn fail(&mut self, failure: &Failure, context: &Context) {
        context.tell(failure);
        self.exits.add(failure.exit());
    }

    /// The code to exit with.
    pub(crate) const fn exit(&self) -> Exit {
        self.exits.common()
    }

    /// Writes the sums, and returns the code to exit with.
    pub(crate) fn finish(&self, target: &str, context: &Context) -> Result<Exit, Failure> {
        let elapsed = self.began.elapsed();
        let lines: Vec<&str> = self.lines.values().map(String::as_str).collect();
        let text = match lines.is_empty() {
            true => self.line(target, elapsed),
            false => lines.join("\n"),
        };
        context.summary(&self.document(target, elapsed), &text)?;
        Ok(self.exits.common())
    }

    fn document(&self, target: &str, elapsed: Duration) -> Value {
        let sums = &self.sums;
        json!({
            "path": target,
            "bytes": sums.bytes,
            "seconds": elapsed.as_secs_f64(),
            "mb_per_s": mb_per_s(sums.bytes, elapsed),
            "crc32": null,
            "chunks": sums.chunks,
            "files": sums.files,
            "failed": sums.failed,
            "folders": sums.folders,
            "skipped": sums.skipped,
        })
    }

    fn line(&self, target: &str, elapsed: Duration) -> String {
        let sums = &self.sums;
        let not = |count: u64, what: &str| match count {
            0 => String::new(),
            count => format!(", {count} {what}"),
        };
        format!(
            "{}: {} files, {} in {}, {:.1} MB/s{}{}",
            one_line(target),
            sums.files,
            size(sums.bytes),
            seconds(elapsed),
            mb_per_s(sums.bytes, elapsed),
            not(sums.failed, "failed"),
            not(sums.skipped, "skipped"),
        )
    }
}

/// The code for several things that were done, of which some failed: that of the failures if
/// they are of one kind.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Exits {
    first: Option<Exit>,
    are_mixed: bool,
}

impl Exits {
    /// Something failed.
    pub(crate) fn add(&mut self, exit: Exit) {
        self.are_mixed |= *self.first.get_or_insert(exit) != exit;
    }

    /// The code of all.
    pub(crate) const fn common(self) -> Exit {
        match self.first {
            None => Exit::Done,
            Some(_) if self.are_mixed => Exit::Failed,
            Some(first) => first,
        }
    }
}

/// Megabytes a second; zero for what took no time.
pub(crate) fn mb_per_s(bytes: u64, elapsed: Duration) -> f64 {
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
            more: vec![("short", json!([]))],
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

    /// The sums once told the sum of the files' times, which is more than passed when several
    /// were on their way at once: the time is that of the command.
    #[test]
    fn several_files_are_summed_up_over_the_time_that_passed() {
        let mut transfers = Transfers::begin();
        for bytes in [1_000_000, 2_000_000] {
            let mut sums = TreeSums::default();
            (sums.files, sums.bytes, sums.chunks) = (1, bytes, 2);
            transfers.add(&sums);
        }
        let told = json!({
            "path": "/to", "bytes": 3_000_000, "seconds": 0.75, "mb_per_s": 4.0,
            "crc32": null, "chunks": 4, "files": 2, "failed": 0, "folders": 0, "skipped": 0,
        });
        let elapsed = Duration::from_millis(750);
        assert_eq!(transfers.document("/to", elapsed), told);
        assert_eq!(
            transfers.line("/to", elapsed),
            "/to: 2 files, 2.86 MiB in 0.75 s, 4.0 MB/s"
        );
    }

    #[test]
    fn failures_of_one_kind_give_their_code() {
        let common = |exits: &[Exit]| {
            let mut all = Exits::default();
            exits.iter().for_each(|&exit| all.add(exit));
            all.common()
        };
        assert_eq!(common(&[]), Exit::Done);
        assert_eq!(common(&[Exit::NotFound, Exit::NotFound]), Exit::NotFound);
        let mixed = [Exit::AlreadyExists, Exit::NotFound, Exit::AlreadyExists];
        assert_eq!(common(&mixed), Exit::Failed);
    }
}
