//! `sarsen append`: records to the end of a file.

use std::collections::VecDeque;
use std::future::pending;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::pin;

use clap::Args;
use sarsen_client::{Appended, Error, Receipt, RecordWriter, WriteOptions};
use sarsen_edge::exit::Exit;
use serde_json::json;
use tokio::fs::File;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};

use crate::context::{Context, stream, until_unread};
use crate::durability::DurabilityArgs;
use crate::failure::{Failure, Problem};
use crate::shortfall::Fates;

/// Records on their way, of which none was told.
const RECEIPTS_MAX: usize = 4_096;

/// What `sarsen append` is told.
#[derive(Args, Debug)]
pub(crate) struct AppendArgs {
    /// Each line becomes a record, without its newline, in their order; behind one that fails none is begun
    #[arg(long)]
    lines: bool,

    #[command(flatten)]
    durability: DurabilityArgs,

    /// A file in the cluster; `sarsen touch` makes an empty one
    path: String,

    /// A local file; stdin if not given, or `-`. A record has at most a quarter of a chunk less 32 bytes:
    /// 16777184 bytes where chunks have 64 MiB
    file: Option<PathBuf>,
}

/// Runs the verb: the offset of each record, where its header begins, is told in their order. When nobody
/// reads that any more, no line is begun.
pub(crate) async fn run(args: &AppendArgs, context: &Context) -> Result<Exit, Failure> {
    let at = context.at(&args.path);
    let path = context.path(&args.path).await.map_err(&at)?;
    let input = Input::open(args).await.map_err(&at)?;
    let client = context.client().await.map_err(&at)?;
    let mut options = WriteOptions::default();
    options.level = args.durability.level();
    options.ordered = true;
    options.stop_at_failure = true;
    let writer = client.record_writer(path, options).await;
    let mut writer = writer.map_err(context.at(path))?;
    let mut telling = Telling {
        receipts: VecDeque::new(),
        fates: Fates::default(),
        are_lines: args.lines,
        is_unread: false,
        context,
    };
    let appended = match args.lines {
        true => append_lines(input, &mut writer, &mut telling).await,
        false => append_all(input, &mut writer, &mut telling).await,
    };
    appended.map_err(context.at(path))?;
    Ok(Exit::Done)
}

/// Where records come from.
struct Input {
    file: File,
    /// A local file's; none of stdin.
    path: Option<PathBuf>,
    /// Bytes of a regular file, which ends.
    len: Option<u64>,
}

impl Input {
    async fn open(args: &AppendArgs) -> Result<Self, Problem> {
        let path = args.file.as_deref().filter(|path| *path != Path::new("-"));
        let file = match path {
            Some(path) => File::open(path)
                .await
                .map_err(|source| unreadable(Some(path), source))?,
            None => File::from_std(stream("stdin", io::stdin())?),
        };
        let metadata = file.metadata().await;
        let metadata = metadata.map_err(|source| unreadable(path, source))?;
        Ok(Self {
            file,
            path: path.map(Path::to_owned),
            len: metadata.is_file().then_some(metadata.len()),
        })
    }
}

async fn append_all(
    input: Input,
    writer: &mut RecordWriter,
    telling: &mut Telling<'_>,
) -> Result<(), Problem> {
    let most = writer.payload_len_max();
    let mut bytes = Vec::new();
    // A byte more than a record may have tells that there are too many.
    let mut limited = input.file.take(most as u64 + 1);
    let read = limited.read_to_end(&mut bytes).await;
    read.map_err(|source| unreadable(input.path.as_deref(), source))?;
    if bytes.len() > most {
        let len = input.len.filter(|_| input.path.is_some());
        return Err(too_long(len, most as u64));
    }
    let receipt = writer.append(&bytes).await?;
    telling.receipts.push_back(receipt);
    telling.tell_rest().await?;
    match std::mem::take(&mut telling.fates).into_cause() {
        None => Ok(()),
        Some(problem) => Err(problem),
    }
}

/// Tells of each record as soon as it is answered: who feeds lines may wait for that.
async fn append_lines(
    input: Input,
    writer: &mut RecordWriter,
    telling: &mut Telling<'_>,
) -> Result<(), Problem> {
    let most = writer.payload_len_max();
    let unreadable = |source| unreadable(input.path.as_deref(), source);
    let mut bytes = BufReader::new(input.file);
    let mut line = Vec::new();
    let mut begun = 0;
    // What keeps a line from being begun beside those before it.
    let mut refused = None;
    let taken = loop {
        line.clear();
        // With its newline; a line that is longer is no record.
        let mut limited = (&mut bytes).take(most as u64 + 2);
        match telling.until(limited.read_until(b'\n', &mut line)).await? {
            None => break Ok(()),
            Some(Err(source)) => break Err(unreadable(source)),
            Some(Ok(0)) => {
                // There is no other line.
                telling.tell_rest().await?;
                return telling.fates.problem(Some(0), begun);
            }
            Some(Ok(_)) => {}
        }
        let record = line.strip_suffix(b"\n").unwrap_or(&line);
        if record.len() > most {
            refused = Some(too_long(None, most as u64));
            break Ok(());
        }
        match telling.until(writer.append(record)).await? {
            None => break Ok(()),
            Some(Err(error)) => break Err(error.into()),
            Some(Ok(receipt)) => telling.receipts.push_back(receipt),
        }
        begun += 1;
    };
    // What was begun is on its way, and may be there.
    telling.tell_rest().await?;
    if let Some(problem) = refused {
        telling.fates.note_problem(problem);
        begun += 1;
        if !line.ends_with(b"\n") {
            line.clear();
            skip_line(&mut bytes).await.map_err(unreadable)?;
        }
    } else if telling.fates.are_good() {
        // Nobody reads what is told, or nothing can be read.
        return taken;
    }
    let rest = match input.len {
        Some(_) => Some(count_lines(&mut bytes, &line).await.map_err(unreadable)?),
        None => None,
    };
    telling.fates.problem(rest, begun)
}

