//! What both ways of reading have in common: the download of [`crate::get`], which is many streams
//! at once, and the read of [`crate::open_file`], which is one after the other.

use std::time::Duration;

use sarsen_protocol::id::ServerId;
use sarsen_protocol::message::{ChunkState, Kind, Locate, LocateReply, NodeType};

use crate::client::{Shared, check_chunk_size};
use crate::core::cut_read::CutRead;
use crate::core::read::{Fault, Fetch, GiveUp};
use crate::core::read_stream::{ReadFault, Served, Verified, block_start};
use crate::error::{Error, StreamError};
use crate::limit::RateLimit;
use crate::net::{Outgoing, Pacer, ReadFailure, read_chunk, read_cut};
use crate::sink::Outlet;
use tokio::time::timeout;

/// How long a read that is over waits for the master to hear of bad replicas.
pub(crate) const REPORT_TIME_MAX: Duration = Duration::from_secs(2);

/// How long a replica may be silent at the most, when all were slow before.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Asks the master where chunks of a file are.
pub(crate) async fn locate(shared: &Shared, which: &Locate) -> Result<LocateReply, Error> {
    let located = shared.master.call(which).await?;
    if located.node.node_type == NodeType::Folder {
        return Err(Error::IsAFolder);
    }
    check_chunk_size(Kind::LocateReply, located.chunk_size)?;
    shared.links.learn(located.suspect_after);
    Ok(located)
}

/// Reads a chunk from a replica, and what of the range lies behind its end as zeros. A replica that
/// turns out to be slow is left, if there is another.
pub(crate) async fn read(
    shared: &Shared,
    fetch: &Fetch,
    outlet: &Outlet,
    limit: Option<&RateLimit>,
    on_reached: &(dyn Fn(u32) + Send + Sync),
) -> Result<Option<Served>, ReadFailure> {
    let pacer = Pacer {
        links: &shared.links,
        clock: shared.clock,
        server: fetch.replica.server,
        has_other: fetch.other.is_some(),
    };
    read_from(shared, fetch, outlet, limit, on_reached, Some(pacer)).await
}

/// How a small read of one chunk went.
pub(crate) struct Hedged {
    /// Whether the bytes are there.
    pub(crate) is_read: bool,
    /// What was served of a chunk that is not sealed.
    pub(crate) served: Option<Served>,
    /// The replicas that failed; one that was late is not among them.
    pub(crate) failed: Vec<(ServerId, ReadFailure)>,
}

/// Reads a part of a chunk into memory. If the replica is late another one is asked for the same,
/// and whichever brings verified bytes first is taken: what the other brings would be the same.
pub(crate) async fn read_hedged(shared: &Shared, fetch: &Fetch, outlet: &Outlet) -> Hedged {
    let (links, clock) = (&shared.links, shared.clock);
    let since = clock.now();
    let late_after = {
        let mut pace = links.small();
        pace.handle_begin();
        links.late_after(&pace)
    };
    let server = fetch.replica.server;
    let first = read_from(shared, fetch, outlet, None, &|_| {}, None);
    tokio::pin!(first);
    let other = match (&fetch.other, timeout(late_after, &mut first).await) {
        (_, Ok(read)) => return hedged(shared, since, [(server, read)]),
        (Some(other), Err(_)) => {
            let now = clock.now();
            let mut pace = links.small();
            let may_hedge = pace.may_hedge(now, server);
            pace.handle_late(now, server);
            may_hedge.then_some(other)
        }
        (None, Err(_)) => None,
    };
    let Some(other) = other else {
        return hedged(shared, since, [(server, first.await)]);
    };
    tracing::debug!(%server, other = %other.server, "a replica is late, and another is asked too");
    let asked = clock.now();
    let fetch = Fetch {
        replica: other.clone(),
        other: None,
        ..fetch.clone()
    };
    let second = read_from(shared, &fetch, outlet, None, &|_| {}, None);
    tokio::pin!(second);
    tokio::select! {
        biased;
        read = &mut first => match read {
            Ok(served) => hedged(shared, since, [(server, Ok(served))]),
            failed => {
                let read = (other.server, second.await);
                hedged(shared, asked, [(server, failed), read])
            }
        },
        read = &mut second => match read {
            Ok(served) => hedged(shared, asked, [(other.server, Ok(served))]),
            failed => {
                let read = (server, first.await);
                hedged(shared, since, [(other.server, failed), read])
            }
        },
    }
}

