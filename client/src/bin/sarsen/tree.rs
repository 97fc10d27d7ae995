//! `sarsen tree`: a folder and all below it.

use clap::Args;
use sarsen_client::{Client, Error, path};
use sarsen_edge::exit::{Exit, one_line};
use sarsen_edge::json;
use sarsen_protocol::message::{Node, NodeType};
use serde_json::{Value, json};

use crate::context::Context;
use crate::failure::Failure;
use crate::ls::folder;
use crate::table::size;

/// What `sarsen tree` is told.
#[derive(Args, Debug)]
pub(crate) struct TreeArgs {
    /// A folder in the cluster
    #[arg(default_value = "/")]
    path: String,
}

/// A file or a folder with what is in it.
struct Branch {
    path: String,
    node: Node,
    children: Vec<Branch>,
}

/// Runs the verb.
pub(crate) async fn run(args: &TreeArgs, context: &Context) -> Result<Exit, Failure> {
    let at = context.at(&args.path);
    let top = context.path(&args.path).await.map_err(&at)?;
    let client = context.client().await.map_err(&at)?;
    let tree = grow(client, top).await.map_err(context.at(top))?;
    let mut text = format!("{}\n", one_line(top));
    draw(&tree.children, "", &mut text);
    context.result(&document(&tree), &text)?;
    Ok(Exit::Done)
}

async fn grow(client: &Client, top: &str) -> Result<Branch, Error> {
    let node = client.stat(top).await?;
    grow_below(client, top.to_owned(), node).await
}

/// Folders are at most 255 deep, so this is too.
async fn grow_below(client: &Client, path: String, node: Node) -> Result<Branch, Error> {
    let mut children = Vec::new();
    if node.node_type == NodeType::Folder {
        for listed in folder(client, &path).await? {
            let below = grow_below(client, listed.path, listed.entry.node);
            children.push(Box::pin(below).await?);
        }
    }
    Ok(Branch {
        path,
        node,
        children,
    })
}

/// Draws branches, each line behind `stem`.
fn draw(branches: &[Branch], stem: &str, text: &mut String) {
    for (place, branch) in branches.iter().enumerate() {
        let is_last = place + 1 == branches.len();
        let (fork, below) = match is_last {
            true => ("└── ", "    "),
            false => ("├── ", "│   "),
        };
        let name = one_line(path::base_name(&branch.path));
        let what = match branch.node.node_type {
            NodeType::Folder => "/".to_owned(),
            NodeType::File => format!("  {}", size(branch.node.size)),
        };
        text.push_str(&format!("{stem}{fork}{name}{what}\n"));
        draw(&branch.children, &format!("{stem}{below}"), text);
    }
}

fn document(branch: &Branch) -> Value {
    let mut document = json!({
        "name": path::base_name(&branch.path),
        "path": branch.path,
        "type": json::node_type(branch.node.node_type),
        "size": branch.node.size,
    });
    if branch.node.node_type == NodeType::Folder {
        let children: Vec<Value> = branch.children.iter().map(self::document).collect();
        document["children"] = json!(children);
    }
    document
}

#[cfg(test)]
mod tests {
    use super::*;
    use sarsen_protocol::id::FileId;

    fn branch(path: &str, node_type: NodeType, children: Vec<Branch>) -> Branch {
        let node = Node {
            file_id: FileId(2),
            node_type,
            size: 1,
            mtime: 0,
            replicas: 0,
            chunks: 0,
            sealed: true,
            crc32: 0,
        };
        Branch {
            path: path.into(),
            node,
            children,
        }
    }

    #[test]
    fn branches_hang_on_their_stems() {
        let file = |path| branch(path, NodeType::File, vec![]);
        let folder = |path, children| branch(path, NodeType::Folder, children);
        let tree = vec![
            folder("/a", vec![folder("/a/b", vec![file("/a/b/c")])]),
            file("/z"),
        ];
        let mut text = String::new();
        draw(&tree, "", &mut text);
        assert_eq!(text, "├── a/\n│   └── b/\n│       └── c  1 B\n└── z  1 B\n");
        let told = document(&tree[0]);
        assert_eq!(told["children"][0]["children"][0]["path"], "/a/b/c");
    }
}
