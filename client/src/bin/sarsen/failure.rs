//! Why a verb failed, in the form that people and scripts are promised.

use std::fmt;
use std::io;
use std::path::PathBuf;

use sarsen_client::Error;
use sarsen_edge::exit::{self, Exit, Explain};
use sarsen_edge::key::KeyError;
use sarsen_protocol::status::Status;
use serde_json::{Value, json};
use thiserror::Error;

use crate::shortfall::Shortfall;
use crate::write::PartlyWritten;

/// What can be wrong with a verb's own work, beside what the library tells.
#[derive(Debug, Error)]
#[non_exhaustive]
pub(crate) enum Problem {
    /// What the library tells.
    #[error(transparent)]
    Client(#[from] Error),
    /// No key was made or read.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Stdin or stdout can't be used.
    #[error("can't use {name}")]
    Stream {
        name: &'static str,
        source: io::Error,
    },
    /// Several files were to become one.
    #[error("`{target}` is not a folder, and several files need one")]
    TargetNotAFolder { target: String },
    /// A path that ends in `/`, with a file there.
    #[error("it is a file, and a path that ends in `/` is a folder's")]
    NotAFolder,
    /// A folder as target, for bytes that have no name.
    #[error("what comes from a pipe has no name, and `{target}` is a folder")]
    NoName { target: String },
    /// Two sources whose copies would be one.
    #[error("{first} and {second} would both be copied there")]
    SameTarget { first: String, second: String },
    /// Folders have no form that a pipe could take.
    #[error("folders can't be written to stdout")]
    TreeToStream,
    /// A path for the cluster that is not text.
    #[error("{} is not UTF-8, as names in the cluster are", path.display())]
    NotText { path: PathBuf },
    /// Nothing in the trash had this path.
    #[error("nothing in the trash was at this path")]
    NotInTrash,
    /// More bytes than a record may have, of which no more were read.
    #[error("it has more than the {bytes_max} bytes that a record may have")]
    RecordTooLong { bytes_max: u64 },
    /// Some of several lines were not appended.
    #[error(transparent)]
    Shortfall(Box<Shortfall>),
    /// A range was written in part, or may be.
    #[error(transparent)]
    PartlyWritten(Box<PartlyWritten>),
    /// A folder would lie in itself.
    #[error("a folder can't be moved into itself, and {target} lies in it")]
    IntoItself { target: String },
    /// The checksum is not known yet.
    #[error("a chunk of the file is open, so its checksum is not known")]
    NotSealed,
}

impl Explain for Problem {
    fn exit(&self) -> Exit {
        match self {
            Self::Client(error) => error.exit(),
            Self::Key(error) => error.exit(),
            Self::Stream { source, .. } => Exit::of_io(source),
            Self::TargetNotAFolder { .. }
            | Self::NoName { .. }
            | Self::SameTarget { .. }
            | Self::TreeToStream
            | Self::IntoItself { .. }
            | Self::NotText { .. } => Exit::Usage,
            Self::Shortfall(shortfall) => shortfall.exit(),
            Self::PartlyWritten(partly) => partly.exit(),
            Self::RecordTooLong { .. } | Self::NotAFolder => Exit::Failed,
            Self::NotInTrash => Exit::NotFound,
            Self::NotSealed => Exit::Unavailable,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Client(error) => error.hint(),
            Self::Key(error) => error.hint(),
            Self::TargetNotAFolder { .. } => Some("write it with a `/` at its end".into()),
            Self::SameTarget { .. } => Some("copy them one after the other".into()),
            Self::TreeToStream => Some("give a folder as target".into()),
            Self::NotAFolder => Some("leave out the `/` at its end".into()),
            Self::NoName { .. } => Some("name the file itself".into()),
            Self::NotInTrash => Some("`sarsen trash ls` lists what is there".into()),
            Self::Shortfall(shortfall) => shortfall.hint(),
            Self::PartlyWritten(partly) => partly.hint(),
            Self::RecordTooLong { .. } => {
                Some("cut it into several records, or use `sarsen write`".into())
            }
            Self::NotSealed => Some("try again when nobody writes to it".into()),
            Self::Stream { .. } | Self::NotText { .. } | Self::IntoItself { .. } => None,
        }
    }
}

/// A verb that failed on a path.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) verb: &'static str,
    /// Empty for verbs without one.
    pub(crate) path: String,
    pub(crate) problem: Problem,
}

