//! `sarsen get`: files and folders come down.

use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use sarsen_client::{
    Error, FILES_DEFAULT, GetItem, GetOptions, GetReport, GetTarget, STREAMS_DEFAULT, TreeEvent,
    TreeOptions,
};
use sarsen_edge::exit::Exit;
use serde_json::{Value, json};

use crate::context::{Context, as_progress, cluster_path, stream, text};
use crate::failure::{Failure, Problem};
use crate::progress::Bar;
use crate::put::{JOBS_MAX, is_stream};
use crate::rate::RateArgs;
use crate::table::size;
use crate::target::{Places, groups, is_written_as_folder, own_name};
use crate::transfer::{Transfer, Transfers};

const NAMING: &str = "\
Copies are called as with cp: a target that is a folder, or ends in `/`, takes each source under
its own name; any other target is the copy's name itself. The source `/` puts what is in it into
the target. A file that is there is replaced when its copy is whole, and a folder that is there is
merged with.";

/// What `sarsen get` is told.
#[derive(Args, Debug)]
#[command(after_help = NAMING)]
pub(crate) struct GetArgs {
    /// Folders with all that is in them
    #[arg(short)]
    recursive: bool,

    /// Go on with what an earlier get of the same file left beside the target, and leave what there
    /// is for another when this one fails; files that are there whole don't come again
    #[arg(long)]
    resume: bool,

    /// Chunks of a file, or files, on their way at a time [default: 4 chunks, 32 files]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=JOBS_MAX))]
    jobs: Option<u8>,

    #[command(flatten)]
    rate: RateArgs,

    /// Files in the cluster, with -r folders too
    #[arg(required = true, value_name = "SRC")]
    sources: Vec<PathBuf>,

    /// The local target: a folder, the copy's own name, or `-` for stdout
    #[arg(value_name = "DST")]
    target: PathBuf,
}

/// Runs the verb.
pub(crate) async fn run(args: &GetArgs, context: &Context) -> Result<Exit, Failure> {
    let mut transfers = Transfers::begin();
    let target = Target::find(args, context)?;
    if let [source] = &args.sources[..]
        && !args.recursive
    {
        let report = one(args, source, &target, context).await?;
        // Stdout that takes the bytes takes nothing else.
        if !target.is_stream {
            let transfer = transfer(report);
            context.summary(&transfer.document(), &transfer.line())?;
        }
        return Ok(Exit::Done);
    }
    if target.is_stream {
        return one_after_the_other(args, &target, transfers, context).await;
    }
    many(args, &target, &mut transfers, context).await?;
    transfers.finish(&target.path.display().to_string(), context)
}

/// Where files go.
struct Target<'a> {
    path: &'a Path,
    is_folder: bool,
    is_stream: bool,
}

impl<'a> Target<'a> {
    fn find(args: &'a GetArgs, context: &Context) -> Result<Self, Failure> {
        let path: &Path = &args.target;
        let shown = path.display().to_string();
        let at = context.at(&shown);
        let is_stream = is_stream(path);
        let is_folder = !is_stream && (path.is_dir() || is_written_as_folder(path));
        if is_stream && args.recursive {
            return Err(at(Problem::TreeToStream));
        }
        if args.sources.len() > 1 && !is_folder && !is_stream {
            return Err(at(Problem::TargetNotAFolder { target: shown }));
        }
        Ok(Self {
            path,
            is_folder,
            is_stream,
        })
    }

    /// Makes the folder that files are to go into, where its `/` alone says that it is one.
    fn make_folder(&self) -> Result<(), Problem> {
        if !self.is_folder {
            return Ok(());
        }
        match std::fs::create_dir(self.path) {
            // Not asked before: somebody else may make it in between.
            Err(_) if self.path.is_dir() => Ok(()),
            made => made.map_err(|source| {
                let path = self.path.to_owned();
                let doing = "make the folder";
                let error = Error::Local {
                    doing,
                    path,
                    source,
                };
                error.into()
            }),
        }
    }

    /// The path of a source's copy.
    fn path_of(&self, source: &Path) -> PathBuf {
        match own_name(source) {
            Some(name) if self.is_folder => self.path.join(name),
            _ => self.path.to_owned(),
        }
    }
}

