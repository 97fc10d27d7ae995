//! `sarsen mv`: a file or folder gets another path.

use clap::Args;
use sarsen_client::{Error, path};
use sarsen_edge::exit::Exit;
use sarsen_protocol::status::Status;
use serde_json::json;

use crate::context::{Context, cluster_path};
use crate::failure::{Failure, Problem};
use crate::put::takes_in;

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
    let source = context.path(&args.source).await.map_err(&at_source)?;
    let at_target = context.at(&args.target);
    let target = cluster_path(&args.target).map_err(&at_target)?;
    let into = takes_in(&args.target, context).await.map_err(at_target)?;
    let target = match into {
        true => path::join(target, path::base_name(source)),
        false => target.to_owned(),
    };
    let client = context.client().await.map_err(&at_source)?;
    match client.rename(source, &target).await {
        Err(Error::Refused {
            status: Status::InvalidArgument,
            ..
        }) if is_below(&target, source) => {
            return Err(context.at(source)(Problem::IntoItself { target }));
        }
        moved => moved.map_err(context.at(source))?,
    }
    context.result(&json!({ "path": target }), "")?;
    Ok(Exit::Done)
}

/// Whether a path lies in a folder.
fn is_below(path: &str, folder: &str) -> bool {
    let below = path.strip_prefix(folder.trim_end_matches('/'));
    below.is_some_and(|below| below.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_in_a_folder_begins_with_its_path_and_a_slash() {
        assert!(is_below("/a/b", "/a") && is_below("/a", "/"));
        assert!(!is_below("/a", "/a") && !is_below("/ab", "/a"));
    }
}