impl Failure {
    fn what(&self) -> String {
        match self.path.as_str() {
            "" => self.verb.to_owned(),
            path => format!("{} {path}", self.verb),
        }
    }

    /// Whether only the reader of our output has gone, which ends a verb quietly.
    pub(crate) fn is_closed_pipe(&self) -> bool {
        match &self.problem {
            Problem::Client(error) => error.is_closed_pipe(),
            Problem::Stream { source, .. } => source.kind() == io::ErrorKind::BrokenPipe,
            _ => false,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what(), self.problem)
    }
}

impl std::error::Error for Failure {
    /// The problem's text is in ours, so what follows is what follows from the problem.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.problem.source()
    }
}

impl Explain for Failure {
    fn exit(&self) -> Exit {
        self.problem.exit()
    }

    fn hint(&self) -> Option<String> {
        match &self.problem {
            // No other verb replaces a file.
            Problem::Client(Error::Refused {
                status: Status::AlreadyExists,
                ..
            }) if self.verb == "put" => {
                Some("give another name, or --force where a file is to be replaced".into())
            }
            problem => problem.hint(),
        }
    }
}

/// The one or two lines that tell an error.
pub(crate) fn lines(error: &impl Explain) -> String {
    exit::lines("sarsen", error)
}

/// The document that tells an error with `--json`.
pub(crate) fn document(error: &impl Explain) -> Value {
    let lines = lines(error);
    let first = lines.lines().next().unwrap_or_default();
    let message = first.strip_prefix("sarsen: ").unwrap_or(first);
    let mut told = json!({ "code": code(error.exit()), "message": message });
    if let Some(hint) = error.hint() {
        told["hint"] = json!(exit::one_line(&hint));
    }
    json!({ "error": told })
}

/// The name of an exit code for scripts.
const fn code(exit: Exit) -> &'static str {
    match exit {
        Exit::Done => "done",
        Exit::Failed => "failed",
        Exit::Usage => "usage",
        Exit::NotFound => "not_found",
        Exit::AlreadyExists => "already_exists",
        Exit::Unavailable => "unavailable",
        Exit::Corrupt => "corrupt",
        Exit::NoSpace => "no_space",
        Exit::Interrupted => "interrupted",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure() -> Failure {
        let source = io::Error::from_raw_os_error(28);
        let path = "film.mkv".into();
        let doing = "write";
        Failure {
            verb: "get",
            path: "/films/film".into(),
            problem: Error::Local {
                doing,
                path,
                source,
            }
            .into(),
        }
    }

    #[test]
    fn a_failure_is_one_line_with_its_cause() {
        assert_eq!(
            lines(&failure()),
            "sarsen: get /films/film: can't write film.mkv: No space left on device (os error 28)\n"
        );
        let bare = Failure {
            verb: "df",
            path: String::new(),
            problem: Problem::NotInTrash,
        };
        assert!(lines(&bare).starts_with("sarsen: df: nothing in the trash"));
    }

    /// `mkdir`, `mv` and `trash restore` were told of it too, and have no such flag.
    #[test]
    fn only_put_is_told_of_force() {
        let hint_of = |verb| {
            let failure = Failure {
                verb,
                path: "/a".into(),
                problem: Error::Refused {
                    status: Status::AlreadyExists,
                    text: String::new(),
                }
                .into(),
            };
            failure.hint().unwrap()
        };
        assert!(hint_of("put").contains("--force"));
        for verb in ["mkdir", "mv", "trash"] {
            assert_eq!(hint_of(verb), "give another name");
        }
    }

    #[test]
    fn scripts_get_a_code_and_the_same_message() {
        let told = document(&failure());
        assert_eq!(told["error"]["code"], "no_space");
        let message =
            "get /films/film: can't write film.mkv: No space left on device (os error 28)";
        assert_eq!(told["error"]["message"], message);
        assert_eq!(failure().exit(), Exit::NoSpace);
    }
}