/// Downloads all sources, several at a time.
async fn many(
    args: &GetArgs,
    target: &Target<'_>,
    transfers: &mut Transfers,
    context: &Context,
) -> Result<(), Failure> {
    let shown = target.path.display().to_string();
    let mut places = Places::default();
    let mut items = Vec::new();
    for (place, source) in args.sources.iter().enumerate() {
        let at_source = context.at(&source.display().to_string());
        let path = match text(source).and_then(cluster_path) {
            Ok(path) => path.to_owned(),
            Err(problem) => {
                transfers.fail_one(&at_source(problem), context);
                continue;
            }
        };
        let copy = target.path_of(source);
        let is_named = own_name(source).is_some();
        if is_named {
            let taken = places.take(source, &copy.display().to_string());
            taken.map_err(context.at(&shown))?;
        }
        let item = GetItem {
            source: path,
            target: copy,
        };
        items.push((is_named, (place, item)));
    }
    let client = context.client().await.map_err(context.at(&shown))?;
    let mut found = Vec::new();
    for (is_named, (place, item)) in items {
        let source = &args.sources[place];
        match path_in_cluster(source, context).await {
            Ok(_) => found.push((is_named, (place, item))),
            Err(problem) => {
                let at_source = context.at(&source.display().to_string());
                transfers.fail_one(&at_source(problem), context);
            }
        }
    }
    target.make_folder().map_err(context.at(&shown))?;
    let bar = context.tree_bar(&shown);
    for group in groups(found) {
        let (numbers, items): (Vec<usize>, _) = group.into_iter().unzip();
        let mut options = TreeOptions::default();
        options.folders = args.recursive;
        options.files_max = args.jobs.map_or(FILES_DEFAULT, usize::from);
        options.each = GetOptions::default();
        options.each.resume = args.resume;
        options.each.limit.clone_from(&args.rate.limit_rate);
        options.each.progress = as_progress(bar.as_ref());
        let mut on_event = |event| match event {
            TreeEvent::Done { item, report } => {
                Bar::above(bar.as_ref(), || {
                    warn_of_bad(&report, context);
                    tell_of_resumed(&report, context);
                });
                if !args.recursive {
                    transfers.tell(numbers[item], &transfer(report));
                }
            }
            TreeEvent::Failed { path, error, .. } => {
                let failure = context.at(&path)(error);
                Bar::above(bar.as_ref(), || transfers.fail(&failure, context));
            }
        };
        let sums = client.get_tree(items, options, &mut on_event).await;
        transfers.add(&sums);
    }
    Ok(())
}

/// The path of a source that is there.
async fn path_in_cluster<'a>(source: &'a Path, context: &Context) -> Result<&'a str, Problem> {
    context.path(text(source)?).await
}

/// Writes several files to stdout.
async fn one_after_the_other(
    args: &GetArgs,
    target: &Target<'_>,
    mut transfers: Transfers,
    context: &Context,
) -> Result<Exit, Failure> {
    for source in &args.sources {
        match one(args, source, target, context).await {
            Ok(_) => {}
            // Those before it may have failed.
            Err(failure) if failure.is_closed_pipe() => break,
            Err(failure) => transfers.fail_one(&failure, context),
        }
    }
    Ok(transfers.exit())
}

async fn one(
    args: &GetArgs,
    source: &Path,
    target: &Target<'_>,
    context: &Context,
) -> Result<GetReport, Failure> {
    let at = context.at(&source.display().to_string());
    let path = path_in_cluster(source, context).await.map_err(&at)?;
    let to = match target.is_stream {
        true => GetTarget::File(stream("stdout", io::stdout()).map_err(&at)?),
        false => GetTarget::Path(target.path_of(source)),
    };
    let client = context.client().await.map_err(&at)?;
    target.make_folder().map_err(&at)?;
    let bar = context.bar(path);
    let mut options = GetOptions::default();
    options.resume = args.resume;
    options.limit.clone_from(&args.rate.limit_rate);
    options.streams_max = args.jobs.map_or(STREAMS_DEFAULT, usize::from);
    options.progress = as_progress(bar.as_ref());
    let report = client.get(path, to, options).await;
    drop(bar);
    let report = report.map_err(context.at(path))?;
    warn_of_bad(&report, context);
    tell_of_resumed(&report, context);
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

/// Tells what became of an earlier download of the same file.
fn tell_of_resumed(report: &GetReport, context: &Context) {
    if report.begun_anew {
        let what = "begun anew: what was left is of another file, or of another state of it";
        context.warn(&report.path, what);
    }
    // Of a folder that is gone on with most files are whole.
    if report.resumed > 0 && report.resumed < report.bytes {
        let what = format!("went on behind {} that were there", size(report.resumed));
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
        more: vec![
            ("bad_replicas", json!(bad)),
            ("resumed", json!(report.resumed)),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::thread;

    fn target(path: &Path) -> Target<'_> {
        Target {
            path,
            is_folder: true,
            is_stream: false,
        }
    }

    /// The second of two that made it at the same time was told that it exists already.
    #[test]
    fn two_make_the_same_folder_at_once() {
        let folder = tempfile::tempdir().unwrap();
        // A long way, so that both are on it at the same time.
        let place = folder.path().join("./".repeat(1_900));
        let (arrived, failed) = (AtomicU32::new(0), AtomicU32::new(0));
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for round in 0..200 {
                        let path = place.join(round.to_string());
                        arrived.fetch_add(1, Ordering::Relaxed);
                        // A barrier would wake them one after the other.
                        while arrived.load(Ordering::Relaxed) < 2 * (round + 1) {
                            thread::yield_now();
                        }
                        let made = target(&path).make_folder();
                        // Told at the end, since the other one would wait for this one.
                        failed.fetch_add(u32::from(made.is_err()), Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(failed.into_inner(), 0);
    }

    #[test]
    fn a_file_in_the_way_of_a_folder_is_told() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("file");
        std::fs::write(&path, b"").unwrap();
        assert!(target(&path).make_folder().is_err());
    }
}
