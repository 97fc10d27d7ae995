//! Downloads: what `client/src/get.rs` and `client/src/net/read.rs` do.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use sarsen_client::core::read::{Action, Download, Fault, Fetch, PAGE_LEN, Plan};
use sarsen_client::core::read_stream::{ReadFault, ReadStream, Verified, block_start};
use sarsen_protocol::crc::{combine, zeros};
use sarsen_protocol::deframe::frame;
use sarsen_protocol::id::FileId;
use sarsen_protocol::message::{
    ErrorBody, Kind, Locate, LocateReply, LocatedChunk, NodeType, Read, ReadData, ReportReplica,
};

use super::Client;
use super::links::Link;
use super::master::Unanswered;
use super::tasks::{Channel, Received};
use crate::observation::Observation;
use crate::oracle::op::{Done, OpId, Outcome};

/// Streams at a time.
const STREAMS_MAX: usize = 2;

/// How long a replica may be silent at the most, when all were slow before.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// What a task of a download did.
enum Told {
    Located(Range<u32>, Result<LocateReply, Unanswered>),
    Reached(u32),
    Read(Box<Fetch>, Result<(), (Fault, Verified)>),
}

/// A download under way.
struct Run {
    client: Rc<Client>,
    file: FileId,
    chunk_size: u32,
    range: Range<u64>,
    told: Rc<Channel<Told>>,
    /// The range: what came, and zeros.
    got: RefCell<Vec<u8>>,
}

/// Downloads a file, or a part of one; a pipe can't take bytes back.
pub async fn get(
    client: &Rc<Client>,
    op: OpId,
    path: &str,
    part: Option<(u64, u64)>,
    is_pipe: bool,
) -> Outcome {
    let request = Locate {
        path: path.to_owned(),
        file_id: FileId::NONE,
        first_index: 0,
        count: PAGE_LEN,
    };
    let first_page = match client.call(&request).await {
        Ok(page) => page,
        Err(Unanswered::Refused(status)) => return Outcome::Refused(status),
        Err(_) => return Outcome::NotNow,
    };
    client.learn(first_page.suspect_after);
    let node = first_page.node;
    if node.node_type == NodeType::Folder {
        return Outcome::Refused(sarsen_protocol::status::Status::IsAFolder);
    }
    let start = part.map_or(0, |(offset, _)| offset.min(node.size));
    let end = part.map_or(node.size, |(_, length)| {
        start.saturating_add(length).min(node.size)
    });
    let run = Run::new(client, &first_page, start..end);
    let Some(parts) = run.run(first_page.chunks, is_pipe).await else {
        return Outcome::NoGoodBytes;
    };
    let is_whole = node.sealed && run.range == (0..node.size);
    let found = parts
        .values()
        .fold(0, |crc, (part, len)| combine(crc, *part, *len));
    if is_whole && found != node.crc32 {
        return Outcome::NoGoodBytes;
    }
    let bytes = run.got.take();
    client.world.observe(&Observation::Downloaded {
        id: op,
        file: node.file_id,
        offset: start,
        bytes: &bytes.into(),
    });
    Outcome::Done(Done::Read)
}

/// Reads a part of a file whose chunks were located, all of them; it may reach beyond the file, where
/// zeros are.
pub(super) async fn read_part(
    client: &Rc<Client>,
    page: &LocateReply,
    range: Range<u64>,
) -> Option<Bytes> {
    let run = Run::new(client, page, range);
    run.run(page.chunks.clone(), false).await?;
    Some(run.got.take().into())
}

impl Run {
    fn new(client: &Rc<Client>, page: &LocateReply, range: Range<u64>) -> Rc<Self> {
        let len = usize::try_from(range.end - range.start).unwrap_or(0);
        Rc::new(Self {
            client: Rc::clone(client),
            file: page.node.file_id,
            chunk_size: page.chunk_size,
            range,
            told: Channel::new(client),
            // What the chunks' lengths leave of the range is zeros.
            got: RefCell::new(vec![0; len]),
        })
    }

