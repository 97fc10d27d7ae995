//! `sarsen put`: files, folders and pipes go up.

use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use sarsen_client::{
    FILES_DEFAULT, PutItem, PutOptions, PutReport, PutSource, STREAMS_DEFAULT, TreeEvent,
    TreeOptions, path,
};
use sarsen_edge::exit::Exit;
use sarsen_protocol::message::NodeType;
use sarsen_protocol::size::REPLICAS_MAX;
use sarsen_protocol::status::Status;
use serde_json::{Value, json};

use crate::context::{Context, as_progress, cluster_path, stream, text};
use crate::durability::DurabilityArgs;
use crate::failure::{Failure, Problem};
use crate::progress::Bar;
use crate::rate::RateArgs;
use crate::target::{Places, groups, own_name};
use crate::transfer::{Transfer, Transfers};

/// What `--jobs` may ask for at a time.
pub(crate) const JOBS_MAX: i64 = 64;

const NAMING: &str = "\
A file that is written to meanwhile is not uploaded, as far as its length and the time of its last
change tell: what a program writes through a mapping is not seen, nor are changes within a second on
file systems that keep no finer times.

Copies are called as with cp: a target that is a folder, or ends in `/`, takes each source under
its own name; any other target is the copy's name itself. A source without a name of its own, as
`.`, `..` or `/`, puts what is in it into the target. Missing folders above the target are made. A
folder that is there is merged with; a file that is there fails without --force, and the rest goes
on.";

/// What `sarsen put` is told.
#[derive(Args, Debug)]
#[command(after_help = NAMING)]
pub(crate) struct PutArgs {
    /// Folders with all that is in them; symbolic links and special files are named and skipped
    #[arg(short)]
    recursive: bool,

    /// Copies of each chunk; the cluster's default if not given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=REPLICAS_MAX as i64))]
    replicas: Option<u8>,

    /// Replace files that are there
    #[arg(long)]
    force: bool,

    /// With --force: replaced files go for good, not into the trash
    #[arg(long, requires = "force")]
    purge: bool,

    /// Chunks of a file, or files, on their way at a time [default: 4 chunks, 32 files]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=JOBS_MAX))]
    jobs: Option<u8>,

    #[command(flatten)]
    durability: DurabilityArgs,

    #[command(flatten)]
    rate: RateArgs,

    /// Local files, with -r folders too; `-` is stdin
    #[arg(required = true, value_name = "SRC")]
    sources: Vec<PathBuf>,

    /// The target in the cluster: a folder, a path that ends in `/`, or the copy's own path
    #[arg(value_name = "DST")]
    target: PathBuf,
}

/// Runs the verb.
pub(crate) async fn run(args: &PutArgs, context: &Context) -> Result<Exit, Failure> {
    let mut transfers = Transfers::begin();
    let target = Target::find(&args.target, args.sources.len(), context).await?;
    if let [source] = &args.sources[..]
        && (!args.recursive || is_stream(source))
    {
        let transfer = transfer(one(args, source, &target, context).await?);
        context.summary(&transfer.document(), &transfer.line())?;
        return Ok(Exit::Done);
    }
    many(args, &target, &mut transfers, context).await?;
    transfers.finish(&target.path, context)
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
        let given = text(given).map_err(&at)?;
        let path = cluster_path(given).map_err(&at)?.to_owned();
        let is_folder = takes_in(given, context).await.map_err(&at)?;
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
        match own_name(source) {
            _ if is_stream(source) => Err(Problem::NoName {
                target: self.path.clone(),
            }),
            Some(name) => Ok(path::join(&self.path, text(Path::new(name))?)),
            None => Ok(self.path.clone()),
        }
    }
}

