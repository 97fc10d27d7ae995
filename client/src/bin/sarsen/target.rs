//! What copies are called: the rules of `cp`, for `put` and `get`.
//!
//! A target that is a folder, or ends in `/`, takes a source under the source's own name; any
//! other target is the copy's name itself, and takes one source only. A source without a name of
//! its own, as `.` or `/`, is a folder whose contents go into the target.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use crate::failure::Problem;

/// The name that a source brings along; `None` for `.`, `..` and `/`, at its end too.
pub(crate) fn own_name(source: &Path) -> Option<&OsStr> {
    let bytes = source.as_os_str().as_bytes();
    let len = bytes.iter().rposition(|&byte| byte != b'/')? + 1;
    let trimmed = bytes.get(..len)?;
    let name = trimmed.rsplit(|&byte| byte == b'/').next()?;
    let is_name = !matches!(name, b"" | b"." | b"..");
    is_name.then(|| OsStr::from_bytes(name))
}

/// Whether a path says by its end that it is a folder's.
pub(crate) fn is_written_as_folder(path: &Path) -> bool {
    path.as_os_str().as_bytes().ends_with(b"/")
}

/// What has been given a place, so that no copy takes that of another.
#[derive(Default)]
pub(crate) struct Places(HashMap<String, String>);

impl Places {
    /// Gives `source` a place under a name of its own.
    pub(crate) fn take(&mut self, source: &Path, target: &str) -> Result<(), Problem> {
        let source = source.display().to_string();
        match self.0.insert(target.to_owned(), source.clone()) {
            None => Ok(()),
            Some(first) => Err(Problem::SameTarget {
                first,
                second: source,
            }),
        }
    }
}

/// Puts items together that may be transferred at the same time: those with names of their own.
/// What another puts into the target itself may lie in the way of the others, so it has its turn.
pub(crate) fn groups<I>(items: Vec<(bool, I)>) -> Vec<Vec<I>> {
    let mut groups: Vec<(bool, Vec<I>)> = Vec::new();
    for (is_named, item) in items {
        match groups.last_mut() {
            Some((true, group)) if is_named => group.push(item),
            _ => groups.push((is_named, vec![item])),
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_the_last_part_unless_that_is_none() {
        for (source, name) in [
            ("a", Some("a")),
            ("a/b", Some("b")),
            ("a/b//", Some("b")),
            ("/", None),
            ("//", None),
            (".", None),
            ("./", None),
            ("..", None),
            ("a/.", None),
            ("a/../", None),
            ("...", Some("...")),
            ("", None),
        ] {
            assert_eq!(
                own_name(Path::new(source)),
                name.map(OsStr::new),
                "{source}"
            );
        }
    }

    #[test]
    fn two_sources_never_share_a_place() {
        let mut places = Places::default();
        assert!(places.take(Path::new("a/x"), "/d/x").is_ok());
        assert!(places.take(Path::new("a/y"), "/d/y").is_ok());
        let taken = places.take(Path::new("b/x"), "/d/x");
        assert!(matches!(taken, Err(Problem::SameTarget { first, .. }) if first == "a/x"));
    }

    #[test]
    fn what_has_no_name_is_transferred_by_itself() {
        let items = vec![(true, 1), (true, 2), (false, 3), (false, 4), (true, 5)];
        assert_eq!(groups(items), [vec![1, 2], vec![3], vec![4], vec![5]]);
    }
}
