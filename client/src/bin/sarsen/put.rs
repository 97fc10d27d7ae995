//! `sarsen put`: files and pipes go up.

use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use sarsen_client::{PutOptions, PutReport, PutSource, STREAMS_DEFAULT, path};
use sarsen_edge::exit::Exit;
use sarsen_protocol::message::{Level, NodeType};
use sarsen_protocol::size::REPLICAS_MAX;
use sarsen_protocol::status::Status;
use serde_json::{Value, json};

use crate::context::{Context, as_progress, cluster_path, common_exit, stream, text};
use crate::failure::{Failure, Problem};
use crate::transfer::{Transfer, Transfers};

/// Chunks that `--jobs` may ask for at a time.
pub(crate) const JOBS_MAX: i64 = 64;

/// What `sarsen put` is told.
#[derive(Args, Debug)]
pub(crate) struct PutArgs {
    /// Copies of each chunk; the cluster's default if not given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=REPLICAS_MAX as i64))]
    replicas: Option<u8>,

    /// Replace a file that is there
    #[arg(long)]
    force: bool,

    /// With --force: the replaced file goes for good, not into the trash
    #[arg(long, requires = "force")]
    purge: bool,

    /// Chunks on their way at a time
    #[arg(long, value_name = "N", default_value_t = STREAMS_DEFAULT as u8, value_parser = clap::value_parser!(u8).range(1..=JOBS_MAX))]
    jobs: u8,

    /// What is acknowledged has reached this on every copy
    #[arg(long, value_enum, default_value_t = Durability::Disk)]
    durability: Durability,

    /// Local files; `-` is stdin
    #[arg(required = true, value_name = "SRC")]
    sources: Vec<PathBuf>,

    /// The target in the cluster: a folder, a path that ends in `/`, or the file's new path
    #[arg(value_name = "DST")]
    target: PathBuf,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Durability {
    /// Stable storage
    Disk,
    /// Memory
    Memory,
}

/// Runs the verb.
pub(crate) async fn run(args: &PutArgs, context: &Context) -> Result<Exit, Failure> {
    let sources = &args.sources;
    let target = Target::find(&args.target, sources.len(), context).await?;
    let is_one = sources.len() == 1;
    let mut transfers = Transfers::default();
    for source in sources {
        match one(args, source, &target, context).await {
            Ok(report) => transfers.add(transfer(report)),
            Err(failure) if is_one => return Err(failure),
            Err(failure) => transfers.fail(failure, context),
        }
    }
    transfers.summarize(&target.path, is_one, context)?;
    Ok(common_exit(&transfers.failures))
}

/// Where files go.
struct Target {
    path: String,
    is_folder: bool,
}

impl Target {
    async fn find(given: &Path, sources: usize, context: &Context) -> Result<Self, Failure> {
        let shown = given.display().to_string();
        let at = context.at(&shown);
        let text = text(given).map_err(&at)?;
        let path = cluster_path(text).map_err(&at)?.to_owned();
        let is_folder = text.ends_with('/') || is_folder(&path, context).await.map_err(&at)?;
        if sources > 1 && !is_folder {
            let target = path;
            return Err(at(Problem::TargetNotAFolder { target }));
        }
        Ok(Self { path, is_folder })
    }

    /// The path of a source's copy.
    fn path_of(&self, source: &Path) -> Result<String, Problem> {
        if !self.is_folder {
            return Ok(self.path.clone());
        }
        match source.file_name() {
            Some(name) if !is_stream(source) => Ok(path::join(&self.path, text(Path::new(name))?)),
            _ => Err(Problem::NoName {
                target: self.path.clone(),
            }),
        }
    }
}

/// Whether a path is a folder in the cluster.
pub(crate) async fn is_folder(path: &str, context: &Context) -> Result<bool, Problem> {
    match context.client().await?.stat(path).await {
        Ok(node) => Ok(node.node_type == NodeType::Folder),
        Err(sarsen_client::Error::Refused {
            status: Status::NotFound | Status::NotAFolder,
            ..
        }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Whether a local path means stdin or stdout.
pub(crate) fn is_stream(path: &Path) -> bool {
    path.as_os_str() == "-"
}

async fn one(
    args: &PutArgs,
    source: &Path,
    target: &Target,
    context: &Context,
) -> Result<PutReport, Failure> {
    let at_source = context.at(&source.display().to_string());
    let path = target.path_of(source).map_err(&at_source)?;
    let at = context.at(&path);
    let from = match is_stream(source) {
        true => PutSource::File(stream("stdin", io::stdin()).map_err(&at)?),
        false => PutSource::Path(source.to_owned()),
    };
    let client = context.client().await.map_err(&at)?;
    let bar = context.bar(&path);
    let mut options = PutOptions::default();
    options.replicas = args.replicas.unwrap_or(0);
    options.force = args.force;
    options.purge = args.purge;
    options.streams_max = args.jobs.into();
    options.progress = as_progress(bar.as_ref());
    options.level = match args.durability {
        Durability::Disk => Level::Disk,
        Durability::Memory => Level::Memory,
    };
    let report = client.put(&path, from, options).await;
    drop(bar);
    let report = report.map_err(context.at(&path))?;
    warn_of_short(&report, context);
    Ok(report)
}

fn warn_of_short(report: &PutReport, context: &Context) {
    if let Some(first) = report.short.first() {
        let what = format!(
            "{} of its chunks have fewer copies than wanted (chunk {}: {} of {}); `sarsen fsck` \
             lists them",
            report.short.len(),
            first.index,
            first.copies,
            first.wanted
        );
        context.warn(&report.path, &what);
    }
}

fn transfer(report: PutReport) -> Transfer {
    let short: Vec<Value> = report
        .short
        .iter()
        .map(|it| json!({ "index": it.index, "copies": it.copies, "wanted": it.wanted }))
        .collect();
    Transfer {
        path: report.path,
        bytes: report.bytes,
        elapsed: report.elapsed,
        crc32: Some(report.crc32),
        chunks: report.node.chunks,
        more: ("short", json!(short)),
    }
}
