//! The command line.

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use sarsen_client::MASTER_DEFAULT;

use crate::{
    append, bench, cat, checksum, completions, du, fsck, get, keygen, locate, ls, mkdir, mv, put,
    records, rm, stat, tail, touch, trash, tree, truncate, wait, write,
};

/// The command line of a Sarsen cluster.
///
/// Paths in the cluster begin with `/`. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found,
/// 4 exists already, 5 the cluster can't serve now, 6 data failed verification, 7 no space.
#[derive(Debug, Parser)]
#[command(name = "sarsen", version, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) globals: Globals,

    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// The longest time that can be given, a hundred years as in settings: adding it to a clock can't
/// overflow.
const TIME_MAX: Duration = Duration::from_hours(36_500 * 24);

/// What every verb takes.
#[derive(Args, Clone, Debug)]
pub(crate) struct Globals {
    /// Control addresses of the cluster's masters
    #[arg(
        long,
        global = true,
        env = "SARSEN_MASTER",
        value_name = "HOST:PORT",
        value_delimiter = ',',
        default_value = MASTER_DEFAULT
    )]
    pub(crate) master: Vec<String>,

    /// The cluster's key; not needed beside a master of the same user
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,

    /// Results on stdout and errors on stderr as JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// How long to try again what may pass
    #[arg(long, global = true, value_name = "TIME", default_value = "30s", value_parser = time)]
    pub(crate) timeout: Duration,

    /// No progress, no summaries, no warnings
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,

    /// Tell on stderr what is going on; SARSEN_LOG chooses how much
    #[arg(short, long, global = true)]
    pub(crate) verbose: bool,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Upload files and folders
    Put(put::PutArgs),
    /// Download files and folders
    Get(get::GetArgs),
    /// Write a file's bytes to stdout
    Cat(cat::CatArgs),
    /// Write the end of a file to stdout, and what is appended to it
    Tail(tail::TailArgs),
    /// Write every record of a file to stdout
    Records(records::RecordsArgs),
    /// Write stdin over a file's bytes
    Write(write::WriteArgs),
    /// Append records to a file
    Append(append::AppendArgs),
    /// Give a file another size
    Truncate(truncate::TruncateArgs),
    /// Make an empty file
    Touch(touch::TouchArgs),
    /// List a folder
    Ls(ls::LsArgs),
    /// Draw a folder and all below it
    Tree(tree::TreeArgs),
    /// Show what is at a path
    Stat(stat::StatArgs),
    /// Show what a tree takes
    Du(du::DuArgs),
    /// Show the space of the cluster
    Df,
    /// Make a folder
    Mkdir(mkdir::MkdirArgs),
    /// Move or rename a file or folder
    Mv(mv::MvArgs),
    /// Remove files and folders, into the trash
    Rm(rm::RmArgs),
    /// See, restore and empty the trash
    Trash(trash::TrashArgs),
    /// Show the CRC-32 of a file; what is open of it is sealed first
    Checksum(checksum::ChecksumArgs),
    /// Show where the chunks of a file are
    Locate(locate::LocateArgs),
    /// Check the cluster, from what the master knows
    Fsck(fsck::FsckArgs),
    /// Show servers and disks
    Report,
    /// Wait until chunkservers are live and the master takes changes
    Wait(wait::WaitArgs),
    /// Measure a running cluster
    Bench(bench::BenchArgs),
    /// Make a cluster key
    Keygen(keygen::KeygenArgs),
    /// Print a completion script for a shell
    Completions(completions::CompletionsArgs),
    /// Run a whole cluster on this machine until Ctrl-C
    #[cfg(feature = "cluster")]
    Up(crate::up::UpArgs),
    /// Upload and download a file through a cluster of its own, one server killed on the way
    #[cfg(feature = "cluster")]
    Demo(crate::demo::DemoArgs),
}