    /// Does what the machine says until all was read: CRC and length of each chunk's part.
    async fn run(
        self: &Rc<Self>,
        chunks: Vec<LocatedChunk>,
        is_pipe: bool,
    ) -> Option<BTreeMap<u32, (u32, u64)>> {
        let client = &self.client;
        let mut download = Download::new(Plan {
            range: self.range.clone(),
            chunk_size: self.chunk_size,
            streams_max: STREAMS_MAX,
            rewindable: !is_pipe,
            patience: client.timeout,
            seed: client.chance(|random| random.next()),
        })?;
        download.handle_located(0..PAGE_LEN, chunks);
        let mut parts = BTreeMap::new();
        loop {
            while let Some(action) = download.poll(client.now()) {
                match action {
                    Action::Locate { first_index, count } => self.locate(first_index, count),
                    Action::Fetch(fetch) => self.fetch(fetch),
                    Action::Zeros { index, from, to } => {
                        let len = u64::from(to.saturating_sub(from));
                        parts.insert(index, (zeros(len), len));
                    }
                    Action::Report {
                        handle,
                        version,
                        server,
                        fault,
                    } => self.report(ReportReplica {
                        handle,
                        version,
                        server,
                        fault,
                    }),
                    Action::Done => return Some(parts),
                    Action::GiveUp(why) => {
                        client
                            .world
                            .line(|| format!("a download is given up: {why:?}"));
                        return None;
                    }
                }
            }
            match self.told.receive(download.wake_at()).await {
                Some(Told::Located(asked, reply)) => {
                    download.handle_located(asked, reply.ok()?.chunks);
                }
                Some(Told::Reached(index)) => download.handle_progress(index),
                Some(Told::Read(fetch, Ok(()))) => {
                    let index = fetch.chunk.index;
                    let behind = fetch.to.saturating_sub(fetch.chunk.length).into();
                    let crc = combine(fetch.chunk.crc32, zeros(behind), behind);
                    parts.insert(index, (crc, fetch.to.into()));
                    download.handle_progress(index);
                    download.handle_fetched(index);
                }
                Some(Told::Read(fetch, Err((fault, verified)))) => {
                    client.world.count("path: another replica asked");
                    client.world.line(|| {
                        let chunk = &fetch.chunk;
                        format!(
                            "a replica fails a reader: {fault:?} {:?} {:?} of {:?}",
                            chunk.handle,
                            fetch.replica.server,
                            chunk
                                .replicas
                                .iter()
                                .map(|it| it.server)
                                .collect::<Vec<_>>()
                        )
                    });
                    let (index, server) = (fetch.chunk.index, fetch.replica.server);
                    download.handle_failed(client.now(), index, server, verified, fault);
                }
                None => {}
            }
        }
    }

    fn locate(self: &Rc<Self>, first_index: u32, count: u32) {
        let run = Rc::clone(self);
        self.client.spawn(async move {
            let request = Locate {
                path: String::new(),
                file_id: run.file,
                first_index,
                count,
            };
            let asked = first_index..first_index.saturating_add(count);
            let reply = run.client.call(&request).await;
            run.told.send(Told::Located(asked, reply));
        });
    }

    fn report(self: &Rc<Self>, report: ReportReplica) {
        self.client.world.count("path: bad replica reported");
        let client = Rc::clone(&self.client);
        self.client.spawn(async move {
            // The master that does not hear of it hears of the next one.
            let _ = client.call(&report).await;
        });
    }

    fn fetch(self: &Rc<Self>, fetch: Box<Fetch>) {
        let run = Rc::clone(self);
        self.client.spawn(async move {
            let read = run.read(&fetch).await;
            run.told.send(Told::Read(fetch, read));
        });
    }

