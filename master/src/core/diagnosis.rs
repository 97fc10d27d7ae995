//! What a chunk needs: another replica, the deletion of one, time, or nothing; and who is to make
//! and to give a replica (GFS section 4.3).
//!
//! Pure: it looks at the record, at what was reported, and at the time. What it says holds for this
//! moment; [`super::repair`] remembers which chunks are to be looked at again, and when.
//!
//! Invariants:
//! - a replica counts as good by the log's word (version, length, CRC) and its server's, never by
//!   that of whoever ordered it;
//! - a server that is silent is waited for until `repair_grace` after it was dead, and so is one
//!   whose chunks are not all reported yet: no copy is made for what may come back by itself. A
//!   chunk of which fewer replicas are known than a chunk may have is waited for without that grace
//!   (`spec/replication.md` section 8);
//! - nothing is deleted unless as many replicas as are wanted have confirmed themselves in this
//!   epoch and stay.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sarsen_protocol::id::{ChunkHandle, ChunkVersion, ServerId};
use sarsen_protocol::message::{ChunkState, DiskState, HeldFlags};
use sarsen_protocol::sabotage::{Check, is_in_force};

use super::chunk_table::ChunkRecord;
use super::chunkservers::{Chunkservers, Worth};
use super::config::Config;
use super::placement::weight;
use super::replica::{Replica, Source, Standing};
use super::state::State;

/// Bytes that a chunk takes besides its data.
const OVERHEAD: u64 = 8192;

/// Servers named in one order.
const SOURCES_MAX: usize = 16;

/// What is to be done for a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Nothing, as far as anybody knows.
    Nothing,
    /// Nothing before this moment, unless something is heard until then.
    Wait(Duration),
    /// Another replica; so many good ones there are.
    Copy {
        /// How many; none if all that could be copied is yet to be read back, or on a failed disk.
        good: usize,
    },
    /// One replica too many, or one that is no good, is to be deleted.
    Tidy {
        /// Whose.
        server: ServerId,
        /// Of which version.
        version: ChunkVersion,
    },
    /// Nothing before the end of an order that is out.
    UnderWay,
    /// Nothing can be done: there is nothing to copy from, or the chunk is open.
    Beyond,
}

/// Who is to make a replica, and who is to give it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Who makes it.
    pub target: ServerId,
    /// Who has it, in the order in which they are to be asked; at least one.
    pub sources: Vec<ServerId>,
}

/// Why there is no plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPlan {
    /// All that would do are busy with other copies.
    Busy,
    /// No server can take a replica, or none can give one.
    Nobody,
}

/// What is remembered of earlier tries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tried {
    /// Servers that could not make the replica.
    pub targets: BTreeSet<ServerId>,
    /// Servers that could not give it.
    pub sources: BTreeSet<ServerId>,
}

/// Looks at chunks, at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Examiner<'a> {
    /// The log's word.
    pub state: &'a State,
    /// What was reported.
    pub servers: &'a Chunkservers,
    /// The cluster's values.
    pub config: &'a Config,
    /// The moment.
    pub now: Duration,
    /// When this master began: what it has not heard since, it knows nothing of.
    pub began: Duration,
}