impl Verb {
    /// The name, as it was typed.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Put(_) => "put",
            Self::Get(_) => "get",
            Self::Cat(_) => "cat",
            Self::Tail(_) => "tail",
            Self::Records(_) => "records",
            Self::Write(_) => "write",
            Self::Append(_) => "append",
            Self::Truncate(_) => "truncate",
            Self::Touch(_) => "touch",
            Self::Ls(_) => "ls",
            Self::Tree(_) => "tree",
            Self::Stat(_) => "stat",
            Self::Du(_) => "du",
            Self::Df => "df",
            Self::Mkdir(_) => "mkdir",
            Self::Mv(_) => "mv",
            Self::Rm(_) => "rm",
            Self::Trash(_) => "trash",
            Self::Checksum(_) => "checksum",
            Self::Locate(_) => "locate",
            Self::Fsck(_) => "fsck",
            Self::Report => "report",
            Self::Wait(_) => "wait",
            Self::Bench(_) => "bench",
            Self::Keygen(_) => "keygen",
            Self::Completions(_) => "completions",
            #[cfg(feature = "cluster")]
            Self::Up(_) => "up",
            #[cfg(feature = "cluster")]
            Self::Demo(_) => "demo",
        }
    }
}

/// An offset, or a number of bytes.
pub(crate) fn number(text: &str) -> Result<u64, &'static str> {
    let number = text.parse();
    number.map_err(|_| "it is a number of bytes, 0 or more")
}

/// A time, as `30s` or `1h 30m`.
pub(crate) fn time(text: &str) -> Result<Duration, Box<dyn Error + Send + Sync>> {
    let time = humantime::parse_duration(text)?;
    match time <= TIME_MAX {
        true => Ok(time),
        false => Err("it is more than a hundred years".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    /// The hint was to write `-- -1`, which is no offset either.
    #[test]
    fn a_number_below_zero_is_told_to_be_none() {
        for line in [
            &["sarsen", "write", "--offset", "-1", "/b"][..],
            &["sarsen", "cat", "--offset", "-1", "/b"],
            &["sarsen", "cat", "--length", "-1", "/b"],
            &["sarsen", "truncate", "--size", "-1", "/b"],
            &["sarsen", "tail", "-c", "-1", "/b"],
        ] {
            let error = Cli::try_parse_from(line).unwrap_err().to_string();
            assert!(error.contains("a number of bytes, 0 or more"), "{error}");
            assert!(!error.contains("tip:"), "{error}");
        }
        let fine = ["sarsen", "tail", "-c", "1", "-f", "/b"];
        assert!(Cli::try_parse_from(fine).is_ok());
    }

    /// It was added to the time of day, which overflowed: the program ended with a panic.
    #[test]
    fn a_time_that_no_clock_reaches_is_wrong_usage() {
        let too_long = "18446744073709551615s";
        for line in [
            &["sarsen", "ls", "--timeout", too_long][..],
            &["sarsen", "ls", "--timeout", "36501days"],
            &["sarsen", "bench", "meta", "--duration", too_long],
        ] {
            let error = Cli::try_parse_from(line).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains("a hundred years"), "{error}");
        }
        let fine = ["sarsen", "ls", "--timeout", "36500days"];
        assert!(Cli::try_parse_from(fine).is_ok());
    }

    #[test]
    fn a_verb_is_called_as_it_is_typed() {
        for (line, name) in [
            (&["sarsen", "put", "a", "/b"][..], "put"),
            (&["sarsen", "df", "--json"], "df"),
            (&["sarsen", "trash", "ls"], "trash"),
            (&["sarsen", "write", "--offset", "7", "/b"], "write"),
            (&["sarsen", "append", "--lines", "/b", "a"], "append"),
            (&["sarsen", "truncate", "--size", "0", "/b"], "truncate"),
            (&["sarsen", "touch", "/b"], "touch"),
            (&["sarsen", "bench", "append", "--clients", "64"], "bench"),
            (
                &["sarsen", "wait", "--chunkservers", "3", "--timeout", "5s"],
                "wait",
            ),
        ] {
            let cli = Cli::try_parse_from(line).unwrap();
            assert_eq!(cli.verb.name(), name);
        }
    }
}
