//! Reads of files that change: what `client/src/{newest,open_file,record_reader}.rs` do around the
//! shipped cores.

use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use sarsen_client::core::newest::{Action, Confirm, size};
use sarsen_client::core::read::PAGE_LEN;
use sarsen_client::core::records::{Records, Step};
use sarsen_protocol::id::FileId;
use sarsen_protocol::message::{ChunkState, Locate, LocateReply, LocatedChunk, Newest};

use super::Client;
use super::get::read_part;
use super::master::Unanswered;
use crate::observation::{FoundRecord, Observation};
use crate::oracle::image::Layout;
use crate::oracle::op::{Done, Outcome};
use crate::oracle::records::RecordId;

/// Why a file could not be read.
enum Failed {
    Unanswered(Unanswered),
    NoReplica,
}

/// Reads all records of a file, as they are at the beginning or later.
pub async fn read_records(client: &Rc<Client>, path: &str) -> Outcome {
    let began = client.now();
    let page = match locate(client, path, true).await {
        Ok(page) => page,
        Err(failed) => return outcome(failed),
    };
    let mut records = Records::new(0, false);
    let end = size(&page);
    records.handle_end(end, open_from(&page));
    let mut found = Vec::new();
    if !read_to_end(client, &page, end, &mut records, &mut found).await {
        return Outcome::NoGoodBytes;
    }
    client.world.observe(&Observation::RecordsRead {
        file: page.node.file_id,
        began,
        followed: false,
        end,
        records: &found,
        leftover: records.leftover(),
    });
    Outcome::Done(Done::Read)
}

/// Reads the records of a file, and for some time those that come.
///
/// It goes on behind a chunk when that is sealed (`spec/records.md` section 3, "Following").
pub async fn follow_records(client: &Rc<Client>, path: &str, time: Duration) -> Outcome {
    let began = client.now();
    let mut page = match locate(client, path, true).await {
        Ok(page) => page,
        Err(failed) => return outcome(failed),
    };
    let file = page.node.file_id;
    let mut records = Records::new(0, true);
    let (mut end, mut open_from) = settled_end(&page);
    let mut found = Vec::new();
    let mut passed = None;
    loop {
        records.handle_end(end, open_from);
        if !read_to_end(client, &page, end, &mut records, &mut found).await {
            break;
        }
        passed = Some(end);
        if client.now() >= began + time || client.is_stopping() {
            break;
        }
        let wait = client.chance(|random| random.micros(10_000, 300_000));
        client.sleep(wait).await;
        page = match locate(client, path, true).await {
            Ok(page) if page.node.file_id == file => page,
            _ => break,
        };
        let before = end;
        (end, open_from) = settled_end(&page);
        if end < before {
            // Something was lost, or its chunk is open again and can't be asked.
            break;
        }
    }
    let Some(end) = passed else {
        return Outcome::NoGoodBytes;
    };
    client.world.observe(&Observation::RecordsRead {
        file,
        began,
        followed: true,
        end,
        records: &found,
        leftover: records.leftover(),
    });
    Outcome::Done(Done::Read)
}

/// Up to where nothing will come any more in front of the first chunk that is open, and what is committed
/// of that one, with where it begins.
fn settled_end(page: &LocateReply) -> (u64, Option<u64>) {
    let mut chunks = page.chunks.iter();
    match chunks.find(|chunk| chunk.state == ChunkState::Open) {
        None => (size(page), None),
        Some(chunk) => {
            let start = start(page, chunk.index);
            (start + u64::from(chunk.length), Some(start))
        }
    }
}

/// Takes the records up to the present end; false if no replica gave good bytes.
async fn read_to_end(
    client: &Rc<Client>,
    page: &LocateReply,
    end: u64,
    records: &mut Records,
    found: &mut Vec<FoundRecord>,
) -> bool {
    loop {
        match records.poll() {
            Step::Need { at, len } => match hole_end(page, at, end) {
                Some(to) => records.handle_hole(to),
                None => {
                    let more = client.chance(|random| random.below(200_000));
                    let to = end.min(at + len + more);
                    let Some(bytes) = read_part(client, page, at..to).await else {
                        return false;
                    };
                    records.handle_bytes(&bytes);
                }
            },
            Step::Record(it) => found.push(FoundRecord {
                offset: it.offset,
                id: RecordId {
                    session: it.session,
                    number: it.number,
                },
                payload: records.payload(&it).to_vec().into(),
            }),
            Step::Wait | Step::End => return true,
        }
    }
}