    /// Reads what is left of a chunk from a replica.
    async fn read(&self, fetch: &Fetch) -> Result<(), (Fault, Verified)> {
        let replica = &fetch.replica;
        // Twice as patient each time that all of them failed: they may be slow, and none hang.
        let factor = 1_u32.checked_shl(fetch.round).unwrap_or(u32::MAX);
        let suspect_after = self.client.suspect_after();
        let silence_max = suspect_after
            .saturating_mul(factor)
            .min(SILENCE_MAX.max(suspect_after));
        let wanted = self.client.seen.borrow().wanted(&fetch.chunk);
        let Some(wanted) = wanted else {
            return Err((Fault::of_answer(ReadFault::SeenNewer), fetch.verified));
        };
        let (server, address) = (replica.server, &replica.data_addr);
        let taken = self.client.take_link(server, address, silence_max).await;
        let Some(mut link) = taken else {
            return Err((Fault::Unreachable, fetch.verified));
        };
        let mut stream = ReadStream::new(wanted, block_start(fetch.from), fetch.to, fetch.verified);
        let ended = match stream.length() {
            0 => Ok(()),
            _ => {
                self.read_frames(&mut link, fetch, &mut stream, silence_max)
                    .await
            }
        };
        let ended = ended.and_then(|()| stream.handle_end().map_err(Fault::of_answer));
        match ended {
            Ok(()) => {
                self.client.give_back(link);
                self.client.note_read(&stream.wanted(), stream.served());
                Ok(())
            }
            Err(fault) => {
                self.client.hang_up(link.conn);
                Err((fault, stream.verified()))
            }
        }
    }

    async fn read_frames(
        &self,
        link: &mut Link,
        fetch: &Fetch,
        stream: &mut ReadStream,
        silence_max: Duration,
    ) -> Result<(), Fault> {
        let request_id = link.begin();
        let (version, serial, want) = stream.wanted().asked();
        let request = Read {
            ticket: fetch.chunk.ticket,
            handle: fetch.chunk.handle,
            version,
            serial,
            want,
            offset: stream.offset(),
            length: stream.length(),
        };
        let client = &self.client;
        client
            .world
            .send(client.node, link.conn, frame(&request, request_id));
        loop {
            let until = Some(client.now() + silence_max);
            let came = match client.receive(link.conn, until).await {
                Received::Frame(frame) => frame,
                Received::Ended => {
                    let unseen_close = link.is_used() && stream.verified() == fetch.verified;
                    return Err(match unseen_close {
                        true => Fault::Refused,
                        false => Fault::Unreachable,
                    });
                }
                Received::Nothing => return Err(Fault::Unreachable),
            };
            let header = came.header;
            if !header.status.is_ok() {
                let error = ErrorBody::from_body(&came.body).map_err(|_| Fault::Unreachable)?;
                let wanted = stream.wanted();
                return Err(Fault::of_status(header.status, error.version, &wanted));
            }
            if header.kind != Kind::ReadData || header.request_id != request_id {
                return Err(Fault::Unreachable);
            }
            let data: ReadData = came.message().map_err(|_| Fault::Unreachable)?;
            data.check_payload(header.payload_len)
                .map_err(|_| Fault::Unreachable)?;
            stream.handle_data(&data).map_err(Fault::of_answer)?;
            if header.payload_len > 0 {
                stream
                    .handle_payload(&data, &came.payload)
                    .map_err(Fault::of_answer)?;
                self.give(fetch, data.offset, &came.payload);
                self.told.send(Told::Reached(fetch.chunk.index));
            }
            if data.last {
                return Ok(());
            }
        }
    }

    /// Hands on what of the payload is wanted.
    fn give(&self, fetch: &Fetch, offset: u32, payload: &Bytes) {
        let skipped = (fetch.from.saturating_sub(offset) as usize).min(payload.len());
        let end = (fetch.to.saturating_sub(offset) as usize).min(payload.len());
        if skipped < end {
            let chunk_start = u64::from(fetch.chunk.index) * u64::from(self.chunk_size);
            let at = chunk_start + u64::from(offset) + skipped as u64;
            let at = usize::try_from(at - self.range.start).unwrap_or(usize::MAX);
            let mut got = self.got.borrow_mut();
            if let Some(room) = got.get_mut(at..at + end - skipped) {
                room.copy_from_slice(&payload[skipped..end]);
            }
        }
    }
}
