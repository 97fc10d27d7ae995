//! What both ways of reading have in common: the download of [`crate::get`], which is many streams
//! at once, and the read of [`crate::open_file`], which is one after the other.

use std::time::Duration;

use sarsen_protocol::id::ServerId;
use sarsen_protocol::message::{Kind, Locate, LocateReply, NodeType};

use crate::client::{Shared, check_chunk_size};
use crate::core::read::{Fault, Fetch, GiveUp};
use crate::core::read_stream::Verified;
use crate::error::{Error, StreamError};
use crate::limit::RateLimit;
use crate::net::{Outgoing, ReadFailure, read_chunk};
use crate::sink::Outlet;

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

/// Reads a chunk from a replica, and what of the range lies behind its end as zeros.
pub(crate) async fn read(
    shared: &Shared,
    fetch: &Fetch,
    outlet: &Outlet,
    limit: Option<&RateLimit>,
    on_reached: &(dyn Fn(u32) + Send + Sync),
) -> Result<(), ReadFailure> {
    let whole = Verified {
        reached: fetch.chunk.length,
        crc32: fetch.chunk.crc32,
    };
    if fetch.from == 0 && fetch.verified == whole {
        // An earlier download brought all of it.
        return Ok(());
    }
    let replica = &fetch.replica;
    // Twice as patient each time that all of them failed: they may be slow, and none hang.
    let factor = 1_u32.checked_shl(fetch.round).unwrap_or(u32::MAX);
    let silence_max = shared.links.suspect_after().saturating_mul(factor);
    let silence_max = silence_max.min(SILENCE_MAX.max(shared.links.suspect_after()));
    let taken = shared
        .links
        .take(replica.server, &replica.data_addr, silence_max)
        .await;
    let mut link = taken.map_err(|error| ReadFailure::Replica {
        error,
        fault: Fault::Unreachable,
        verified: fetch.verified,
    })?;
    let to = Outgoing {
        buffers: &shared.buffers,
        outlet,
        clock: shared.clock,
        limit,
        on_reached,
    };
    read_chunk(&mut link, fetch, silence_max, &to).await?;
    shared.links.give_back(link);
    let behind = fetch.to.saturating_sub(fetch.chunk.length.max(fetch.from));
    let given = outlet.give_zeros(u64::from(behind)).await;
    given.map_err(ReadFailure::Sink)
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
