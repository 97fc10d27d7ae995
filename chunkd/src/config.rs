//! The command line of `chunkd`.

use std::path::PathBuf;

use clap::Parser;
use sarsen_edge::address::HostPort;
use sarsen_edge::args::DaemonArgs;
use sarsen_protocol::size::{DIRECTORIES_MAX, NAME_LEN_MAX};

use crate::io::Choice;

/// Keeps chunks for a Sarsen cluster
#[derive(Clone, Debug, Parser)]
#[command(name = "chunkd", version)]
pub struct Options {
    /// The master's control address; several are tried in turn
    #[arg(
        long,
        value_name = "HOST:PORT[,HOST:PORT...]",
        value_delimiter = ',',
        required = true
    )]
    pub master: Vec<HostPort>,

    /// A directory to keep chunks in; may be given often, one a disk
    #[arg(long = "dir", value_name = "DIR", required = true)]
    pub dirs: Vec<PathBuf>,

    /// Where the control port listens; port 0 takes a free one
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:0")]
    pub listen: HostPort,

    /// Where the data port listens; port 0 takes a free one
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:0")]
    pub data_listen: HostPort,

    /// Where the HTTP port listens; port 0 takes a free one
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:0")]
    pub http: HostPort,

    /// The rack that this server stands in
    #[arg(long, value_name = "NAME", default_value = "", value_parser = parse_rack)]
    pub rack: String,

    /// How the data plane moves bytes
    #[arg(long, value_enum, default_value_t, value_name = "WAY")]
    pub io: Choice,

    /// What both daemons take.
    #[command(flatten)]
    pub daemon: DaemonArgs,
}

/// The most directories that a registration can name.
pub const DIRS_MAX: usize = DIRECTORIES_MAX;

fn parse_rack(text: &str) -> Result<String, String> {
    match text.len() <= NAME_LEN_MAX {
        true => Ok(text.to_owned()),
        false => Err(format!("a rack's name has at most {NAME_LEN_MAX} bytes")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sarsen_edge::args::{Parsed, parse};

    fn options(words: &[&str]) -> Options {
        let line = ["chunkd"].iter().chain(words).map(std::ffi::OsString::from);
        match parse("chunkd", line) {
            Ok(Parsed::Run(options)) => options,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn masters_and_directories_come_in_any_number() {
        let options = options(&[
            "--master=a:1,[::1]:2",
            "--dir=/x",
            "--dir",
            "/y",
            "--io=epoll",
            "--rack=r1",
        ]);
        let masters: Vec<_> = options.master.iter().map(ToString::to_string).collect();
        assert_eq!(masters, ["a:1", "[::1]:2"]);
        assert_eq!(options.dirs, [PathBuf::from("/x"), PathBuf::from("/y")]);
        assert_eq!(options.io, Choice::Epoll);
        assert_eq!((options.rack.as_str(), options.data_listen.port), ("r1", 0));
    }
}