/// Whether a target in the cluster takes sources in: it is a folder, or ends in `/` and is not there yet.
pub(crate) async fn takes_in(target: &str, context: &Context) -> Result<bool, Problem> {
    let path = cluster_path(target)?;
    let is_written_as_folder = target.ends_with('/');
    match context.client().await?.stat(path).await {
        Ok(node) if node.node_type == NodeType::Folder => Ok(true),
        Ok(_) if is_written_as_folder => Err(Problem::NotAFolder),
        Ok(_) => Ok(false),
        Err(sarsen_client::Error::Refused {
            status: Status::NotFound | Status::NotAFolder,
            ..
        }) => Ok(is_written_as_folder),
        Err(error) => Err(error.into()),
    }
}

/// Whether a local path means stdin or stdout.
pub(crate) fn is_stream(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Uploads all sources, several at a time.
async fn many(
    args: &PutArgs,
    target: &Target,
    transfers: &mut Transfers,
    context: &Context,
) -> Result<(), Failure> {
    let mut places = Places::default();
    let mut items = Vec::new();
    for (place, source) in args.sources.iter().enumerate() {
        let at_source = context.at(&source.display().to_string());
        let path = match target.path_of(source) {
            Ok(path) => path,
            Err(problem) => {
                transfers.fail_one(&at_source(problem), context);
                continue;
            }
        };
        let is_named = own_name(source).is_some();
        if is_named {
            let taken = places.take(source, &path);
            taken.map_err(context.at(&path))?;
        }
        let source = source.clone();
        let target = path;
        items.push((is_named, (place, PutItem { source, target })));
    }
    let client = context.client().await.map_err(context.at(&target.path))?;
    let bar = context.tree_bar(&target.path);
    let mut short = Short::default();
    for group in groups(items) {
        let (numbers, items): (Vec<usize>, _) = group.into_iter().unzip();
        let mut options = TreeOptions::default();
        options.folders = args.recursive;
        options.files_max = args.jobs.map_or(FILES_DEFAULT, usize::from);
        options.each = put_options(args);
        options.each.progress = as_progress(bar.as_ref());
        let mut on_event = |event| match event {
            TreeEvent::Done { item, report } => {
                if args.recursive {
                    short.count(&report);
                } else {
                    Bar::above(bar.as_ref(), || warn_of_short(&report, context));
                    transfers.tell(numbers[item], &transfer(report));
                }
            }
            TreeEvent::Failed { path, error, .. } => {
                let failure = context.at(&path)(error);
                Bar::above(bar.as_ref(), || transfers.fail(&failure, context));
            }
        };
        let sums = client.put_tree(items, options, &mut on_event).await;
        transfers.add(&sums);
    }
    drop(bar);
    short.warn(&target.path, context);
    Ok(())
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
    let mut options = put_options(args);
    options.streams_max = args.jobs.map_or(STREAMS_DEFAULT, usize::from);
    options.progress = as_progress(bar.as_ref());
    let report = client.put(&path, from, options).await;
    drop(bar);
    let report = report.map_err(context.at(&path))?;
    warn_of_short(&report, context);
    Ok(report)
}

fn put_options(args: &PutArgs) -> PutOptions {
    let mut options = PutOptions::default();
    options.replicas = args.replicas.unwrap_or(0);
    options.force = args.force;
    options.purge = args.purge;
    options.limit.clone_from(&args.rate.limit_rate);
    options.level = args.durability.level();
    options
}

/// What has fewer copies than wanted in whole trees, which is told in one line.
#[derive(Debug, Default)]
struct Short {
    files: u64,
    chunks: u64,
}

impl Short {
    fn count(&mut self, report: &PutReport) {
        self.files += u64::from(!report.short.is_empty());
        self.chunks += report.short.len() as u64;
    }

    fn warn(&self, path: &str, context: &Context) {
        if self.files > 0 {
            let what = format!(
                "{} chunks of {} files have fewer copies than wanted until they are repaired; \
                 `sarsen fsck` lists them",
                self.chunks, self.files
            );
            context.warn(path, &what);
        }
    }
}

fn warn_of_short(report: &PutReport, context: &Context) {
    if let Some(first) = report.short.first() {
        let what = format!(
            "{} of its chunks have fewer copies than wanted until they are repaired (chunk {}: {} \
             of {}); `sarsen fsck` lists them",
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
        more: vec![("short", json!(short))],
    }
}
