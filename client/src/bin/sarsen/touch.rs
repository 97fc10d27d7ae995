//! `sarsen touch`: an empty file is made.

use clap::Args;
use sarsen_edge::exit::Exit;
use serde_json::json;

use crate::context::Context;
use crate::failure::Failure;

/// What `sarsen touch` is told.
#[derive(Args, Debug)]
pub(crate) struct TouchArgs {
    /// The file's path in the cluster; what is there already stays as it is
    path: String,
}

/// Runs the verb.
pub(crate) async fn run(args: &TouchArgs, context: &Context) -> Result<Exit, Failure> {
    let at = context.at(&args.path);
    let path = context.path(&args.path).await.map_err(&at)?;
    let client = context.client().await.map_err(&at)?;
    let node = client.touch(path).await.map_err(context.at(path))?;
    context.result(&json!({ "path": path, "size": node.size }), "")?;
    Ok(Exit::Done)
}
