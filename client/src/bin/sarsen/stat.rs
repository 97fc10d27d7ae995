//! `sarsen stat`: what is at a path.

use clap::Args;
use sarsen_edge::exit::{Exit, one_line};
use sarsen_edge::json;
use sarsen_protocol::message::{Node, NodeType};

use crate::context::Context;
use crate::failure::Failure;
use crate::table::{size, time};

/// What `sarsen stat` is told.
#[derive(Args, Debug)]
pub(crate) struct StatArgs {
    /// A file or folder in the cluster
    path: String,
}

/// Runs the verb.
pub(crate) async fn run(args: &StatArgs, context: &Context) -> Result<Exit, Failure> {
    let at = context.at(&args.path);
    let path = context.path(&args.path).await.map_err(&at)?;
    let client = context.client().await.map_err(&at)?;
    let mut node = client.stat(path).await.map_err(context.at(path))?;
    let is_open = node.node_type == NodeType::File && !node.sealed;
    let mut is_exact = true;
    if is_open {
        // The log has the size as of the last seal.
        match client.exact_size(path).await.map_err(context.at(path))? {
            Some(size) => node.size = size,
            None => is_exact = false,
        }
    }
    let mut document = json::stat(path, &node);
    if is_open {
        document["exact"] = is_exact.into();
    }
    context.result(&document, &text(path, &node, is_exact))?;
    Ok(Exit::Done)
}

fn text(path: &str, node: &Node, is_exact: bool) -> String {
    let mut lines = vec![
        format!("path      {}", one_line(path)),
        format!("type      {}", json::node_type(node.node_type)),
        format!("changed   {} UTC", time(node.mtime)),
    ];
    if node.node_type == NodeType::File {
        let crc = match node.sealed {
            true => json::crc32(node.crc32),
            false => "not known while a chunk is open".to_owned(),
        };
        let at_least = if is_exact { "" } else { "at least " };
        lines.extend([
            format!(
                "size      {at_least}{} ({} bytes)",
                size(node.size),
                node.size
            ),
            format!("chunks    {}", node.chunks),
            format!("replicas  {}", node.replicas),
            format!("crc32     {crc}"),
        ]);
    }
    lines.join("\n")
}
