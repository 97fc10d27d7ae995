//! `sarsen trash`: what was removed, and how it comes back.

use clap::{Args, Subcommand};
use sarsen_client::{Client, path};
use sarsen_edge::exit::Exit;
use sarsen_edge::json;
use sarsen_protocol::message::NodeType;
use serde_json::{Value, json};

use crate::context::{Context, cluster_path};
use crate::failure::{Failure, Problem};
use crate::put::takes_in;
use crate::table::{size, table, time};

/// What `sarsen trash` is told.
#[derive(Args, Debug)]
pub(crate) struct TrashArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List what is in the trash
    Ls,
    /// Take something out of the trash
    Restore {
        /// Its number, or the path where it was; of several the one that was removed last
        #[arg(value_name = "ENTRY|PATH")]
        entry: String,

        /// Where to, an existing folder or a path that ends in `/` takes it in; where it was if not given
        target: Option<String>,
    },
    /// Remove for good what is in the trash
    Empty {
        /// Only this: its number, or the path where it was
        #[arg(value_name = "ENTRY|PATH")]
        entry: Option<String>,
    },
}

/// Runs the verb.
pub(crate) async fn run(args: &TrashArgs, context: &Context) -> Result<Exit, Failure> {
    let (path, problem) = match &args.action {
        Action::Ls => ("ls", list(context).await),
        Action::Restore { entry, target } => {
            let restored = restore(entry, target.as_deref(), context).await;
            (entry.as_str(), restored)
        }
        Action::Empty { entry } => {
            let emptied = empty(entry.as_deref(), context).await;
            (entry.as_deref().unwrap_or("empty"), emptied)
        }
    };
    let (document, text) = problem.map_err(context.at(path))?;
    context.result(&document, &text)?;
    Ok(Exit::Done)
}

async fn list(context: &Context) -> Result<(Value, String), Problem> {
    let entries = context.client().await?.trash_list().await?;
    let document: Vec<Value> = entries
        .iter()
        .map(|it| {
            json!({
                "entry": it.entry.to_string(),
                "path": it.path,
                "deleted": json::time(it.deleted),
                "type": json::node_type(it.node.node_type),
                "size": it.node.size,
            })
        })
        .collect();
    let rows = entries
        .iter()
        .map(|it| {
            vec![
                it.entry.to_string(),
                time(it.deleted),
                json::node_type(it.node.node_type).to_owned(),
                size(it.node.size),
                it.path.clone(),
            ]
        })
        .collect();
    let header = ["ENTRY", "REMOVED", "TYPE", "SIZE", "PATH"];
    Ok((json!(document), table(&header, &[0, 3], rows)))
}

async fn restore(
    entry: &str,
    target: Option<&str>,
    context: &Context,
) -> Result<(Value, String), Problem> {
    let folder = target.map(cluster_path).transpose()?;
    let which = Which::parse(entry)?;
    let client = context.client().await?;
    let entry = which.find(client).await?;
    let target = match (target, folder) {
        (Some(target), Some(folder)) if takes_in(target, context).await? => {
            let entries = client.trash_list().await?;
            let there = entries.iter().find(|it| it.entry == entry);
            let there = there.ok_or(Problem::NotInTrash)?;
            Some(path::join(folder, path::base_name(&there.path)))
        }
        _ => folder.map(str::to_owned),
    };
    let path = client.trash_restore(entry, target.as_deref()).await?;
    Ok((json!({ "path": path }), path))
}

async fn empty(entry: Option<&str>, context: &Context) -> Result<(Value, String), Problem> {
    let which = entry.map(Which::parse).transpose()?;
    let client = context.client().await?;
    let entry = match which {
        Some(which) => Some(which.find(client).await?),
        None => None,
    };
    let emptied = client.trash_empty(entry).await?;
    let document = json!({ "entries": emptied.entries, "bytes": emptied.bytes });
    Ok((document, String::new()))
}

/// An entry as people name it.
enum Which<'a> {
    Number(u64),
    /// Where it was.
    Path(&'a str),
    /// Where it was, written as a folder's.
    Folder(&'a str),
}

impl<'a> Which<'a> {
    fn parse(text: &'a str) -> Result<Self, Problem> {
        match text.parse() {
            Ok(number @ 1..) => Ok(Self::Number(number)),
            _ if text.ends_with('/') => Ok(Self::Folder(cluster_path(text)?)),
            _ => Ok(Self::Path(cluster_path(text)?)),
        }
    }

    /// Its number: of several that were at one path, that of the one that was removed last.
    async fn find(&self, client: &Client) -> Result<u64, Problem> {
        let (path, needs_folder) = match self {
            Self::Number(number) => return Ok(*number),
            Self::Path(path) => (*path, false),
            Self::Folder(path) => (*path, true),
        };
        let entries = client.trash_list().await?;
        let there = entries.iter().filter(|it| {
            let is_folder = it.node.node_type == NodeType::Folder;
            it.path == path && (is_folder || !needs_folder)
        });
        let last = there.map(|it| it.entry).max();
        last.ok_or(Problem::NotInTrash)
    }
}
