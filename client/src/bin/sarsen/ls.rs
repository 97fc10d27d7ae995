//! `sarsen ls`: the names in a folder.

use clap::Args;
use sarsen_client::{Client, Error, path};
use sarsen_edge::exit::{Exit, one_line};
use sarsen_edge::json;
use sarsen_protocol::message::{ListEntry, Node, NodeType};
use serde_json::{Value, json};

use crate::context::Context;
use crate::failure::Failure;
use crate::table::{size, table, time};

/// What `sarsen ls` is told.
#[derive(Args, Debug)]
pub(crate) struct LsArgs {
    /// Sizes, times and replicas too
    #[arg(short)]
    long: bool,

    /// What is in folders below, too
    #[arg(short = 'R')]
    recursive: bool,

    /// A folder or file in the cluster
    #[arg(default_value = "/")]
    path: String,
}

/// An entry and its whole path.
pub(crate) struct Listed {
    pub(crate) path: String,
    pub(crate) entry: ListEntry,
}

/// Runs the verb.
pub(crate) async fn run(args: &LsArgs, context: &Context) -> Result<Exit, Failure> {
    let at = context.at(&args.path);
    let top = context.path(&args.path).await.map_err(&at)?;
    let client = context.client().await.map_err(&at)?;
    let listed = list(client, top, args.recursive).await;
    let listed = listed.map_err(context.at(top))?;
    let document: Vec<Value> = listed
        .iter()
        .map(|it| json::list_entry(&it.path, &it.entry))
        .collect();
    let text = match args.long {
        true => long(top, &listed),
        false => listed
            .iter()
            .map(|it| shown(top, it) + "\n")
            .collect::<String>(),
    };
    context.result(&json!(document), &text)?;
    Ok(Exit::Done)
}

/// What is in a folder; of a file the file itself.
async fn list(client: &Client, top: &str, recursive: bool) -> Result<Vec<Listed>, Error> {
    let node = client.stat(top).await?;
    if node.node_type == NodeType::File {
        return Ok(vec![itself(top, node)]);
    }
    let mut listed = folder(client, top).await?;
    let mut place = 0;
    // What is in a folder follows it, as each is reached.
    while let Some(it) = listed.get(place).filter(|_| recursive) {
        place += 1;
        if it.entry.node.node_type == NodeType::Folder {
            let below = folder(client, &it.path).await?;
            listed.splice(place..place, below);
        }
    }
    Ok(listed)
}

fn itself(path: &str, node: Node) -> Listed {
    let name = path::base_name(path).to_owned();
    Listed {
        path: path.to_owned(),
        entry: ListEntry { name, node },
    }
}

/// The entries of one folder.
pub(crate) async fn folder(client: &Client, folder: &str) -> Result<Vec<Listed>, Error> {
    let entries = client.list(folder).await?.into_iter();
    let listed = entries.map(|entry| Listed {
        path: path::join(folder, &entry.name),
        entry,
    });
    Ok(listed.collect())
}

/// The path below `top`; a folder's ends in `/`.
fn shown(top: &str, listed: &Listed) -> String {
    let below = listed.path.strip_prefix(top.trim_end_matches('/'));
    let below = below.and_then(|rest| rest.strip_prefix('/'));
    let name = below.unwrap_or(&listed.entry.name);
    let end = match listed.entry.node.node_type {
        NodeType::Folder => "/",
        NodeType::File => "",
    };
    one_line(name) + end
}

fn long(top: &str, listed: &[Listed]) -> String {
    let rows = listed
        .iter()
        .map(|it| {
            let node = &it.entry.node;
            vec![
                json::node_type(node.node_type).to_owned(),
                node.replicas.to_string(),
                size(node.size),
                time(node.mtime),
                shown(top, it),
            ]
        })
        .collect();
    table(
        &["TYPE", "COPIES", "SIZE", "CHANGED", "NAME"],
        &[1, 2],
        rows,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use sarsen_protocol::id::FileId;

    fn listed(path: &str, node_type: NodeType) -> Listed {
        let node = Node {
            file_id: FileId(2),
            node_type,
            size: 1024,
            mtime: 0,
            replicas: 3,
            chunks: 1,
            sealed: true,
            crc32: 0,
        };
        itself(path, node)
    }

    #[test]
    fn names_are_shown_from_the_top() {
        let folder = listed("/a/b", NodeType::Folder);
        assert_eq!(
            (shown("/a", &folder), shown("/", &folder)),
            ("b/".into(), "a/b/".into())
        );
        let file = listed("/a/new\nline", NodeType::File);
        assert_eq!(shown("/a", &file), "new\\nline");
        assert_eq!(shown("/a/new\nline", &file), "new\\nline");
    }
}