/// Reads cells of a file; all that it has if none are named.
pub async fn read_cells(
    client: &Rc<Client>,
    path: &str,
    layout: Layout,
    cells: Option<Range<u32>>,
    newest: bool,
) -> Outcome {
    let began = client.now();
    let page = match locate(client, path, newest).await {
        Ok(page) => page,
        Err(failed) => return outcome(failed),
    };
    let is_whole = cells.is_none();
    let range = match cells {
        Some(cells) => layout.start(cells.start)..layout.start(cells.end),
        None => 0..size(&page),
    };
    let offset = range.start;
    let Some(bytes) = read_part(client, &page, range).await else {
        return Outcome::NoGoodBytes;
    };
    client.world.observe(&Observation::CellsRead {
        reader: client.process(),
        file: page.node.file_id,
        layout,
        began,
        newest,
        is_whole,
        offset,
        bytes: &bytes,
    });
    Outcome::Done(Done::Read)
}

/// Where a file's chunks are; if the newest state is wanted, with what their primaries confirmed.
async fn locate(client: &Rc<Client>, path: &str, newest: bool) -> Result<LocateReply, Failed> {
    let request = Locate {
        path: path.to_owned(),
        file_id: FileId::NONE,
        first_index: 0,
        count: PAGE_LEN,
    };
    let mut page = client.call(&request).await.map_err(Failed::Unanswered)?;
    client.learn(page.suspect_after);
    let is_open = |chunk: &LocatedChunk| chunk.state == ChunkState::Open;
    if newest && page.chunks.iter().any(is_open) {
        let chunks = std::mem::take(&mut page.chunks);
        page.chunks = confirm(client, page.node.file_id, chunks).await?;
    }
    Ok(page)
}

async fn confirm(
    client: &Rc<Client>,
    file_id: FileId,
    chunks: Vec<LocatedChunk>,
) -> Result<Vec<LocatedChunk>, Failed> {
    let seed = client.chance(|random| random.next());
    let mut confirm = Confirm::new(client.now(), client.timeout, seed, chunks);
    loop {
        let Some(action) = confirm.poll(client.now()) else {
            client.sleep_until(confirm.wake_at()).await;
            continue;
        };
        match action {
            Action::Ask { chunk, primary } => {
                let request = Newest {
                    ticket: chunk.ticket,
                    handle: chunk.handle,
                    version: chunk.version,
                };
                let asked = client.ask_chunkserver(&primary.control_addr, &request);
                match asked.await {
                    Ok(reply) => {
                        client.world.count("path: newest state confirmed");
                        confirm.handle_newest(chunk.index, reply);
                    }
                    Err(status) => {
                        client.world.line(|| {
                            format!(
                                "{:?}: {} is not confirmed: {status:?}",
                                client.node, chunk.handle
                            )
                        });
                        confirm.handle_failed(client.now(), chunk.index);
                    }
                }
            }
            Action::Locate { index } => {
                let request = Locate {
                    path: String::new(),
                    file_id,
                    first_index: index,
                    count: 1,
                };
                let page = client.call(&request).await.map_err(Failed::Unanswered)?;
                let mut chunks = page.chunks.into_iter();
                confirm.handle_located(index, chunks.find(|chunk| chunk.index == index));
            }
            Action::Done => break,
            Action::GiveUp { .. } => return Err(Failed::NoReplica),
        }
    }
    let (chunks, confirmed) = confirm.into_known();
    for (handle, state) in confirmed {
        client.note_seen(handle, state);
    }
    Ok(chunks)
}

/// Where the last chunk begins, if it is open.
fn open_from(page: &LocateReply) -> Option<u64> {
    let last = page.chunks.last()?;
    let is_open = last.state == ChunkState::Open;
    is_open.then(|| start(page, last.index))
}

/// Up to where nothing is stored from `at` on, before `end`; none where something is, or may be.
fn hole_end(page: &LocateReply, at: u64, end: u64) -> Option<u64> {
    let mut to = at;
    while to < end {
        let index = u32::try_from(to / u64::from(page.chunk_size)).unwrap_or(u32::MAX);
        let chunk = page.chunks.iter().find(|chunk| chunk.index == index);
        let is_stored = chunk.is_some_and(|chunk| {
            chunk.state == ChunkState::Open || to - start(page, index) < u64::from(chunk.length)
        });
        if is_stored {
            break;
        }
        to = start(page, index + 1);
    }
    (to > at).then_some(to.min(end))
}

fn start(page: &LocateReply, index: u32) -> u64 {
    u64::from(index) * u64::from(page.chunk_size)
}

fn outcome(failed: Failed) -> Outcome {
    match failed {
        Failed::Unanswered(Unanswered::Refused(status)) => Outcome::Refused(status),
        Failed::Unanswered(_) => Outcome::NotNow,
        Failed::NoReplica => Outcome::NoGoodBytes,
    }
}
