//! `sarsen write`: stdin over a file's bytes.

use std::io;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use clap::Args;
use sarsen_client::WriteOptions;
use sarsen_edge::exit::Exit;
use serde_json::json;
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
    let bytes = async {
        let mut options = WriteOptions::default();
        options.level = args.durability.level();
        let mut writer = client.file_writer(path, options).await?;
        // An offset that no file has is told before anything is read.
        writer.check(args.offset, 0)?;
        let mut input = tokio::fs::File::from_std(stdin);
        let mut offset = args.offset;
        loop {
            let piece = fill(&mut input, writer.len_at(offset)).await;
            let piece = piece.map_err(|source| Problem::Stream {
                name: "stdin",
                source,
            })?;
            let len = piece.len() as u64;
            if len == 0 {
                writer.flush().await?;
                return Ok::<_, Problem>(offset - args.offset);
            }
            writer.write_at(offset, piece).await?;
            offset += len;
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

/// So many bytes, fewer at the end.
async fn fill(input: &mut (impl AsyncRead + Unpin), len: usize) -> io::Result<Bytes> {
    let mut bytes = BytesMut::with_capacity(len);
    let mut rest = input.take(len as u64);
    while bytes.len() < len && rest.read_buf(&mut bytes).await? > 0 {}
    Ok(bytes.freeze())
}
