//! A client of the harness: appends and writes, sent again by the same ids until they are answered.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use sarsen_protocol::crc::crc32;
use sarsen_protocol::id::{ChunkVersion, Serial, SessionId};
use sarsen_protocol::message::{Append, AppendItem, Crcs, Level, Part, WriteData};
use sarsen_protocol::size::piece_lens;

use super::super::Reply;
use super::harness::{Down, HANDLE, Random, request};

const BLOCK: usize = 65_536;
const FRAME: usize = 1 << 20;

#[derive(Clone, Debug)]
pub(super) struct Asked {
    /// Where a write goes; appends have none.
    pub(super) offset: Option<u32>,
    pub(super) bytes: Vec<u8>,
    level: Level,
}

#[derive(Debug)]
pub(super) struct Client {
    pub(super) session: u64,
    pub(super) link: Option<u64>,
    version: u64,
    next: u64,
    pub(super) asked: BTreeMap<u64, Asked>,
    /// Where it was told that each is: of an append its offset.
    pub(super) answered: BTreeMap<u64, Option<u32>>,
    /// What was not sent over this stream yet, and the writes that were, by their count.
    unsent: VecDeque<u64>,
    parts: VecDeque<Down>,
    writes: Vec<u64>,
}

impl Client {
    pub(super) fn new(session: u64) -> Self {
        Self {
            session,
            link: None,
            version: 0,
            next: 1,
            asked: BTreeMap::new(),
            answered: BTreeMap::new(),
            unsent: VecDeque::new(),
            parts: VecDeque::new(),
            writes: Vec::new(),
        }
    }

    fn lowest(&self) -> u64 {
        let outstanding = |number: &&u64| !self.answered.contains_key(number);
        self.asked
            .keys()
            .find(outstanding)
            .copied()
            .unwrap_or(self.next)
    }

    pub(super) fn is_done(&self) -> bool {
        self.answered.len() == self.asked.len()
    }

    pub(super) fn opened(&mut self, link: u64, version: u64) {
        self.link = Some(link);
        self.version = version;
        self.unsent = (1..self.next)
            .filter(|n| !self.answered.contains_key(n))
            .collect();
        self.parts.clear();
        self.writes.clear();
    }

    pub(super) fn lost(&mut self) {
        self.link = None;
    }

    /// Asks for something new, as long as not too much waits.
    pub(super) fn ask(&mut self, random: &mut Random) {
        if self.asked.len() - self.answered.len() > 12 || self.asked.len() > 60 {
            return;
        }
        let length = match random.below(40) {
            0 => FRAME + 1 + random.below(FRAME),
            1..6 => BLOCK - 20 + random.below(3 * BLOCK),
            _ => 1 + random.below(3000),
        };
        let is_write = length <= FRAME / 2 && random.one_in(4);
        let offset = is_write.then(|| u32::try_from(random.below(200_000)).unwrap());
        let fill = u8::try_from(self.next * 7 % 251).unwrap();
        let bytes: Vec<u8> = (0..length)
            .map(|n| fill ^ u8::try_from(n * 13 % 239).unwrap())
            .collect();
        let level = match random.below(2) {
            0 => Level::Memory,
            _ => Level::Disk,
        };
        self.asked.insert(
            self.next,
            Asked {
                offset,
                bytes,
                level,
            },
        );
        self.unsent.push_back(self.next);
        self.next += 1;
    }

