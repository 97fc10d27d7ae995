//! Paths in the cluster (`spec/messages.md` section 5).
//!
//! They are checked before they are sent, so that a wrong one is told without a cluster, and so
//! that none is longer than a message can hold.

use sarsen_protocol::size::{NAME_LEN_MAX, PATH_DEPTH_MAX, PATH_LEN_MAX};
use thiserror::Error;

/// Why a text is not a path in the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PathError {
    /// It does not begin with `/`.
    #[error("paths in the cluster begin with `/`")]
    NotAbsolute,
    /// A part is empty, as between two `/` or behind the last.
    #[error("the path has an empty name in it")]
    EmptyName,
    /// A part is `.` or `..`.
    #[error("`{name}` is no name in the cluster")]
    DotName {
        /// Which.
        name: String,
    },
    /// A NUL byte.
    #[error("the path has a NUL byte in it")]
    Nul,
    /// A part is too long.
    #[error("a name of {len} bytes, where at most {NAME_LEN_MAX} are allowed")]
    NameTooLong {
        /// Its bytes.
        len: usize,
    },
    /// The path is too long, or leads through too many folders.
    #[error(
        "a path of {len} bytes and {depth} names, where at most {PATH_LEN_MAX} and {PATH_DEPTH_MAX} are allowed"
    )]
    TooLong {
        /// Its bytes.
        len: usize,
        /// Its parts.
        depth: usize,
    },
}

/// Checks the form of a path.
///
/// # Errors
/// The first rule that it breaks.
pub fn check(path: &str) -> Result<(), PathError> {
    let Some(names) = path.strip_prefix('/') else {
        return Err(PathError::NotAbsolute);
    };
    let depth = names.split('/').count();
    if path.len() > PATH_LEN_MAX || depth > PATH_DEPTH_MAX {
        let len = path.len();
        return Err(PathError::TooLong { len, depth });
    }
    match names {
        "" => Ok(()),
        names => names.split('/').try_for_each(check_name),
    }
}

pub(crate) fn check_name(name: &str) -> Result<(), PathError> {
    match name {
        "" => Err(PathError::EmptyName),
        "." | ".." => Err(PathError::DotName { name: name.into() }),
        _ if name.contains('\0') => Err(PathError::Nul),
        _ if name.len() > NAME_LEN_MAX => Err(PathError::NameTooLong { len: name.len() }),
        _ => Ok(()),
    }
}

/// The path of `name` in `folder`.
#[must_use]
pub fn join(folder: &str, name: &str) -> String {
    match folder {
        "/" => format!("/{name}"),
        _ => format!("{folder}/{name}"),
    }
}

/// The last name of a path; empty for the root.
#[must_use]
pub fn base_name(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_paths() {
        let longest_name = format!("/{}", "n".repeat(255));
        let deepest = "/d".repeat(255);
        for path in ["/", "/a", "/a/b c/ü", "/...", &longest_name, &deepest] {
            assert_eq!(check(path), Ok(()), "{path}");
        }
    }

    #[test]
    fn each_rule_has_its_error() {
        let dots = |name: &str| PathError::DotName { name: name.into() };
        for (path, error) in [
            ("", PathError::NotAbsolute),
            ("a/b", PathError::NotAbsolute),
            ("//", PathError::EmptyName),
            ("/a//b", PathError::EmptyName),
            ("/a/", PathError::EmptyName),
            ("/a/../b", dots("..")),
            ("/.", dots(".")),
            ("/a\0b", PathError::Nul),
            (
                &format!("/{}", "é".repeat(128)),
                PathError::NameTooLong { len: 256 },
            ),
            (
                &"/d".repeat(256),
                PathError::TooLong {
                    len: 512,
                    depth: 256,
                },
            ),
        ] {
            assert_eq!(check(path), Err(error), "{path:?}");
        }
        let long = format!("/{}", "n/".repeat(2048));
        assert!(matches!(check(&long), Err(PathError::TooLong { .. })));
    }

    #[test]
    fn names_are_joined_and_taken_off() {
        assert_eq!(
            (join("/", "a"), join("/a", "b")),
            ("/a".into(), "/a/b".into())
        );
        assert_eq!((base_name("/"), base_name("/a/b")), ("", "b"));
    }
}
