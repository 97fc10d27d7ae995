//! `sarsen du`: what a tree takes.

use clap::Args;
use sarsen_edge::exit::{Exit, one_line};
use serde_json::json;

use crate::context::Context;
use crate::failure::Failure;
use crate::table::size;

/// What `sarsen du` is told.
#[derive(Args, Debug)]
pub(crate) struct DuArgs {
    /// A file or folder in the cluster
    #[arg(default_value = "/")]
    path: String,
}

/// Runs the verb.
pub(crate) async fn run(args: &DuArgs, context: &Context) -> Result<Exit, Failure> {
    let at = context.at(&args.path);
    let path = context.path(&args.path).await.map_err(&at)?;
    let client = context.client().await.map_err(&at)?;
    let usage = client.usage(path).await.map_err(context.at(path))?;
    let document = json!({
        "path": path,
        "files": usage.files,
        "folders": usage.folders,
        "bytes": usage.bytes,
        "stored": usage.stored,
    });
    let text = format!(
        "{}  {} ({} with all copies) in {} files and {} folders",
        one_line(path),
        size(usage.bytes),
        size(usage.stored),
        usage.files,
        usage.folders
    );
    context.result(&document, &text)?;
    Ok(Exit::Done)
}
