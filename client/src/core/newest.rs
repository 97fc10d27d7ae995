//! The newest state of a file's open chunks (`spec/replication.md` section 12).
//!
//! Whoever must see what was acknowledged before he began asks the master where the chunks are,
//! and not his cache. A chunk that is sealed there is the newest as it is sealed. Of one that is
//! open [`Confirm`] asks the primary, which answers when all members have confirmed it. Until
//! there is an answer it asks the master again: another primary may have come, or the seal.
//!
//! What comes out are the chunks as they were located last. Of an open one `length` is that of the
//! confirmed state: any committed state that is at least as new has that much.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use sarsen_protocol::id::ChunkHandle;
use sarsen_protocol::message::{ChunkState, LocateReply, LocatedChunk, NewestReply, Replica};

use super::retry::Backoff;
use super::seen::State;

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask the primary of a chunk for its newest state.
    Ask {
        /// The chunk as it was located last.
        chunk: Box<LocatedChunk>,
        /// Whom to ask.
        primary: Replica,
    },
    /// Ask the master where one chunk is by now.
    Locate {
        /// Its place in the file.
        index: u32,
    },
    /// Every chunk is known.
    Done,
    /// No primary has answered for this chunk in time.
    GiveUp {
        /// Its place in the file.
        index: u32,
        /// Its name.
        handle: ChunkHandle,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// As it was located just now.
    Fresh,
    Asking,
    Waiting(Duration),
    Locating,
    Known,
}

#[derive(Clone, Debug)]
struct Place {
    chunk: LocatedChunk,
    step: Step,
    backoff: Backoff,
}

/// The chunks of a page, of which each that is open is confirmed.
#[derive(Clone, Debug)]
pub struct Confirm {
    places: BTreeMap<u32, Place>,
    deadline: Duration,
    confirmed: VecDeque<(ChunkHandle, State)>,
}

impl Confirm {
    /// The chunks as the master says they are `now`; no longer than `patience` is waited.
    #[must_use]
    pub fn new(now: Duration, patience: Duration, seed: u64, chunks: Vec<LocatedChunk>) -> Self {
        let places = chunks.into_iter().map(|chunk| {
            let backoff = Backoff::new(seed ^ u64::from(chunk.index));
            let step = first_step(&chunk);
            let place = Place {
                chunk,
                step,
                backoff,
            };
            (place.chunk.index, place)
        });
        Self {
            places: places.collect(),
            deadline: now.saturating_add(patience),
            confirmed: VecDeque::new(),
        }
    }

    /// The primary has confirmed a state.
    pub fn handle_newest(&mut self, index: u32, reply: NewestReply) {
        let Some(place) = self.asked(index) else {
            return;
        };
        let chunk = &mut place.chunk;
        chunk.version = reply.version;
        chunk.length = reply.length;
        place.step = Step::Known;
        let state = State {
            version: reply.version,
            serial: reply.serial,
        };
        let confirmed = (chunk.handle, state);
        self.confirmed.push_back(confirmed);
    }

    /// The primary did not answer, or answered that it is none, or that the chunk is sealed.
    pub fn handle_failed(&mut self, now: Duration, index: u32) {
        if let Some(place) = self.asked(index) {
            place.step = Step::Waiting(now.saturating_add(place.backoff.delay()));
        }
    }

    /// The master said where a chunk is by now; `None` if nothing is there any more.
    pub fn handle_located(&mut self, index: u32, chunk: Option<LocatedChunk>) {
        let Some(place) = self.places.get_mut(&index) else {
            return;
        };
        if place.step != Step::Locating {
            return;
        }
        match chunk {
            Some(chunk) => {
                place.step = first_step(&chunk);
                place.chunk = chunk;
            }
            None => {
                self.places.remove(&index);
            }
        }
    }

    fn asked(&mut self, index: u32) -> Option<&mut Place> {
        let place = self.places.get_mut(&index);
        place.filter(|place| place.step == Step::Asking)
    }

    /// When to poll again though nothing happened.
    #[must_use]
    pub fn wake_at(&self) -> Option<Duration> {
        let waits = self.places.values().filter_map(|place| match place.step {
            Step::Waiting(until) => Some(until.min(self.deadline)),
            _ => None,
        });
        waits.min()
    }

    /// The next thing to do, until there is none for now.
    pub fn poll(&mut self, now: Duration) -> Option<Action> {
        for (&index, place) in &mut self.places {
            match place.step {
                Step::Fresh => {
                    if let Some(primary) = primary_of(&place.chunk) {
                        place.step = Step::Asking;
                        let primary = primary.clone();
                        let chunk = Box::new(place.chunk.clone());
                        return Some(Action::Ask { chunk, primary });
                    }
                    // A change of members is under way, or the seal.
                    place.step = Step::Waiting(now.saturating_add(place.backoff.delay()));
                }
                Step::Waiting(_) if now >= self.deadline => {
                    let handle = place.chunk.handle;
                    return Some(Action::GiveUp { index, handle });
                }
                Step::Waiting(until) if now >= until => {
                    place.step = Step::Locating;
                    return Some(Action::Locate { index });
                }
                Step::Asking | Step::Waiting(_) | Step::Locating | Step::Known => {}
            }
        }
        let is_known = |place: &Place| place.step == Step::Known;
        self.places.values().all(is_known).then_some(Action::Done)
    }

    /// The chunks, in the order of their places, and the states that were confirmed.
    #[must_use]
    pub fn into_known(self) -> (Vec<LocatedChunk>, VecDeque<(ChunkHandle, State)>) {
        let chunks = self.places.into_values().map(|place| place.chunk);
        (chunks.collect(), self.confirmed)
    }
}

