//! The names of files in a master's directory (`spec/oplog.md` section 1).

use super::error::OplogError;

/// Behind the name of a segment or checkpoint that is not complete yet.
pub(super) const TEMPORARY: &str = ".tmp";

/// Behind the name of a checkpoint that a start found damaged.
pub(super) const DAMAGED: &str = ".damaged";

/// The file that the running master holds a lock on.
pub(super) const LOCK: &str = "LOCK";

/// Other names that a directory may hold which was never used before.
const HARMLESS: [&str; 3] = [LOCK, "cluster.key", "lost+found"];

/// Name of the segment that begins with entry `first_index`.
#[must_use]
pub fn segment_name(first_index: u64) -> String {
    format!("oplog-{first_index:016x}.log")
}

/// Name of the checkpoint whose last entry is `last_index`.
#[must_use]
pub fn checkpoint_name(last_index: u64) -> String {
    format!("checkpoint-{last_index:016x}.ckpt")
}

/// What a directory holds, told from its names alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Listing {
    /// First indexes of the segments, rising.
    pub(super) segments: Vec<u64>,
    /// Last indexes of the checkpoints, rising.
    pub(super) checkpoints: Vec<u64>,
    /// Segments and checkpoints under construction.
    pub(super) temporary: Vec<String>,
    /// Names that a fresh directory may not hold.
    foreign: Vec<String>,
}

impl Listing {
    /// Sorts `names` by what they are.
    pub(super) fn of(names: Vec<String>) -> Self {
        let mut listing = Self::default();
        for name in names {
            if let Some(first_index) = index_in(&name, "oplog-", ".log") {
                listing.segments.push(first_index);
            } else if let Some(last_index) = index_in(&name, "checkpoint-", ".ckpt") {
                listing.checkpoints.push(last_index);
            } else if name.ends_with(TEMPORARY) {
                listing.temporary.push(name);
            } else if !HARMLESS.contains(&name.as_str()) {
                listing.foreign.push(name);
            }
        }
        listing.segments.sort_unstable();
        listing.checkpoints.sort_unstable();
        listing.foreign.sort_unstable();
        listing
    }

    /// Whether no master ever logged anything here.
    pub(super) fn is_fresh(&self) -> bool {
        self.segments.is_empty() && self.checkpoints.is_empty()
    }

    /// Refuses a directory that holds something, but nothing of a master's.
    pub(super) fn refuse_foreign(&self) -> Result<(), OplogError> {
        match self.foreign.first() {
            Some(name) if self.is_fresh() => Err(OplogError::Foreign { name: name.clone() }),
            _ => Ok(()),
        }
    }
}

/// Whether a file of this name is a log's, complete or not, damaged or not.
pub(super) fn is_of_a_log(name: &str) -> bool {
    let whole = [TEMPORARY, DAMAGED]
        .iter()
        .find_map(|suffix| name.strip_suffix(suffix))
        .unwrap_or(name);
    name == LOCK
        || index_in(whole, "oplog-", ".log").is_some()
        || index_in(whole, "checkpoint-", ".ckpt").is_some()
}

fn index_in(name: &str, prefix: &str, suffix: &str) -> Option<u64> {
    let digits = name.strip_prefix(prefix)?.strip_suffix(suffix)?;
    let is_hex = digits
        .bytes()
        .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    (digits.len() == 16 && is_hex)
        .then(|| u64::from_str_radix(digits, 16).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(names: &[&str]) -> Listing {
        Listing::of(names.iter().map(|&name| name.to_owned()).collect())
    }

    #[test]
    fn names_are_told_apart() {
        let found = listing(&[
            &segment_name(0x1f),
            &segment_name(1),
            &checkpoint_name(7),
            "oplog-0000000000000020.log.tmp",
            "notes.txt",
        ]);
        assert_eq!(
            (found.segments, found.checkpoints),
            (vec![1, 0x1f], vec![7])
        );
        assert_eq!(found.temporary, ["oplog-0000000000000020.log.tmp"]);
        for odd in [
            "oplog-1.log",
            "oplog-000000000000001F.log",
            "oplog-+00000000000001f.log",
        ] {
            assert!(listing(&[odd]).is_fresh(), "{odd}");
        }
    }

    #[test]
    fn a_directory_of_something_else_is_refused() {
        assert!(listing(&[]).refuse_foreign().is_ok());
        assert!(
            listing(&["LOCK", "cluster.key", "x.tmp"])
                .refuse_foreign()
                .is_ok()
        );
        assert!(
            listing(&["notes.txt", &segment_name(1)])
                .refuse_foreign()
                .is_ok()
        );
        let error = listing(&["LOCK", "IDENTITY"]).refuse_foreign().unwrap_err();
        assert!(matches!(error, OplogError::Foreign { name } if name == "IDENTITY"));
    }
}
