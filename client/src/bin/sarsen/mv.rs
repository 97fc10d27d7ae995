//! `sarsen mv`: a file or folder gets another path.

use clap::Args;
use sarsen_client::path;
use sarsen_edge::exit::Exit;
use serde_json::json;

use crate::context::{Context, cluster_path};
use crate::failure::Failure;
use crate::put::is_folder;

/// What `sarsen mv` is told.
#[derive(Args, Debug)]
pub(crate) struct MvArgs {
    /// A file or folder in the cluster
    source: String,

    /// Its new path; an existing folder, or a path that ends in `/`, takes it in
    target: String,
}

/// Runs the verb.
pub(crate) async fn run(args: &MvArgs, context: &Context) -> Result<Exit, Failure> {
    let at_source = context.at(&args.source);
    let source = cluster_path(&args.source).map_err(&at_source)?;
    let at_target = context.at(&args.target);
    let target = cluster_path(&args.target).map_err(&at_target)?;
    let into = args.target.ends_with('/') || is_folder(target, context).await.map_err(at_target)?;
    let target = match into {
        true => path::join(target, path::base_name(source)),
        false => target.to_owned(),
    };
    let client = context.client().await.map_err(&at_source)?;
    let moved = client.rename(source, &target).await;
    moved.map_err(context.at(source))?;
    context.result(&json!({ "path": target }), "")?;
    Ok(Exit::Done)
}
