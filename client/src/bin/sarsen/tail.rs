//! `sarsen tail`: the end of a file to stdout, and with `-f` what is appended to it.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use sarsen_client::{Error, Follower};
use sarsen_edge::exit::Exit;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::args::number;
use crate::context::{Context, is_unread, stream, write_out};
use crate::failure::{Failure, Problem};
use crate::records::base64;

/// How long a file that was changed under its reader is left alone.
const CHANGED_PAUSE: Duration = Duration::from_millis(250);

/// Lines that are shown where no number of bytes is asked for.
const LINES: usize = 10;

/// How far from the end they are looked for.
const LINES_WITHIN: u64 = 1024 * 1024;

/// What `sarsen tail` is told.
#[derive(Args, Debug)]
pub(crate) struct TailArgs {
    /// The last N bytes; without it the last ten lines
    #[arg(short = 'c', value_name = "N", allow_negative_numbers = true, value_parser = number)]
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
    let path = context.path(&args.path).await.map_err(&at)?;
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
    loop {
        let shown = show(&mut file, args.follow, &stdout, context).await;
        let was_at = file.position();
        match shown {
            Err(Problem::Client(Error::Changed { .. })) if args.follow => {
                file = client.follow(path).await.map_err(&at)?;
                file.seek(was_at);
                let from = file.position();
                let what = match from < was_at {
                    true => format!("the file was truncated, and is followed from byte {from} on"),
                    // It has grown beyond where we were, before we could see that it had been cut.
                    false => format!(
                        "the file was truncated and written anew, and is followed from byte {from} on; \
                         what is new before it is not shown"
                    ),
                };
                context.warn(path, &what);
                // One that changes all the time is not asked for all the time.
                sleep(CHANGED_PAUSE).await;
            }
            shown => {
                shown.map_err(context.at(path))?;
                return Ok(Exit::Done);
            }
        }
    }
}

/// Writes what is there, and with `following` what comes, until nobody reads it.
async fn show(
    file: &mut Follower,
    following: bool,
    stdout: &Arc<File>,
    context: &Context,
) -> Result<(), Problem> {
    let end = file.end();
    loop {
        if following || file.position() < end {
            let offset = file.position();
            let mut bytes = file.read().await?;
            let is_more = !bytes.is_empty();
            if is_more && context.globals.json {
                bytes = document(offset, &bytes).to_string().into_bytes();
                bytes.push(b'\n');
            }
            write_out(stdout, bytes).await?;
            if is_more {
                continue;
            }
        }
        if !following {
            return Ok(());
        }
        while !file.look().await? {
            // Who reads us may have gone long before there is something to write.
            if is_unread(stdout) {
                return Ok(());
            }
        }
    }
}

/// Bytes that lie together in the file, as `records` tells those of a record.
fn document(offset: u64, bytes: &[u8]) -> Value {
    json!({ "offset": offset, "length": bytes.len(), "data": base64(bytes) })
}

/// Where the last lines begin.
async fn last_lines(file: &mut Follower) -> Result<u64, Error> {
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
    fn scripts_get_an_object_of_bytes() {
        let told = json!({ "offset": 7, "length": 3, "data": "Zm9v" });
        assert_eq!(document(7, b"foo"), told);
    }
}
