//! `sarsen truncate`: a file gets another size.

use clap::Args;
use sarsen_edge::exit::Exit;
use serde_json::json;

use crate::args::number;
use crate::context::Context;
use crate::failure::Failure;

/// What `sarsen truncate` is told.
#[derive(Args, Debug)]
pub(crate) struct TruncateArgs {
    /// Bytes from now on: what lies beyond is cut off, what is missing reads as zeros
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = number)]
    size: u64,

    /// A file in the cluster
    path: String,
}

/// Runs the verb.
pub(crate) async fn run(args: &TruncateArgs, context: &Context) -> Result<Exit, Failure> {
    let at = context.at(&args.path);
    let path = context.path(&args.path).await.map_err(&at)?;
    let client = context.client().await.map_err(&at)?;
    let node = client.truncate(path, args.size).await;
    let node = node.map_err(context.at(path))?;
    context.result(&json!({ "path": path, "size": node.size }), "")?;
    Ok(Exit::Done)
}
