//! `sarsen tail`: the end of a file to stdout, and with `-f` what is appended to it.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::sync::Arc;

use clap::Args;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sarsen_client::Follower;
use sarsen_edge::exit::Exit;

use crate::context::{Context, cluster_path, stream, write_out};
use crate::failure::Failure;

/// Lines that are shown where no number of bytes is asked for.
const LINES: usize = 10;

/// How far from the end they are looked for.
const LINES_WITHIN: u64 = 1024 * 1024;

/// What `sarsen tail` is told.
#[derive(Args, Debug)]
pub(crate) struct TailArgs {
    /// The last N bytes; without it the last ten lines
    #[arg(short = 'c', value_name = "N")]
    bytes: Option<u64>,

    /// Go on with what is appended, until Ctrl-C
    #[arg(short)]
    follow: bool,

    /// A file in the cluster
    path: String,
}

/// Runs the verb.
pub(crate) async fn run(args: &TailArgs, context: &Context) -> Result<Exit, Failure> {
    let at = context.at(&args.path);
    let path = cluster_path(&args.path).map_err(&at)?;
    let stdout = Arc::new(stream("stdout", io::stdout()).map_err(&at)?);
    let client = context.client().await.map_err(&at)?;
    let at = context.at(path);
    let mut file = client.follow(path).await.map_err(&at)?;
    match args.bytes {
        Some(bytes) => file.seek(file.end().saturating_sub(bytes)),
        None => {
            let start = last_lines(&mut file).await.map_err(&at)?;
            file.seek(start);
        }
    }
    let end = file.end();
    loop {
        if args.follow || file.position() < end {
            let bytes = file.read().await.map_err(&at)?;
            let is_more = !bytes.is_empty();
            let written = write_out(&stdout, bytes).await;
            written.map_err(context.at(""))?;
            if is_more {
                continue;
            }
        }
        if !args.follow {
            return Ok(Exit::Done);
        }
        while !file.look().await.map_err(&at)? {
            // Who reads us may have gone long before there is something to write.
            if is_closed(&stdout) {
                return Ok(Exit::Done);
            }
        }
    }
}

/// Where the last lines begin.
async fn last_lines(file: &mut Follower) -> Result<u64, sarsen_client::Error> {
    let end = file.end();
    let start = end.saturating_sub(LINES_WITHIN);
    file.seek(start);
    let mut bytes = Vec::new();
    while file.position() < end {
        bytes.extend(file.read().await?);
    }
    Ok(start + lines_start(&bytes) as u64)
}

/// Where the last lines of some bytes begin; a newline at their end ends the last one.
fn lines_start(bytes: &[u8]) -> usize {
    let before_last = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let newlines = before_last.iter().enumerate().rev();
    let mut newlines = newlines.filter(|&(_, &byte)| byte == b'\n');
    newlines.nth(LINES - 1).map_or(0, |(at, _)| at + 1)
}

/// Whether nobody reads what is written any more.
fn is_closed(stdout: &File) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(stdout.as_fd(), PollFlags::empty())];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let polled = poll(&mut fds, Some(&now));
    polled.is_ok() && fds.iter().any(|fd| fd.revents().contains(PollFlags::ERR))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_lines_are_shown() {
        let lines: String = (0..25).map(|n| format!("line {n}\n")).collect();
        let start = lines_start(lines.as_bytes());
        assert!(lines[start..].starts_with("line 15\n"));
        let unfinished = lines.trim_end();
        let start = lines_start(unfinished.as_bytes());
        assert!(unfinished[start..].starts_with("line 15\n"));
        for few in ["", "\n", "a\nb", "a\n\n\n"] {
            assert_eq!(lines_start(few.as_bytes()), 0);
        }
    }

    #[test]
    fn a_pipe_without_a_reader_is_closed() {
        let (reader, writer) = std::io::pipe().unwrap();
        let writer = File::from(std::os::fd::OwnedFd::from(writer));
        assert!(!is_closed(&writer));
        drop(reader);
        assert!(is_closed(&writer));
    }
}
