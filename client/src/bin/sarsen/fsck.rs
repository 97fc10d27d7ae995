//! `sarsen fsck`: what is wrong in the cluster, from metadata and reports; and the one way out for a
//! chunk whose good copies are gone.

use clap::Args;
use sarsen_client::{Client, FsckReport};
use sarsen_edge::exit::Exit;
use sarsen_edge::json;
use sarsen_protocol::id::ChunkHandle;
use sarsen_protocol::message::Finding;
use serde_json::json;

use crate::context::Context;
use crate::failure::Failure;
use crate::table::table;

/// What is told behind findings of chunks that nobody can read.
const HINT: &str = "\na chunk that is missing or unavailable comes back with the servers that have it; \
     if they are lost, `sarsen fsck --accept-loss CHUNK` goes on with the best copy that is left";

/// What `sarsen fsck` is told.
#[derive(Args, Debug)]
pub(crate) struct FsckArgs {
    /// Give up what is lost of a chunk without a good copy, and go on with the best that there is
    #[arg(long, value_name = "HANDLE", value_parser = handle, conflicts_with = "path")]
    accept_loss: Option<ChunkHandle>,

    /// Only this file or folder; without it all, the trash too
    #[arg(default_value = "/")]
    path: String,
}

/// Runs the verb; the exit code says whether anything was found.
pub(crate) async fn run(args: &FsckArgs, context: &Context) -> Result<Exit, Failure> {
    let at = context.at(&args.path);
    let path = context.path(&args.path).await.map_err(&at)?;
    let client = context.client().await.map_err(&at)?;
    if let Some(handle) = args.accept_loss {
        return accept_loss(handle, client, context).await;
    }
    let report = client.fsck(path).await.map_err(context.at(path))?;
    let document = json::fsck(report.files, report.chunks, &report.findings);
    context.result(&document, &text(&report))?;
    match report.findings.is_empty() {
        true => Ok(Exit::Done),
        false => Ok(Exit::Failed),
    }
}

/// A chunk's name, as `fsck` and `locate` write it.
fn handle(text: &str) -> Result<ChunkHandle, &'static str> {
    let is_handle = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = u64::from_str_radix(text, 16).ok().filter(|_| is_handle);
    number.map(ChunkHandle).ok_or("a handle is 16 hex digits")
}

async fn accept_loss(
    handle: ChunkHandle,
    client: &Client,
    context: &Context,
) -> Result<Exit, Failure> {
    let accepted = client.accept_loss(handle).await;
    let accepted = accepted.map_err(context.at(&handle.to_string()))?;
    let document = json!({
        "handle": handle.to_string(),
        "version": accepted.version.0,
        "length": accepted.length,
        "server": accepted.server.to_string(),
    });
    let text = format!(
        "chunk {handle} goes on with the {} bytes that server {} has",
        accepted.length, accepted.server
    );
    context.result(&document, &text)?;
    Ok(Exit::Done)
}

fn text(report: &FsckReport) -> String {
    let looked_at = format!("{} files, {} chunks", report.files, report.chunks);
    if report.findings.is_empty() {
        return format!("healthy: {looked_at}");
    }
    let rows = report
        .findings
        .iter()
        .map(|it| {
            let server = match it.server.is_some() {
                true => it.server.to_string(),
                false => String::new(),
            };
            vec![
                it.finding.name().to_owned(),
                it.handle.to_string(),
                format!("{} of {}", it.have, it.want),
                server,
                it.path.clone(),
            ]
        })
        .collect();
    let header = ["FINDING", "CHUNK", "GOOD COPIES", "SERVER", "PATH"];
    let findings = table(&header, &[], rows);
    let count = report.findings.len();
    let mut classes = report.findings.iter().map(|it| it.finding);
    let is_out_of_reach = |it| matches!(it, Finding::Missing | Finding::Unavailable);
    let hint = if classes.any(is_out_of_reach) {
        HINT
    } else {
        ""
    };
    format!("{findings}\n{count} findings in {looked_at}{hint}")
}

#[cfg(test)]
mod tests {
    use sarsen_protocol::id::ServerId;
    use sarsen_protocol::message::FsckFinding;

    use super::*;

    #[test]
    fn what_to_do_about_what_is_out_of_reach_is_told() {
        let finding = |finding| FsckFinding {
            finding,
            handle: ChunkHandle(1),
            path: "/f".to_owned(),
            want: 3,
            have: 0,
            server: ServerId::NONE,
        };
        let text_of = |found| {
            text(&FsckReport {
                files: 1,
                chunks: 1,
                findings: vec![finding(found)],
            })
        };
        assert!(text_of(Finding::Missing).ends_with(HINT));
        assert!(text_of(Finding::Unavailable).ends_with(HINT));
        assert!(!text_of(Finding::Stale).contains(HINT));
    }

    #[test]
    fn handles_are_taken_as_they_are_shown() {
        let shown = ChunkHandle(0x2a).to_string();
        assert_eq!(handle(&shown), Ok(ChunkHandle(0x2a)));
        for wrong in [
            "",
            "2a",
            "+00000000000002a",
            "000000000000002g",
            "00000000000000002a",
        ] {
            assert!(handle(wrong).is_err(), "{wrong}");
        }
    }
}