    /// The next frame.
    pub(super) fn say(&mut self, random: &mut Random) -> Option<(u64, Down)> {
        let link = self.link?;
        if let Some(part) = self.parts.pop_front() {
            return Some((link, part));
        }
        if random.one_in(2) {
            self.ask(random);
        }
        let number = self.unsent.pop_front()?;
        let asked = self.asked[&number].clone();
        if let Some(offset) = asked.offset {
            self.writes.push(number);
            return Some((link, self.write(number, offset, &asked)));
        }
        if asked.bytes.len() > FRAME {
            for (index, part) in asked.bytes.chunks(4 * BLOCK).enumerate() {
                let part_of = Part {
                    offset: u32::try_from(index * 4 * BLOCK).unwrap(),
                    whole_length: u32::try_from(asked.bytes.len()).unwrap(),
                };
                let frame = self.append(&[(number, part)], asked.level, Some(part_of));
                self.parts.push_back(frame);
            }
            return self.parts.pop_front().map(|down| (link, down));
        }
        // Small ones that follow and want the same go along.
        let mut items = vec![(number, asked.bytes)];
        while let Some(next) = self.unsent.front()
            && items.len() < 5
        {
            let also = &self.asked[next];
            let fits =
                also.offset.is_none() && also.bytes.len() < 5000 && also.level == asked.level;
            if !fits || items.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() > FRAME / 2 {
                break;
            }
            items.push((*next, also.bytes.clone()));
            self.unsent.pop_front();
        }
        let items: Vec<(u64, &[u8])> = items
            .iter()
            .map(|(n, bytes)| (*n, bytes.as_slice()))
            .collect();
        Some((link, self.append(&items, asked.level, None)))
    }

    fn append(&self, items: &[(u64, &[u8])], level: Level, part: Option<Part>) -> Down {
        let crcs = items
            .iter()
            .flat_map(|(_, bytes)| bytes.chunks(BLOCK))
            .map(crc32);
        let append = Append {
            handle: HANDLE,
            version: ChunkVersion(self.version),
            session: SessionId(self.session),
            lowest_outstanding: self.lowest(),
            level,
            part,
            items: items
                .iter()
                .map(|(number, bytes)| AppendItem {
                    number: *number,
                    length: u32::try_from(bytes.len()).unwrap(),
                })
                .collect(),
            crcs: crcs.collect(),
        };
        let bytes: Vec<u8> = items
            .iter()
            .flat_map(|(_, bytes)| *bytes)
            .copied()
            .collect();
        Down::Append(append, Bytes::from(bytes))
    }

    fn write(&self, number: u64, offset: u32, asked: &Asked) -> Down {
        let (mut rest, mut crcs) = (asked.bytes.as_slice(), Vec::new());
        for length in piece_lens(offset, u32::try_from(rest.len()).unwrap()) {
            let (piece, behind) = rest.split_at(length as usize);
            crcs.push(crc32(piece));
            rest = behind;
        }
        let write = WriteData {
            handle: HANDLE,
            version: ChunkVersion(self.version),
            serial: Serial(self.writes.len() as u64),
            commit_mark: Serial(0),
            request: Some(request(self.session, number, self.lowest())),
            offset,
            level: asked.level,
            crcs: Crcs::new(&crcs).unwrap(),
        };
        Down::Write(write, Bytes::from(asked.bytes.clone()))
    }

    /// Hears an answer, or that the stream is over; how much it was told to be done.
    pub(super) fn hear(&mut self, reply: Option<Reply>, link: u64) -> usize {
        if self.link != Some(link) {
            return 0;
        }
        let before = self.answered.len();
        match reply {
            None | Some(Reply::Failed { .. }) => self.link = None,
            Some(Reply::Opened) => {}
            Some(Reply::Ack(ack)) => {
                let covered = usize::try_from(ack.serial.0).unwrap();
                for number in &self.writes[..covered] {
                    let level = self.asked[number].level;
                    if ack.level >= level {
                        self.answered.entry(*number).or_insert(None);
                    }
                }
            }
            Some(Reply::Appended(appended)) => {
                for result in appended.results {
                    match result.status {
                        0 => {
                            let asked = &self.asked[&result.number];
                            assert!(result.level >= asked.level);
                            assert_eq!(result.length as usize, asked.bytes.len());
                            self.answered.insert(result.number, Some(result.offset));
                        }
                        // Draining; it is sent again over the next stream.
                        51 => {}
                        other => panic!("{} of {}: {other}", result.number, self.session),
                    }
                }
            }
            Some(Reply::Marked(_)) => panic!("a client asks for no mark"),
        }
        self.answered.len() - before
    }
}