impl Examiner<'_> {
    /// How long nothing is heard of a server, or of a disk, before it is given up.
    #[must_use]
    pub fn patience(&self) -> Duration {
        self.config
            .dead_after
            .saturating_add(self.config.repair_grace)
    }

    /// The servers that may hold chunks that were not reported yet, and until when that is waited
    /// for. The same for all chunks.
    #[must_use]
    pub fn in_doubt(&self) -> BTreeMap<ServerId, Duration> {
        let known = self.state.servers.servers.keys();
        let doubted = known.filter_map(|&id| {
            let since = match self.servers.server(id) {
                None => self.began,
                Some(server) if server.is_fully_reported() => return None,
                Some(server) => server.registered,
            };
            let until = since.saturating_add(self.patience());
            (self.now < until).then_some((id, until))
        });
        doubted.collect()
    }

    /// What is to be done for a chunk. `in_doubt` is what [`Self::in_doubt`] gives at this moment.
    #[must_use]
    pub fn need(
        &self,
        handle: ChunkHandle,
        record: &ChunkRecord,
        in_doubt: &BTreeMap<ServerId, Duration>,
    ) -> Need {
        let is_left_alone = |check| record.at_rest().is_none() && is_in_force(check);
        let good = self.good(handle, record);
        match good.len() < usize::from(record.replicas) {
            true if is_left_alone(Check::CopyAtRest) => Need::Beyond,
            true => self.short(handle, record, &good, in_doubt),
            false if is_left_alone(Check::DeleteAtRest) => Need::Beyond,
            false => self.tidy(handle, record, &good),
        }
    }

    /// The servers whose replicas count and are good.
    fn good(&self, handle: ChunkHandle, record: &ChunkRecord) -> BTreeSet<ServerId> {
        self.servers
            .live_replicas(handle, self.now, self.config.dead_after)
            .filter(|replica| replica.standing(record) == Standing::Good)
            .map(|replica| replica.server)
            .collect()
    }

    fn short(
        &self,
        handle: ChunkHandle,
        record: &ChunkRecord,
        good: &BTreeSet<ServerId>,
        in_doubt: &BTreeMap<ServerId, Duration>,
    ) -> Need {
        let replicas = self.servers.replicas(handle);
        let mut awaited: BTreeMap<ServerId, Duration> = replicas
            .iter()
            .filter(|replica| !replica.deleting)
            .filter_map(|replica| {
                let until = match replica.standing(record) {
                    Standing::Good => self.awaited_until(replica)?,
                    Standing::Unproven => self.read_back_until(replica)?,
                    Standing::Stale | Standing::Corrupt | Standing::Ahead => return None,
                };
                Some((replica.server, until))
            })
            .collect();
        awaited.retain(|server, _| !good.contains(server));
        // That those in doubt have more of them is a guess, and one copy is little to guess with.
        let fewest = usize::from(self.config.fewest_replicas(record.replicas));
        let sooner = match good.len() + awaited.len() < fewest {
            true => self.config.repair_grace,
            false => Duration::ZERO,
        };
        let is_known = |server| replicas.iter().any(|replica| replica.server == server);
        let unheard = in_doubt
            .iter()
            .filter(|&(&server, _)| !is_known(server))
            .map(|(&server, &until)| (server, until.saturating_sub(sooner)));
        awaited.extend(unheard.filter(|&(_, until)| self.now < until));
        if good.len() + awaited.len() >= usize::from(record.replicas) {
            return Need::Wait(awaited.into_values().min().unwrap_or(self.now));
        }
        match self.sources(handle, record).is_empty() {
            true => Need::Beyond,
            false => Need::Copy { good: good.len() },
        }
    }

    /// The servers that can give a copy, with what theirs is worth.
    fn sources(&self, handle: ChunkHandle, record: &ChunkRecord) -> BTreeMap<ServerId, Worth> {
        self.servers
            .sources(handle, record, self.now, self.config.dead_after)
    }

    /// Until when a replica that does not count now is expected to do so again, if it is.
    fn awaited_until(&self, replica: &Replica) -> Option<Duration> {
        if replica.source != Source::Reported {
            return None;
        }
        let server = self.servers.server(replica.server)?;
        let directory = self.servers.directory_of(replica)?;
        if directory.disk.state == DiskState::Failed {
            return None;
        }
        let heard = server.last_heard.min(directory.last_beat);
        let until = heard.saturating_add(self.patience());
        (self.now < until).then_some(until)
    }

    /// Until when a replica that its server is to read back is expected to be so.
    fn read_back_until(&self, replica: &Replica) -> Option<Duration> {
        let server = self.servers.server(replica.server)?;
        let until = server.registered.saturating_add(self.patience());
        (self.now < until && self.awaited_until(replica).is_some()).then_some(until)
    }

    /// What is too much of a chunk that has enough.
    fn tidy(&self, handle: ChunkHandle, record: &ChunkRecord, good: &BTreeSet<ServerId>) -> Need {
        let replicas = self.servers.replicas(handle);
        let wanted = usize::from(record.replicas);
        if replicas.iter().any(|replica| replica.deleting) {
            return Need::UnderWay;
        }
        let is_bad = |replica: &&Replica| {
            matches!(
                replica.standing(record),
                Standing::Stale | Standing::Corrupt
            ) && replica.source == Source::Reported
                && !good.contains(&replica.server)
                && self.is_connected(replica.server)
        };
        let bad = replicas.iter().find(is_bad);
        if bad.is_none() && good.len() <= wanted {
            return Need::Nothing;
        }
        let confirmed: BTreeSet<ServerId> = replicas
            .iter()
            .filter(|replica| self.is_confirmed(replica, record))
            .map(|replica| replica.server)
            .collect();
        if let Some(bad) = bad
            && confirmed.len() >= wanted
        {
            return Need::Tidy {
                server: bad.server,
                version: bad.version,
            };
        }
        if good.len() > wanted
            && confirmed.len() > wanted
            && let Some(server) = self.extra(good, &confirmed)
        {
            return Need::Tidy {
                server,
                version: record.version(),
            };
        }
        // It may yet confirm itself, which nothing tells when nothing changes.
        Need::Wait(self.now.saturating_add(self.config.suspect_after))
    }

    /// Whether a replica is so sure that another one may be deleted for it: told by its server
    /// itself in a full report, durable, of a server that was heard of just now.
    fn is_confirmed(&self, replica: &Replica, record: &ChunkRecord) -> bool {
        let suspect_after = self.config.suspect_after.min(self.config.dead_after);
        replica.source == Source::Reported
            && replica.standing(record) == Standing::Good
            && replica.flags == HeldFlags::NONE
            && self.servers.counts(replica, self.now, suspect_after)
            && self.is_connected(replica.server)
            && self
                .servers
                .directory_of(replica)
                .is_some_and(|directory| directory.is_fully_reported())
    }

    /// The replica that is missed least: in the rack that has the most of them, on the fullest
    /// server there.
    fn extra(&self, good: &BTreeSet<ServerId>, confirmed: &BTreeSet<ServerId>) -> Option<ServerId> {
        let in_rack = self.racks_of(good);
        let weight = |server: &ServerId| {
            let crowd = in_rack.get(self.rack(*server)).copied().unwrap_or(0);
            let filled = self
                .servers
                .filled(*server, 0, self.now, self.config.dead_after);
            (crowd, filled.unwrap_or(u32::MAX), *server)
        };
        confirmed.iter().copied().max_by_key(weight)
    }

    /// Who is to make and to give another replica. `streams` says how many copies a server takes
    /// part in.
    ///
    /// # Errors
    /// Why nobody is.
    pub fn plan(
        &self,
        handle: ChunkHandle,
        record: &ChunkRecord,
        streams: &BTreeMap<ServerId, u32>,
        tried: &Tried,
    ) -> Result<Plan, NoPlan> {
        let good = self.good(handle, record);
        let busy = |server: ServerId| streams.get(&server).copied().unwrap_or(0);
        let max = self.config.repair_streams_per_server;
        let mut sources: Vec<(ServerId, Worth)> =
            self.sources(handle, record).into_iter().collect();
        sources.retain(|&(server, _)| self.is_connected(server));
        sources.sort_by_key(|&(server, worth)| {
            let is_doubtful = tried.sources.contains(&server) || self.is_suspect(server);
            (worth, is_doubtful, busy(server), lot(handle, server))
        });
        sources.truncate(SOURCES_MAX);
        let mut sources: Vec<ServerId> = sources.into_iter().map(|(server, _)| server).collect();
        let first = *sources.first().ok_or(NoPlan::Nobody)?;
        if busy(first) >= max {
            return Err(NoPlan::Busy);
        }
        let len = record.sealed.map_or(0, |sealed| sealed.len);
        let room = u64::from(len) + OVERHEAD;
        let mut able = self.able(handle, record, &good, room);
        // The best class that has anybody: those that did not fail at it, then those that have
        // nothing of the chunk.
        let class = |able: &Able| (tried.targets.contains(&able.server), able.replaces);
        let best = able.iter().map(class).min().ok_or(NoPlan::Nobody)?;
        able.retain(|able_one| class(able_one) == best && busy(able_one.server) < max);
        let in_rack = self.racks_of(&good);
        let chosen = able.iter().min_by_key(|able| {
            let crowd = in_rack.get(self.rack(able.server)).copied().unwrap_or(0);
            let is_suspect = self.is_suspect(able.server);
            let lot = lot(handle, able.server);
            (is_suspect, crowd, able.filled, busy(able.server), lot)
        });
        let target = chosen.ok_or(NoPlan::Busy)?.server;
        sources.retain(|&server| server != target);
        if sources.is_empty() {
            return Err(NoPlan::Nobody);
        }
        Ok(Plan { target, sources })
    }

    /// The servers that can take a replica of so many bytes.
    fn able(
        &self,
        handle: ChunkHandle,
        record: &ChunkRecord,
        good: &BTreeSet<ServerId>,
        room: u64,
    ) -> Vec<Able> {
        let (now, dead_after) = (self.now, self.config.dead_after);
        let replicas = self.servers.replicas(handle);
        let able = self.servers.servers().filter_map(|(id, server)| {
            if good.contains(&id) || !self.is_connected(id) {
                return None;
            }
            let mut held = replicas.iter().filter(|replica| replica.server == id);
            let Some(old) = held.next() else {
                let filled = self.servers.filled(id, room, now, dead_after)?;
                return Some(Able {
                    server: id,
                    replaces: false,
                    filled: weight(filled, server.recent),
                });
            };
            // What is there is replaced in its own directory, or not at all.
            let directory = self.servers.directory_of(old)?;
            let is_replaceable = held.next().is_none()
                && !old.deleting
                && (old.state != ChunkState::Open || old.version < record.version())
                && old.standing(record) != Standing::Ahead
                && directory.disk.state == DiskState::Ok
                && directory.disk.free >= room
                && now.saturating_sub(directory.last_beat) < dead_after;
            is_replaceable.then_some(Able {
                server: id,
                replaces: true,
                filled: 0,
            })
        });
        able.collect()
    }

    fn racks_of(&self, servers: &BTreeSet<ServerId>) -> BTreeMap<&str, usize> {
        let mut racks = BTreeMap::new();
        for &server in servers {
            *racks.entry(self.rack(server)).or_default() += 1;
        }
        racks
    }

    fn rack(&self, server: ServerId) -> &str {
        let record = self.state.servers.servers.get(&server);
        record.map_or("", |record| &record.rack)
    }

    /// Whether a server can be ordered something now.
    fn is_connected(&self, id: ServerId) -> bool {
        let server = self.servers.server(id);
        server.is_some_and(|server| server.connection.is_some())
            && self.servers.is_live(id, self.now, self.config.dead_after)
    }

    fn is_suspect(&self, id: ServerId) -> bool {
        !self
            .servers
            .is_live(id, self.now, self.config.suspect_after)
    }
}

/// A server that can take a replica.
#[derive(Clone, Copy, Debug)]
struct Able {
    server: ServerId,
    /// It has something of the chunk already, which the copy takes the place of.
    replaces: bool,
    filled: u64,
}

/// Decides between equals, for each chunk otherwise and always alike.
fn lot(handle: ChunkHandle, server: ServerId) -> u64 {
    let mixed = (handle.0 ^ server.0.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}
