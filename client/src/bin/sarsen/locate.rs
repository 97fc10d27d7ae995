//! `sarsen locate`: where the chunks of a file are.

use clap::Args;
use sarsen_edge::exit::Exit;
use sarsen_protocol::message::{LocateReply, LocatedChunk};
use serde_json::{Value, json};

use crate::context::Context;
use crate::failure::Failure;
use crate::table::{size, table};

/// What `sarsen locate` is told.
#[derive(Args, Debug)]
pub(crate) struct LocateArgs {
    /// A file in the cluster
    path: String,
}

/// Runs the verb.
pub(crate) async fn run(args: &LocateArgs, context: &Context) -> Result<Exit, Failure> {
    let at = context.at(&args.path);
    let path = context.path(&args.path).await.map_err(&at)?;
    let client = context.client().await.map_err(&at)?;
    let located = client.locate(path).await.map_err(context.at(path))?;
    context.result(&document(path, &located), &text(&located))?;
    Ok(Exit::Done)
}

fn document(path: &str, located: &LocateReply) -> Value {
    let chunks: Vec<Value> = located.chunks.iter().map(chunk).collect();
    json!({ "path": path, "size": located.node.size, "chunks": chunks })
}

fn chunk(chunk: &LocatedChunk) -> Value {
    let replicas: Vec<Value> = chunk
        .replicas
        .iter()
        .map(|replica| {
            json!({
                "server": replica.server.to_string(),
                "data_addr": replica.data_addr,
                "primary": is_primary(chunk, replica.server),
            })
        })
        .collect();
    json!({
        "index": chunk.index,
        "handle": chunk.handle.to_string(),
        "version": chunk.version.0,
        "length": chunk.length,
        "state": chunk.state.name(),
        "replicas": replicas,
    })
}

/// Whether a server has the chunk's lease; nobody has while none is out.
fn is_primary(chunk: &LocatedChunk, server: sarsen_protocol::id::ServerId) -> bool {
    chunk.primary.is_some() && chunk.primary == server
}

fn text(located: &LocateReply) -> String {
    let rows = located
        .chunks
        .iter()
        .map(|chunk| {
            let servers: Vec<String> = chunk
                .replicas
                .iter()
                .map(|replica| format!("{} ({})", replica.server, replica.data_addr))
                .collect();
            vec![
                chunk.index.to_string(),
                chunk.handle.to_string(),
                chunk.version.to_string(),
                size(chunk.length.into()),
                chunk.state.name().to_owned(),
                servers.join(", "),
            ]
        })
        .collect();
    let header = ["INDEX", "HANDLE", "VERSION", "LENGTH", "STATE", "REPLICAS"];
    table(&header, &[0, 2, 3], rows)
}
