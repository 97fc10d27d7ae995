//! `sarsen append`: records to the end of a file.

use std::collections::VecDeque;
use std::future::pending;
use std::io;
use std::path::PathBuf;
use std::pin::pin;

use clap::Args;
use sarsen_client::{Appended, Error, Receipt, RecordWriter, WriteOptions};
use sarsen_edge::exit::{Exit, Explain as _};
use serde_json::json;
use tokio::fs::File;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};

use crate::context::{Context, cluster_path, stream};
use crate::durability::DurabilityArgs;
use crate::failure::{Failure, Problem};
use crate::transfer::Exits;

/// Records on their way, of which none was told.
const RECEIPTS_MAX: usize = 4_096;

/// What `sarsen append` is told.
#[derive(Args, Debug)]
pub(crate) struct AppendArgs {
    /// Each line becomes a record, without its newline, in their order
    #[arg(long)]
    lines: bool,

    #[command(flatten)]
    durability: DurabilityArgs,

    /// A file in the cluster; `sarsen touch` makes an empty one
    path: String,

    /// A local file; stdin if not given, or `-`
    file: Option<PathBuf>,
}

/// Runs the verb: the offset of each record, where its header begins, is told in their order. When nobody
/// reads that any more, the rest is appended all the same.
pub(crate) async fn run(args: &AppendArgs, context: &Context) -> Result<Exit, Failure> {
    let at = context.at(&args.path);
    let path = cluster_path(&args.path).map_err(&at)?;
    let input = open(args).await.map_err(&at)?;
    let client = context.client().await.map_err(&at)?;
    let mut options = WriteOptions::default();
    options.level = args.durability.level();
    options.ordered = true;
    let writer = client.record_writer(path, options).await;
    let mut appending = Appending {
        writer: writer.map_err(context.at(path))?,
        receipts: VecDeque::new(),
        told: 0,
        exits: Exits::default(),
        are_many: args.lines,
        path,
        context,
    };
    let taken = match args.lines {
        true => appending.take_lines(input).await,
        false => appending.take_all(input).await,
    };
    // What was taken before a failure is on its way, and may be there.
    let told = appending.tell_rest().await;
    taken.and(told).map_err(context.at(path))?;
    Ok(appending.exits.common())
}

async fn open(args: &AppendArgs) -> Result<File, Problem> {
    match &args.file {
        Some(path) if path.as_os_str() != "-" => {
            let opened = File::open(path).await;
            let local = |source| Error::Local {
                doing: "read",
                path: path.clone(),
                source,
            };
            Ok(opened.map_err(local)?)
        }
        _ => Ok(File::from_std(stream("stdin", io::stdin())?)),
    }
}

struct Appending<'a> {
    writer: RecordWriter,
    /// In the order of the records.
    receipts: VecDeque<Receipt>,
    /// Records of which was told what became of them.
    told: u64,
    exits: Exits,
    are_many: bool,
    path: &'a str,
    context: &'a Context,
}

impl Appending<'_> {
    async fn take_all(&mut self, input: File) -> Result<(), Problem> {
        let most = self.writer.payload_len_max();
        let mut bytes = Vec::new();
        // A byte more than a record may have tells that there are too many.
        let mut input = input.take(most as u64 + 1);
        input.read_to_end(&mut bytes).await.map_err(unreadable)?;
        self.append(&bytes).await
    }

    /// Tells of each record as soon as it is answered: who feeds lines may wait for that.
    async fn take_lines(&mut self, input: File) -> Result<(), Problem> {
        let most = self.writer.payload_len_max() as u64;
        let mut input = BufReader::new(input);
        let mut line = Vec::new();
        // What keeps one record out may keep out all, each for as long as it takes to tell.
        while self.exits.common() == Exit::Done {
            line.clear();
            // With its newline; a line that is longer is no record.
            let mut limited = (&mut input).take(most + 2);
            let read = self
                .tell_until(limited.read_until(b'\n', &mut line))
                .await?;
            if read.map_err(unreadable)? == 0 {
                return Ok(());
            }
            let record = line.strip_suffix(b"\n").unwrap_or(&line);
            self.append(record).await?;
        }
        Ok(())
    }

    async fn append(&mut self, record: &[u8]) -> Result<(), Problem> {
        let receipt = self.writer.append(record).await?;
        self.receipts.push_back(receipt);
        Ok(())
    }

    /// Tells what is answered until something else is done, and of too much that isn't first.
    async fn tell_until<T>(&mut self, done: impl Future<Output = T>) -> Result<T, Problem> {
        let mut done = pin!(done);
        loop {
            let is_much = self.receipts.len() >= RECEIPTS_MAX;
            let appended = tokio::select! {
                biased;
                appended = first(&mut self.receipts) => appended,
                done = &mut done, if !is_much => return Ok(done),
            };
            self.receipts.pop_front();
            self.tell(appended)?;
        }
    }

    /// Waits for all that is under way, and tells each.
    async fn tell_rest(&mut self) -> Result<(), Problem> {
        while let Some(receipt) = self.receipts.pop_front() {
            let appended = receipt.await;
            self.tell(appended)?;
        }
        Ok(())
    }

    /// Tells what became of the next record. One that failed keeps none of the others from being told.
    fn tell(&mut self, appended: Result<Appended, Error>) -> Result<(), Problem> {
        self.told += 1;
        let appended = match appended {
            Ok(appended) => appended,
            Err(error) => {
                let failure = match self.are_many {
                    true => self
                        .context
                        .at(&format!("{} (record {})", self.path, self.told))(
                        error
                    ),
                    false => self.context.at(self.path)(error),
                };
                self.context.tell(&failure);
                self.exits.add(failure.exit());
                return Ok(());
            }
        };
        let document = json!({
            "offset": appended.offset,
            "length": appended.length,
            "chunk": appended.chunk,
        });
        let text = appended.offset.to_string();
        let told = self.context.result(&document, &text);
        told.map_err(|failure| failure.problem)
    }
}

/// What became of the first, of which there may be none yet. It stays where it is.
async fn first(receipts: &mut VecDeque<Receipt>) -> Result<Appended, Error> {
    match receipts.front_mut() {
        Some(first) => first.await,
        None => pending().await,
    }
}

fn unreadable(source: io::Error) -> Problem {
    Error::Source { source }.into()
}
