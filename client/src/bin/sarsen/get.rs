//! `sarsen get`: files come down.

use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use sarsen_client::{GetOptions, GetReport, GetTarget, STREAMS_DEFAULT, path};
use sarsen_edge::exit::Exit;
use serde_json::{Value, json};

use crate::context::{Context, as_progress, cluster_path, common_exit, stream, text};
use crate::failure::{Failure, Problem};
use crate::put::{JOBS_MAX, is_stream};
use crate::transfer::{Transfer, Transfers};

/// What `sarsen get` is told.
#[derive(Args, Debug)]
pub(crate) struct GetArgs {
    /// Chunks on their way at a time
    #[arg(long, value_name = "N", default_value_t = STREAMS_DEFAULT as u8, value_parser = clap::value_parser!(u8).range(1..=JOBS_MAX))]
    jobs: u8,

    /// Files in the cluster
    #[arg(required = true, value_name = "SRC")]
    sources: Vec<PathBuf>,

    /// The local target: a folder, the file's new name, or `-` for stdout
    #[arg(value_name = "DST")]
    target: PathBuf,
}

/// Runs the verb.
pub(crate) async fn run(args: &GetArgs, context: &Context) -> Result<Exit, Failure> {
    let (sources, target) = (&args.sources, &args.target);
    let is_folder = target.is_dir() || target.as_os_str().as_encoded_bytes().ends_with(b"/");
    if sources.len() > 1 && !is_folder && !is_stream(target) {
        let target = target.display().to_string();
        let at = context.at(&target);
        return Err(at(Problem::TargetNotAFolder { target }));
    }
    let is_one = sources.len() == 1;
    let mut transfers = Transfers::default();
    for source in sources {
        match one(args, source, target, is_folder, context).await {
            Ok(report) => transfers.add(transfer(report)),
            Err(failure) if is_one || failure.is_closed_pipe() => return Err(failure),
            Err(failure) => transfers.fail(failure, context),
        }
    }
    // Stdout that takes the bytes takes nothing else.
    if !is_stream(target) {
        transfers.summarize(&target.display().to_string(), is_one, context)?;
    }
    Ok(common_exit(&transfers.failures))
}

async fn one(
    args: &GetArgs,
    source: &Path,
    target: &Path,
    is_folder: bool,
    context: &Context,
) -> Result<GetReport, Failure> {
    let at = context.at(&source.display().to_string());
    let source = text(source).and_then(cluster_path).map_err(&at)?;
    let to = match (is_stream(target), is_folder) {
        (true, _) => GetTarget::File(stream("stdout", io::stdout()).map_err(&at)?),
        (false, true) => GetTarget::Path(target.join(path::base_name(source))),
        (false, false) => GetTarget::Path(target.to_owned()),
    };
    let client = context.client().await.map_err(&at)?;
    let bar = context.bar(source);
    let mut options = GetOptions::default();
    options.streams_max = args.jobs.into();
    options.progress = as_progress(bar.as_ref());
    let report = client.get(source, to, options).await;
    drop(bar);
    let report = report.map_err(context.at(source))?;
    warn_of_bad(&report, context);
    Ok(report)
}

/// Tells which replicas were bad.
pub(crate) fn warn_of_bad(report: &GetReport, context: &Context) {
    for bad in &report.bad {
        let what = format!(
            "chunk {} ({}): a bad replica on {}; the bytes came from another",
            bad.index, bad.handle, bad.what
        );
        context.warn(&report.path, &what);
    }
}

fn transfer(report: GetReport) -> Transfer {
    let bad: Vec<Value> = report
        .bad
        .iter()
        .map(|it| {
            json!({
                "index": it.index,
                "handle": it.handle.to_string(),
                "server": it.server.to_string(),
                "what": it.what,
            })
        })
        .collect();
    Transfer {
        path: report.path,
        bytes: report.bytes,
        elapsed: report.elapsed,
        crc32: report.crc32,
        chunks: report.node.chunks,
        more: ("bad_replicas", json!(bad)),
    }
}
