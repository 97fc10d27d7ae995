//! What the master ordered, done on the disks. All of it blocks.
//!
//! The machine has compared epoch and connection; handle and version are compared here, with what
//! is on disk at this moment.

use sarsen_protocol::id::{ChunkHandle, ChunkVersion, DirectoryId};
use sarsen_protocol::message::{ChunkVerified, ErrorBody};
use sarsen_protocol::status::Status;

use crate::core::action::DeleteOrder;
use crate::core::event::Refusal;
use crate::net::Chunkserver;
use crate::net::chunkserver::status_of;
use crate::store::{Directory, ReadFrom, StoreError};

/// What reading a chunk back came to, for whoever ordered it.
pub type Verified = Result<ChunkVerified, Refusal>;

/// Moves chunks to the holding folders; a result for each order, in order.
#[must_use]
pub fn delete(chunkserver: &Chunkserver, orders: &[DeleteOrder]) -> Vec<Result<(), Refusal>> {
    let mut results: Vec<Result<(), StoreError>> = orders
        .iter()
        .map(|order| {
            Err(StoreError::NotFound {
                handle: order.handle,
            })
        })
        .collect();
    // What is not served has not kept the epoch of who orders.
    for directory in chunkserver.served() {
        let (damaged, whole): (Vec<_>, Vec<_>) = orders
            .iter()
            .enumerate()
            .filter(|(_, order)| holds(directory, order))
            .partition(|(_, order)| !order.version.is_some());
        let batch: Vec<_> = whole
            .iter()
            .map(|(_, it)| (it.handle, it.version))
            .collect();
        let deleted = directory.delete(&batch);
        let damaged_deleted = damaged
            .iter()
            .map(|(_, it)| directory.delete_damaged(it.handle));
        let done: Vec<_> = deleted.into_iter().chain(damaged_deleted).collect();
        for ((n, order), result) in whole.into_iter().chain(damaged).zip(done) {
            if result.is_ok() {
                chunkserver.changed(directory, order.handle);
            }
            if let Some(place) = results.get_mut(n) {
                *place = result;
            }
        }
    }
    let refused = |result: Result<(), StoreError>| result.map_err(|error| refusal(&error));
    results.into_iter().map(refused).collect()
}

/// The directory that has what an order names, if any has.
#[must_use]
pub fn holder(chunkserver: &Chunkserver, order: &DeleteOrder) -> Option<DirectoryId> {
    let mut served = chunkserver.served();
    let holder = served.find(|directory| holds(directory, order));
    holder.map(|directory| directory.identity().directory_id)
}

/// What is said for a disk that doesn't answer.
pub(super) fn hung() -> Refusal {
    let error = ErrorBody::new("the disk does not answer");
    (Status::MediumFailed, error)
}

/// Whether a directory has what an order names: a chunk, or, with version 0, a damaged file.
fn holds(directory: &Directory, order: &DeleteOrder) -> bool {
    match order.version.is_some() {
        true => directory.entry(order.handle).is_some(),
        false => directory
            .problems()
            .iter()
            .any(|problem| problem.handle == Some(order.handle)),
    }
}

/// Reads a chunk back from the medium, and marks it if it does not match. `now` is the wall clock
/// in milliseconds since 1970.
pub fn verify(
    chunkserver: &Chunkserver,
    directory: &Directory,
    handle: ChunkHandle,
    version: ChunkVersion,
    now: u64,
) -> Verified {
    let found = match directory.entry(handle) {
        None => Err(StoreError::NotFound { handle }),
        Some(entry) if entry.version != version => Err(StoreError::OtherVersion {
            handle,
            held: entry.version,
            asked: version,
        }),
        Some(entry) => {
            let found = directory.verify(handle, ReadFrom::Medium, now);
            found.map(|found| (entry.length, found))
        }
    };
    // A damaged header is found out, and marked, on the way.
    let is_marked = directory
        .entry(handle)
        .is_some_and(|entry| entry.flags.corrupt);
    if is_marked {
        tracing::error!(%handle, "a chunk was read back and does not match");
        chunkserver.counters.chunks_corrupt.add(1);
    }
    // Also if it did match: to take note of that may have poisoned it.
    chunkserver.changed(directory, handle);
    found
        .map_err(|error| refusal(&error))
        .map(|(length, found)| ChunkVerified {
            good: found.is_good(),
            length,
            crc32: found.crc32,
        })
}

/// What is said of an error of the store.
pub(super) fn refusal(error: &StoreError) -> Refusal {
    (status_of(error), ErrorBody::new(error.to_string()))
}