/// What became of the reads, of which the last may have gone well, begun at `since`.
fn hedged<const N: usize>(
    shared: &Shared,
    since: Duration,
    reads: [(ServerId, Result<Option<Served>, ReadFailure>); N],
) -> Hedged {
    let mut hedged = Hedged {
        is_read: false,
        served: None,
        failed: Vec::new(),
    };
    for (server, read) in reads {
        match read {
            Ok(served) => {
                let now = shared.clock.now();
                let waited = now.saturating_sub(since);
                shared.links.small().handle_answer(now, server, waited);
                hedged.is_read = true;
                hedged.served = served;
            }
            Err(failure) => hedged.failed.push((server, failure)),
        }
    }
    hedged
}

async fn read_from(
    shared: &Shared,
    fetch: &Fetch,
    outlet: &Outlet,
    limit: Option<&RateLimit>,
    on_reached: &(dyn Fn(u32) + Send + Sync),
    pacer: Option<Pacer<'_>>,
) -> Result<Option<Served>, ReadFailure> {
    let whole = Verified {
        reached: fetch.chunk.length,
        crc32: fetch.chunk.crc32,
    };
    let is_sealed = fetch.chunk.state == ChunkState::Sealed;
    if is_sealed && fetch.from == 0 && fetch.verified == whole {
        // An earlier download brought all of it.
        return Ok(None);
    }
    let replica = &fetch.replica;
    // Twice as patient each time that all of them failed: they may be slow, and none hang.
    let factor = 1_u32.checked_shl(fetch.round).unwrap_or(u32::MAX);
    let silence_max = shared.links.suspect_after().saturating_mul(factor);
    let silence_max = silence_max.min(SILENCE_MAX.max(shared.links.suspect_after()));
    let failed = |error, fault| ReadFailure::Replica {
        error,
        fault,
        verified: fetch.verified,
    };
    let server = replica.server;
    let Some(wanted) = shared.seen().wanted(&fetch.chunk) else {
        let cause = ReadFault::SeenNewer;
        let addr = replica.data_addr.clone();
        let error = StreamError::Read {
            server,
            addr,
            cause,
        };
        return Err(failed(error, Fault::of_answer(cause)));
    };
    let late = || {
        let addr = replica.data_addr.clone();
        failed(StreamError::Late { server, addr }, Fault::Slow)
    };
    if pacer.is_some() {
        shared.links.bulk().handle_begin();
    }
    // A limit counts what is asked for by whole blocks.
    let cut = (fetch.verified.reached == block_start(fetch.from) && limit.is_none())
        .then(|| CutRead::new(wanted, fetch.from..fetch.to))
        .flatten();
    let served = if let Some(cut) = cut {
        let since = shared.clock.now();
        let reading = read_cut(&shared.links, fetch, cut, silence_max);
        let read = match &pacer {
            Some(pacer) => pacer.wait(reading).await.ok_or_else(late)?,
            None => reading.await,
        };
        let cuts = read?;
        if let Some(pacer) = &pacer {
            pacer.handle_frame(since);
        }
        let served = cuts.served;
        let given = cuts.give(fetch, outlet).await;
        given.map_err(ReadFailure::Sink)?;
        on_reached(fetch.to);
        served
    } else {
        let taking = shared.links.take(server, &replica.data_addr, silence_max);
        let taken = match &pacer {
            Some(pacer) => pacer.wait(taking).await.ok_or_else(late)?,
            None => taking.await,
        };
        let mut link = taken.map_err(|error| failed(error, Fault::Unreachable))?;
        let to = Outgoing {
            buffers: &shared.buffers,
            outlet,
            clock: shared.clock,
            limit,
            on_reached,
            pacer,
        };
        let served = read_chunk(&mut link, fetch, wanted, silence_max, &to).await?;
        shared.links.give_back(link);
        served
    };
    let served = shared.note_read(&wanted, served);
    let length = served.map_or(fetch.chunk.length, |served| served.length);
    let behind = fetch.to.saturating_sub(length.max(fetch.from));
    let given = outlet.give_zeros(u64::from(behind)).await;
    given.map_err(ReadFailure::Sink).map(|()| served)
}

/// Why a file can't be read: `bad` are the bad replicas of the chunk that was given up.
pub(crate) fn given_up(why: GiveUp, bad: Vec<ServerId>, last: Option<StreamError>) -> Error {
    match why {
        GiveUp::Corrupt { index, handle } => Error::Corrupt { index, handle, bad },
        GiveUp::Unreachable { index, handle } => Error::NoReplica {
            index,
            handle,
            cause: last.map(Box::new),
        },
        GiveUp::Changed { index } => Error::Changed { index },
    }
}
