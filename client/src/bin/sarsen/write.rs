//! `sarsen write`: stdin over a file's bytes.

use std::fmt;
use std::io;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use clap::Args;
use sarsen_client::{FileWriter, WriteOptions, WriteSums};
use sarsen_edge::exit::{Exit, Explain};
use serde_json::json;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::args::number;
use crate::context::{Context, stream};
use crate::durability::DurabilityArgs;
use crate::failure::{Failure, Problem};
use crate::table::{seconds, size};
use crate::transfer::mb_per_s;

/// What `sarsen write` is told.
#[derive(Args, Debug)]
pub(crate) struct WriteArgs {
    /// Where the first byte goes; beyond the file's end, what lies between reads as zeros
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = number)]
    offset: u64,

    #[command(flatten)]
    durability: DurabilityArgs,

    /// A file in the cluster; `sarsen touch` makes an empty one
    path: String,
}

/// Runs the verb.
pub(crate) async fn run(args: &WriteArgs, context: &Context) -> Result<Exit, Failure> {
    let at = context.at(&args.path);
    let path = context.path(&args.path).await.map_err(&at)?;
    let stdin = stream("stdin", io::stdin()).map_err(&at)?;
    let client = context.client().await.map_err(&at)?;
    let began = Instant::now();
    let mut options = WriteOptions::default();
    options.level = args.durability.level();
    let bytes = async {
        let mut writer = client.file_writer(path, options).await?;
        // An offset that no file has is told before anything is read.
        writer.check(args.offset, 0)?;
        let mut input = tokio::fs::File::from_std(stdin);
        match write_all(&mut input, args.offset, &mut writer).await {
            Ok(bytes) => Ok(bytes),
            Err(cause) => Err(with_what_was_written(cause, args.offset, &mut writer).await),
        }
    };
    let bytes = bytes.await.map_err(context.at(path))?;
    let elapsed = began.elapsed();
    let rate = mb_per_s(bytes, elapsed);
    let document = json!({
        "path": path,
        "offset": args.offset,
        "bytes": bytes,
        "seconds": elapsed.as_secs_f64(),
        "mb_per_s": rate,
    });
    let took = seconds(elapsed);
    let text = format!("{path}: {} in {took}, {rate:.1} MB/s", size(bytes));
    context.summary(&document, &text)?;
    Ok(Exit::Done)
}

/// Writes all that comes; how many bytes that were.
async fn write_all(
    input: &mut (impl AsyncRead + Unpin),
    from: u64,
    writer: &mut FileWriter,
) -> Result<u64, Problem> {
    let mut offset = from;
    loop {
        let piece = fill(input, writer.len_at(offset)).await;
        let piece = piece.map_err(|source| Problem::Stream {
            name: "stdin",
            source,
        })?;
        let len = piece.len() as u64;
        if len == 0 {
            writer.flush().await?;
            return Ok(offset - from);
        }
        writer.write_at(offset, piece).await?;
        offset += len;
    }
}

/// Waits for what is on its way when writing failed, so that it can be told what became of it.
async fn with_what_was_written(cause: Problem, from: u64, writer: &mut FileWriter) -> Problem {
    // Why it failed is known.
    let _ = writer.flush().await;
    let sums = writer.sums();
    match sums.written + sums.in_doubt {
        0 => cause,
        _ => Problem::PartlyWritten(Box::new(PartlyWritten { from, sums, cause })),
    }
}

/// A range that was written in part, or may be.
#[derive(Debug, Error)]
pub(crate) struct PartlyWritten {
    /// Where it begins in the file.
    from: u64,
    sums: WriteSums,
    cause: Problem,
}

impl fmt::Display for PartlyWritten {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sums = &self.sums;
        match sums.before_failure {
            0 => f.write_str("the range may be written in part")?,
            bytes => {
                let end = self.from + bytes;
                write!(
                    f,
                    "only the first {bytes} bytes were surely written, up to byte {end}"
                )?;
            }
        }
        write!(f, ": {}", self.cause)?;
        let counts = [
            (sums.written - sums.before_failure, "were written"),
            (sums.in_doubt, "are in doubt"),
        ];
        let counts = counts.iter().filter(|(bytes, _)| *bytes > 0);
        let told: Vec<String> = counts
            .map(|(bytes, what)| format!("{bytes} {what}"))
            .collect();
        match told.is_empty() {
            true => Ok(()),
            false => write!(f, "; of the bytes behind {}", told.join(", ")),
        }
    }
}

impl Explain for PartlyWritten {
    /// A code that says why nothing could be done would say that nothing was.
    fn exit(&self) -> Exit {
        Exit::Failed
    }

    fn hint(&self) -> Option<String> {
        self.cause.hint()
    }
}

/// So many bytes, fewer at the end.
async fn fill(input: &mut (impl AsyncRead + Unpin), len: usize) -> io::Result<Bytes> {
    let mut bytes = BytesMut::with_capacity(len);
    let mut rest = input.take(len as u64);
    while bytes.len() < len && rest.read_buf(&mut bytes).await? > 0 {}
    Ok(bytes.freeze())
}
