//! Command lines: parsing them, and the options that both daemons take.
//!
//! A wrong command line is told in the two lines of [`crate::exit`] and not in the paragraph
//! that `clap` would print, since people script against the former.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Args, Parser};
use thiserror::Error;

use crate::address::Host;
use crate::exit::{Exit, Explain};
use crate::listen::Exposure;
use crate::log::LogFormat;
use crate::settings::{Settings, SettingsError};

/// Options that both daemons take.
#[derive(Args, Clone, Debug)]
pub struct DaemonArgs {
    /// Read settings from this TOML file
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Set one key; may be given often
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,

    /// The cluster's key; needed beyond loopback
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,

    /// The name or address under which others reach this server; needed to listen on all
    #[arg(long, value_name = "HOST")]
    pub advertise: Option<Host>,

    /// How the log on stderr is written
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub log_format: LogFormat,
}

impl DaemonArgs {
    /// The settings that these options, the environment and the file make.
    ///
    /// # Errors
    ///
    /// As [`Settings::load`].
    pub fn settings(&self) -> Result<Settings, SettingsError> {
        Settings::load(self.config.as_deref(), env::vars_os(), &self.set)
    }

    /// What these options say about being reached from elsewhere.
    #[must_use]
    pub fn exposure(&self) -> Exposure {
        Exposure {
            advertise: self.advertise.clone(),
            has_key_file: self.key_file.is_some(),
        }
    }
}

/// A command line that was not understood.
#[derive(Debug, Error)]
#[error("{what}")]
pub struct UsageError {
    program: String,
    what: String,
    tip: Option<String>,
}

impl Explain for UsageError {
    fn exit(&self) -> Exit {
        Exit::Usage
    }

    fn hint(&self) -> Option<String> {
        let help = format!("`{} --help` tells what there is", self.program);
        Some(
            self.tip
                .as_ref()
                .map_or(help.clone(), |tip| format!("{tip}; {help}")),
        )
    }
}

/// What a command line asks for.
#[derive(Debug)]
pub enum Parsed<P> {
    /// To run, with these options.
    Run(P),
    /// To show this text (help, version) on stdout and be done.
    Show(String),
}

/// Parses the command line `line`, whose first word is the program's own name.
///
/// # Errors
///
/// [`UsageError`], for [`crate::exit::report`].
pub fn parse<P: Parser>(
    program: &str,
    line: impl IntoIterator<Item = OsString>,
) -> Result<Parsed<P>, UsageError> {
    match P::try_parse_from(line) {
        Ok(options) => Ok(Parsed::Run(options)),
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                Ok(Parsed::Show(error.render().to_string()))
            }
            _ => Err(usage_error(program, &error.render().to_string())),
        },
    }
}

/// Takes what is wrong, and a tip if there is one, out of the paragraphs that `clap` writes:
/// the first says what is wrong, one may begin with `tip:`, the rest is usage.
fn usage_error(program: &str, rendered: &str) -> UsageError {
    let mut paragraphs = rendered
        .split("\n\n")
        .map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "));
    let first = paragraphs.next().unwrap_or_default();
    let what = first.strip_prefix("error: ").unwrap_or(&first).to_owned();
    let tip = paragraphs.find_map(|paragraph| paragraph.strip_prefix("tip: ").map(str::to_owned));
    UsageError {
        program: program.to_owned(),
        what,
        tip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::lines;

    #[derive(Debug, Parser)]
    #[command(name = "chunkd", version = "1.2.3")]
    struct Options {
        #[arg(long)]
        dir: PathBuf,
        #[command(flatten)]
        daemon: DaemonArgs,
    }

    fn parsed(words: &[&str]) -> Result<Parsed<Options>, UsageError> {
        let line = ["chunkd"].iter().chain(words).map(OsString::from);
        parse("chunkd", line)
    }

    fn refused(words: &[&str]) -> String {
        lines("chunkd", &parsed(words).expect_err("wrong"))
    }

    #[test]
    fn the_options_of_a_daemon() {
        let line = [
            "--dir=/d",
            "--set",
            "lease=1s",
            "--set",
            "replicas=1",
            "--key-file",
            "/k",
            "--advertise",
            "[::1]",
            "--log-format",
            "json",
        ];
        let Ok(Parsed::Run(options)) = parsed(&line) else {
            panic!("not taken")
        };
        assert_eq!(options.dir, PathBuf::from("/d"));
        assert_eq!(options.daemon.set, ["lease=1s", "replicas=1"]);
        assert_eq!(options.daemon.log_format, LogFormat::Json);
        let exposure = options.daemon.exposure();
        assert!(exposure.has_key_file);
        assert_eq!(exposure.advertise.expect("given").as_str(), "::1");
    }

    #[test]
    fn a_wrong_line_is_told_in_one_line_and_a_hint() {
        assert_eq!(
            refused(&[]),
            "chunkd: the following required arguments were not provided: --dir <DIR>\n\
             hint: `chunkd --help` tells what there is\n"
        );
        let near = refused(&["--dir=/d", "--advertize", "x"]);
        let (what, hint) = near.split_once('\n').expect("two lines");
        assert_eq!(what, "chunkd: unexpected argument '--advertize' found");
        assert!(
            hint.starts_with("hint: a similar argument exists: '--advertise'"),
            "{hint}"
        );
        for words in [
            ["--dir=/d", "--advertise=a:80"],
            ["--dir=/d", "--log-format=xml"],
        ] {
            let text = refused(&words);
            assert_eq!(text.lines().count(), 2, "{text}");
        }
    }

    #[test]
    fn help_and_version_are_results() {
        for (word, part) in [
            ("--help", "--key-file <FILE>"),
            ("--version", "chunkd 1.2.3"),
        ] {
            let Ok(Parsed::Show(text)) = parsed(&[word]) else {
                panic!("{word} not shown")
            };
            assert!(text.contains(part), "{text}");
        }
    }
}
