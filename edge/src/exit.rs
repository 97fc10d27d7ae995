//! How a program ends: the exit codes of every program, and the two lines that explain a failure.
//!
//! An error type of an edge implements [`Explain`]; `main` hands it to [`report`], which writes
//!
//! ```text
//! chunkd: what is wrong: and why
//! hint: what can be done
//! ```
//!
//! and gives the code to end with. Nothing else in the workspace writes such lines, so that each
//! of them is one line even when a path or a peer's text has a newline in it.

use std::error::Error;
use std::io::{self, Write as _};
use std::process::ExitCode;

/// The exit codes of all programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Failed: for a daemon a taken port, an unusable directory, a lock, a forbidden io_uring.
    Failed = 1,
    /// Wrong usage or a wrong setting.
    Usage = 2,
    /// What was named does not exist.
    NotFound = 3,
    /// What was to be made exists already.
    AlreadyExists = 4,
    /// The cluster can't serve now.
    Unavailable = 5,
    /// Data failed verification.
    Corrupt = 6,
    /// No space, here or there.
    NoSpace = 7,
    /// Ended by Ctrl-C.
    Interrupted = 130,
}

impl Exit {
    /// The number that the shell sees.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// What a failed system call on our own medium ends a program with.
    #[must_use]
    pub fn of_io(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace,
            _ => Self::Failed,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// An error that can end a program.
///
/// Its `Display` says what is wrong without its source: [`report`] adds the sources.
pub trait Explain: Error {
    /// The code that the program ends with.
    fn exit(&self) -> Exit;

    /// What the person can do about it; `None` where nothing can be said for certain.
    fn hint(&self) -> Option<String>;
}

/// Writes the lines for `error` to stderr and tells the code to end with.
#[must_use]
pub fn report<E: Explain>(program: &str, error: &E) -> ExitCode {
    // With stderr closed there is nobody left to tell.
    let _ = io::stderr().write_all(lines(program, error).as_bytes());
    error.exit().into()
}

/// The one or two lines for `error`, each with its newline.
#[must_use]
pub fn lines<E: Explain>(program: &str, error: &E) -> String {
    let mut what = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some errors say their cause themselves.
        if !what.ends_with(&cause_text) {
            what.push_str(": ");
            what.push_str(&cause_text);
        }
        source = cause.source();
    }
    let mut text = format!("{program}: {}\n", one_line(&what));
    if let Some(hint) = error.hint() {
        text.push_str(&format!("hint: {}\n", one_line(&hint)));
    }
    text
}

/// `text` with its control characters escaped, so that a terminal or a script sees one line.
#[must_use]
pub fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use thiserror::Error;

    #[derive(Debug, Error)]
    #[error("can't open {name}")]
    struct OpenError {
        name: &'static str,
        source: io::Error,
        hint: Option<&'static str>,
    }

    impl Explain for OpenError {
        fn exit(&self) -> Exit {
            Exit::of_io(&self.source)
        }

        fn hint(&self) -> Option<String> {
            self.hint.map(str::to_owned)
        }
    }

    #[test]
    fn the_sources_follow_on_the_same_line_and_the_hint_on_the_next() {
        let error = OpenError {
            name: "a\nb",
            source: io::Error::other("disk\tgone"),
            hint: Some("try another disk"),
        };
        assert_eq!(
            lines("chunkd", &error),
            "chunkd: can't open a\\nb: disk\\tgone\nhint: try another disk\n"
        );
        assert_eq!(
            lines(
                "x",
                &OpenError {
                    hint: None,
                    ..error
                }
            )
            .lines()
            .count(),
            1
        );
    }

    #[test]
    fn a_full_disk_has_its_own_code() {
        for (kind, exit) in [
            (io::ErrorKind::StorageFull, Exit::NoSpace),
            (io::ErrorKind::QuotaExceeded, Exit::NoSpace),
            (io::ErrorKind::PermissionDenied, Exit::Failed),
        ] {
            assert_eq!(Exit::of_io(&kind.into()), exit, "{kind:?}");
        }
        assert_eq!((Exit::NoSpace.code(), Exit::Interrupted.code()), (7, 130));
    }
}