/// How long a file is of which the last chunks are known as they are by now: what the log has, or
/// more, up to the end of an open chunk.
#[must_use]
pub fn size(page: &LocateReply) -> u64 {
    let ends = page.chunks.iter().map(|chunk| end(chunk, page.chunk_size));
    ends.fold(page.node.size, u64::max)
}

/// Up to where a chunk makes its file reach.
fn end(chunk: &LocatedChunk, chunk_size: u32) -> u64 {
    match chunk.length {
        0 => 0,
        length => u64::from(chunk.index) * u64::from(chunk_size) + u64::from(length),
    }
}

fn first_step(chunk: &LocatedChunk) -> Step {
    match chunk.state {
        ChunkState::Open => Step::Fresh,
        ChunkState::Sealed | ChunkState::Pending => Step::Known,
    }
}

fn primary_of(chunk: &LocatedChunk) -> Option<&Replica> {
    let primary = chunk.primary;
    let mut replicas = chunk.replicas.iter();
    replicas.find(|replica| primary.is_some() && replica.server == primary)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::locate::tests::located;
    use sarsen_protocol::id::{ChunkVersion, Serial, ServerId};

    const PATIENCE: Duration = Duration::from_secs(5);
    const HANDLE: ChunkHandle = ChunkHandle(9);

    fn open(version: u64, primary: u64) -> LocatedChunk {
        LocatedChunk {
            version: ChunkVersion(version),
            state: ChunkState::Open,
            primary: ServerId(primary),
            replicas: (1..=3)
                .map(|id| Replica {
                    server: ServerId(id),
                    control_addr: format!("c:{id}"),
                    data_addr: format!("d:{id}"),
                })
                .collect(),
            ..located(7, HANDLE)
        }
    }

    fn newest(version: u64, serial: u64, length: u32) -> NewestReply {
        NewestReply {
            version: ChunkVersion(version),
            serial: Serial(serial),
            length,
        }
    }

    /// Who is asked, in which version.
    fn asked(action: Option<Action>) -> (u64, u64) {
        match action {
            Some(Action::Ask { chunk, primary }) => (primary.server.0, chunk.version.0),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn sealed_chunks_are_known_and_the_primary_of_an_open_one_is_asked() {
        let sealed = located(6, ChunkHandle(8));
        let chunks = vec![sealed.clone(), open(4, 2)];
        let now = Duration::ZERO;
        let mut confirm = Confirm::new(now, PATIENCE, 1, chunks);
        assert_eq!(asked(confirm.poll(now)), (2, 4));
        assert_eq!((confirm.poll(now), confirm.wake_at()), (None, None));
        confirm.handle_newest(6, newest(9, 9, 9));
        confirm.handle_newest(7, newest(4, 11, 500));
        confirm.handle_newest(7, newest(4, 12, 600));
        assert_eq!(confirm.poll(now), Some(Action::Done));
        let (chunks, confirmed) = confirm.into_known();
        assert_eq!(chunks[0], sealed);
        assert_eq!((chunks[1].length, chunks[1].state), (500, ChunkState::Open));
        let (version, serial) = (ChunkVersion(4), Serial(11));
        assert_eq!(confirmed, [(HANDLE, State { version, serial })]);
    }

    #[test]
    fn without_an_answer_the_master_is_asked_again() {
        let now = Duration::ZERO;
        let mut confirm = Confirm::new(now, PATIENCE, 1, vec![open(4, 2)]);
        asked(confirm.poll(now));
        confirm.handle_failed(now, 7);
        assert_eq!(confirm.poll(now), None);
        let now = confirm.wake_at().unwrap();
        assert_eq!(confirm.poll(now), Some(Action::Locate { index: 7 }));
        assert_eq!(confirm.poll(now), None, "once");
        // Nobody has the lease yet.
        confirm.handle_located(7, Some(open(5, 0)));
        assert_eq!(confirm.poll(now), None);
        let now = confirm.wake_at().unwrap();
        assert_eq!(confirm.poll(now), Some(Action::Locate { index: 7 }));
        confirm.handle_located(7, Some(open(5, 3)));
        assert_eq!(asked(confirm.poll(now)), (3, 5));
        confirm.handle_failed(now, 7);
        let now = confirm.wake_at().unwrap();
        confirm.poll(now);
        // It was sealed meanwhile: that is the newest.
        let sealed = located(7, HANDLE);
        confirm.handle_located(7, Some(sealed.clone()));
        assert_eq!(confirm.poll(now), Some(Action::Done));
        assert_eq!(confirm.into_known(), (vec![sealed], VecDeque::new()));
    }

    #[test]
    fn it_ends_when_the_time_is_over_or_the_chunk_is_gone() {
        let mut now = Duration::ZERO;
        let mut confirm = Confirm::new(now, PATIENCE, 1, vec![open(4, 0)]);
        loop {
            match confirm.poll(now) {
                None => now = confirm.wake_at().unwrap(),
                Some(Action::Locate { index }) => confirm.handle_located(index, Some(open(4, 0))),
                Some(Action::GiveUp { index, handle }) => {
                    assert_eq!((index, handle, now), (7, HANDLE, PATIENCE));
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
        let now = Duration::ZERO;
        let mut confirm = Confirm::new(now, PATIENCE, 1, vec![open(4, 0)]);
        confirm.poll(now);
        let now = confirm.wake_at().unwrap();
        confirm.poll(now);
        confirm.handle_located(7, None);
        assert_eq!(confirm.poll(now), Some(Action::Done));
    }
}
