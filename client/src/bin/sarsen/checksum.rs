//! `sarsen checksum`: the CRC-32 of a file, as gzip has it, combined from what is stored: no data
//! moves. A file that is open is sealed first.

use clap::Args;
use sarsen_edge::exit::{Exit, one_line};
use sarsen_edge::json::crc32;
use serde_json::json;

use crate::context::Context;
use crate::failure::{Failure, Problem};

/// What `sarsen checksum` is told.
#[derive(Args, Debug)]
pub(crate) struct ChecksumArgs {
    /// A file in the cluster
    path: String,
}

/// Runs the verb.
pub(crate) async fn run(args: &ChecksumArgs, context: &Context) -> Result<Exit, Failure> {
    let at = context.at(&args.path);
    let path = context.path(&args.path).await.map_err(&at)?;
    let client = context.client().await.map_err(&at)?;
    let mut crc = client.checksum(path).await.map_err(context.at(path))?;
    if crc.is_none() {
        let node = client.seal(path).await.map_err(context.at(path))?;
        crc = node.sealed.then_some(node.crc32);
    }
    let crc = crc32(crc.ok_or_else(|| at(Problem::NotSealed))?);
    let document = json!({ "path": path, "crc32": crc });
    context.result(&document, &format!("{crc}  {}", one_line(path)))?;
    Ok(Exit::Done)
}