/// Reads to the end of a line.
async fn skip_line(bytes: &mut BufReader<File>) -> io::Result<()> {
    loop {
        let some = bytes.fill_buf().await?;
        let (len, is_end) = match some.iter().position(|&byte| byte == b'\n') {
            Some(at) => (at + 1, true),
            None => (some.len(), some.is_empty()),
        };
        bytes.consume(len);
        if is_end {
            return Ok(());
        }
    }
}

/// How many lines are left, of the first of which some bytes were read.
async fn count_lines(bytes: &mut BufReader<File>, begun: &[u8]) -> io::Result<u64> {
    let mut lines = u64::from(begun.ends_with(b"\n"));
    let mut is_within = !begun.is_empty() && lines == 0;
    loop {
        let some = bytes.fill_buf().await?;
        let Some(last) = some.last() else {
            return Ok(lines + u64::from(is_within));
        };
        is_within = *last != b'\n';
        lines += some.iter().filter(|&&byte| byte == b'\n').count() as u64;
        let len = some.len();
        bytes.consume(len);
    }
}

/// What is told of records, in their order.
struct Telling<'a> {
    receipts: VecDeque<Receipt>,
    fates: Fates,
    are_lines: bool,
    /// Nobody reads it any more.
    is_unread: bool,
    context: &'a Context,
}

impl Telling<'_> {
    /// Tells what is answered until something else is done, and of too much that isn't first. `None` when
    /// nothing more is to be begun: a record failed, or nobody reads what is told.
    async fn until<T>(&mut self, done: impl Future<Output = T>) -> Result<Option<T>, Problem> {
        let mut done = pin!(done);
        let mut unread = pin!(until_unread(io::stdout()));
        while self.fates.are_good() && !self.is_unread {
            let is_much = self.receipts.len() >= RECEIPTS_MAX;
            let appended = tokio::select! {
                biased;
                appended = first(&mut self.receipts) => appended,
                done = &mut done, if !is_much => return Ok(Some(done)),
                () = &mut unread => {
                    self.is_unread = true;
                    continue;
                }
            };
            self.receipts.pop_front();
            self.tell(appended)?;
        }
        Ok(None)
    }

    /// Waits for all that is under way, and tells each.
    async fn tell_rest(&mut self) -> Result<(), Problem> {
        while let Some(receipt) = self.receipts.pop_front() {
            let appended = receipt.await;
            self.tell(appended)?;
        }
        Ok(())
    }

    /// Tells what became of the next record. An offset behind a line that failed is only told where it says
    /// whose it is.
    fn tell(&mut self, appended: Result<Appended, Error>) -> Result<(), Problem> {
        let number = self.fates.next();
        let is_in_order = self.fates.are_good();
        let appended = match appended {
            Ok(appended) => appended,
            Err(error) => {
                self.fates.note_problem(error.into());
                return Ok(());
            }
        };
        self.fates.note_appended();
        let mut document = json!({
            "offset": appended.offset,
            "length": appended.length,
            "chunk": appended.chunk,
        });
        if self.are_lines {
            document["line"] = number.into();
        }
        if !self.is_unread && (is_in_order || self.context.globals.json) {
            let text = appended.offset.to_string();
            let told = self.context.result_if_read(&document, &text);
            self.is_unread = !told.map_err(|failure| failure.problem)?;
        }
        Ok(())
    }
}

/// What became of the first, of which there may be none yet. It stays where it is.
async fn first(receipts: &mut VecDeque<Receipt>) -> Result<Appended, Error> {
    match receipts.front_mut() {
        Some(first) => first.await,
        None => pending().await,
    }
}

fn too_long(bytes: Option<u64>, bytes_max: u64) -> Problem {
    match bytes {
        Some(bytes) => Error::RecordTooLarge { bytes, bytes_max }.into(),
        None => Problem::RecordTooLong { bytes_max },
    }
}

fn unreadable(path: Option<&Path>, source: io::Error) -> Problem {
    match path {
        Some(path) => Problem::from(Error::Local {
            doing: "read",
            path: path.to_owned(),
            source,
        }),
        None => Problem::Stream {
            name: "stdin",
            source,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn lines_that_are_left_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lines");
        for (text, begun, lines) in [
            ("", "", 0),
            ("", "half", 1),
            ("", "whole\n", 1),
            ("a\nb\n", "", 2),
            ("a\nb", "half", 2),
            ("a\n\nb", "whole\n", 4),
        ] {
            fs::write(&path, text).unwrap();
            let mut bytes = BufReader::new(File::open(&path).await.unwrap());
            let counted = count_lines(&mut bytes, begun.as_bytes()).await.unwrap();
            assert_eq!(counted, lines, "{begun:?} {text:?}");
        }
        fs::write(&path, "the end\nb\nc\n").unwrap();
        let mut bytes = BufReader::new(File::open(&path).await.unwrap());
        skip_line(&mut bytes).await.unwrap();
        assert_eq!(count_lines(&mut bytes, b"").await.unwrap(), 2);
    }
}
