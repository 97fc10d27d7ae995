//! Paths in the cluster (`spec/oplog-entries.md` section 3.1).
//!
//! A [`Path`] is well-formed by construction, so nothing behind the edge of the core asks again
//! whether a name is empty, holds a NUL byte or climbs out by `..`. There is one spelling a path:
//! no trailing `/`, no `//`. Whether anything is *at* a path is the namespace's question.

use std::fmt;

use sarsen_protocol::codec::{Decoder, Encoder, Field};
use sarsen_protocol::error::BodyError;
use sarsen_protocol::size::{NAME_LEN_MAX, PATH_DEPTH_MAX, PATH_LEN_MAX};
use thiserror::Error;

/// Why a text is no path. Answered with the status `name_invalid`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PathError {
    /// It does not begin with `/`.
    #[error("a path begins with /")]
    NotAbsolute,
    /// It is longer than [`PATH_LEN_MAX`].
    #[error("a path has at most {PATH_LEN_MAX} bytes")]
    TooLong,
    /// It has more than [`PATH_DEPTH_MAX`] names.
    #[error("a path has at most {PATH_DEPTH_MAX} names")]
    TooDeep,
    /// Two separators meet, or one ends it.
    #[error("a path has no empty name: no // and no / at its end")]
    NameEmpty,
    /// A name is longer than [`NAME_LEN_MAX`].
    #[error("a name has at most {NAME_LEN_MAX} bytes")]
    NameTooLong,
    /// A name is `.` or `..`.
    #[error("a name is neither . nor ..")]
    NameIsDots,
    /// A name holds a NUL byte.
    #[error("a name holds no NUL byte")]
    NulByte,
}

/// A well-formed absolute path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Path(Box<str>);

impl Path {
    /// The path of the root folder.
    #[must_use]
    pub fn root() -> Self {
        Self("/".into())
    }

    /// Takes a text for a path.
    ///
    /// # Errors
    /// What makes it none, see [`PathError`].
    pub fn parse(text: &str) -> Result<Self, PathError> {
        if text.len() > PATH_LEN_MAX {
            return Err(PathError::TooLong);
        }
        let names = text.strip_prefix('/').ok_or(PathError::NotAbsolute)?;
        if !names.is_empty() {
            for (depth, name) in names.split('/').enumerate() {
                if depth == PATH_DEPTH_MAX {
                    return Err(PathError::TooDeep);
                }
                check_name(name)?;
            }
        }
        Ok(Self(text.into()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is the root folder's path.
    #[must_use]
    pub fn is_root(&self) -> bool {
        &*self.0 == "/"
    }

    /// The names from the root down; none for the root.
    pub fn names(&self) -> impl DoubleEndedIterator<Item = &str> {
        // Only the root has an empty part: the one behind its only separator.
        self.0[1..].split('/').filter(|name| !name.is_empty())
    }

    /// The path of the folder above, and the last name; `None` for the root.
    #[must_use]
    pub fn split_last(&self) -> Option<(Self, &str)> {
        let (above, name) = self.0.rsplit_once('/')?;
        if name.is_empty() {
            return None;
        }
        Some((
            if above.is_empty() {
                Self::root()
            } else {
                Self(above.into())
            },
            name,
        ))
    }

    /// Whether this path leads through `folder` and further down.
    #[must_use]
    pub fn is_below(&self, folder: &Self) -> bool {
        match folder.is_root() {
            true => !self.is_root(),
            false => self
                .0
                .strip_prefix(&*folder.0)
                .is_some_and(|rest| rest.starts_with('/')),
        }
    }
}

fn check_name(name: &str) -> Result<(), PathError> {
    match name {
        "" => Err(PathError::NameEmpty),
        "." | ".." => Err(PathError::NameIsDots),
        _ if name.len() > NAME_LEN_MAX => Err(PathError::NameTooLong),
        _ if name.contains('\0') => Err(PathError::NulByte),
        _ => Ok(()),
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Field for Path {
    const LEN_MIN: usize = 3;

    fn encode(&self, out: &mut Encoder) {
        out.string(&self.0);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Self::parse(input.string(PATH_LEN_MAX)?).map_err(|_| BodyError::OutOfBounds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_spelling_and_nothing_that_climbs() {
        for good in [
            "/",
            "/a",
            "/a/b c/größe",
            "/...",
            "/.hidden",
            &format!("/{}", "x".repeat(255)),
        ] {
            assert_eq!(Path::parse(good).unwrap().as_str(), good);
        }
        let deep = |depth: usize| "/d".repeat(depth);
        for (bad, error) in [
            ("", PathError::NotAbsolute),
            ("a", PathError::NotAbsolute),
            ("//", PathError::NameEmpty),
            ("/a/", PathError::NameEmpty),
            ("/a//b", PathError::NameEmpty),
            ("/.", PathError::NameIsDots),
            ("/a/../b", PathError::NameIsDots),
            ("/a\0b", PathError::NulByte),
            (&format!("/{}", "x".repeat(256)), PathError::NameTooLong),
            (&deep(256), PathError::TooDeep),
            (&format!("/{}", "x/".repeat(3000)), PathError::TooLong),
        ] {
            assert_eq!(Path::parse(bad), Err(error), "{bad:?}");
        }
        assert!(Path::parse(&deep(255)).is_ok());
    }

    #[test]
    fn parts_of_a_path() {
        let path = |text| Path::parse(text).unwrap();
        assert_eq!(path("/").names().count(), 0);
        assert_eq!(path("/a/b").names().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(path("/").split_last(), None);
        assert_eq!(path("/a").split_last(), Some((Path::root(), "a")));
        assert_eq!(path("/a/b").split_last(), Some((path("/a"), "b")));
        assert!(path("/a/b").is_below(&path("/a")) && path("/a").is_below(&Path::root()));
        assert!(!path("/ab").is_below(&path("/a")) && !path("/a").is_below(&path("/a")));
    }
}
