//! `sarsen mkdir`: a folder is made.

use clap::Args;
use sarsen_edge::exit::Exit;
use serde_json::json;

use crate::context::{Context, cluster_path};
use crate::failure::Failure;

/// What `sarsen mkdir` is told.
#[derive(Args, Debug)]
pub(crate) struct MkdirArgs {
    /// Make the folders above too; one that exists is no error
    #[arg(short)]
    parents: bool,

    /// The folder's path in the cluster
    path: String,
}

/// Runs the verb.
pub(crate) async fn run(args: &MkdirArgs, context: &Context) -> Result<Exit, Failure> {
    let at = context.at(&args.path);
    let path = cluster_path(&args.path).map_err(&at)?;
    let client = context.client().await.map_err(&at)?;
    let made = client.make_folder(path, args.parents).await;
    made.map_err(context.at(path))?;
    context.result(&json!({ "path": path }), "")?;
    Ok(Exit::Done)
}
