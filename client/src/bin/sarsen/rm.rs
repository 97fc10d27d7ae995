//! `sarsen rm`: files and folders go into the trash, or for good.

use clap::Args;
use sarsen_edge::exit::{Exit, Explain as _};
use serde_json::json;

use crate::context::Context;
use crate::failure::{Failure, Problem};
use crate::transfer::Exits;

/// What `sarsen rm` is told.
#[derive(Args, Debug)]
pub(crate) struct RmArgs {
    /// Folders that are not empty, too
    #[arg(short)]
    recursive: bool,

    /// For good, not into the trash
    #[arg(long)]
    purge: bool,

    /// Files and folders in the cluster
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<String>,
}

/// Runs the verb: what can't be removed is told, and the rest goes on.
pub(crate) async fn run(args: &RmArgs, context: &Context) -> Result<Exit, Failure> {
    let (mut files, mut bytes) = (0, 0);
    let mut exits = Exits::default();
    for path in &args.paths {
        match one(args, path, context).await {
            Ok(removed) => {
                files += removed.0;
                bytes += removed.1;
            }
            Err(problem) => {
                let failure = context.at(path)(problem);
                if args.paths.len() == 1 {
                    return Err(failure);
                }
                context.tell(&failure);
                exits.add(failure.exit());
            }
        }
    }
    context.result(&json!({ "files": files, "bytes": bytes }), "")?;
    Ok(exits.common())
}

/// How many files and bytes went.
async fn one(args: &RmArgs, path: &str, context: &Context) -> Result<(u64, u64), Problem> {
    let path = context.path(path).await?;
    let client = context.client().await?;
    let removed = client.remove(path, args.recursive, args.purge).await?;
    Ok((removed.files, removed.bytes))
}
