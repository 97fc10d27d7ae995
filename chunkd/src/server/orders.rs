//! What the master orders, and what of it is done on the disks, which blocks. Orders to open chunks
//! are for their machines.
//!
//! The machine has compared epoch and connection; handle and version are compared here, with what
//! is on disk at this moment.

use std::sync::Arc;

use sarsen_protocol::id::{ChunkHandle, ChunkVersion, DirectoryId, Epoch};
use sarsen_protocol::message::{AnyMessage, ChunkVerified, ErrorBody};
use sarsen_protocol::status::Status;

use crate::core::action::{DeleteOrder, Order};
use crate::core::event::Refusal;
use crate::core::{member, mutation};
use crate::net::Chunkserver;
use crate::net::chunkserver::status_of;
use crate::store::{Directory, ReadFrom, StoreError};

/// What reading a chunk back came to, for whoever ordered it.
pub type Verified = Result<ChunkVerified, Refusal>;

/// The order that a message of the master's is, with its epoch; none if it is something else.
#[must_use]
pub fn order_of(message: &AnyMessage) -> Option<(Epoch, Order)> {
    use member::Order as Change;
    let of_chunk = |order| Order::Chunk(Box::new(order));
    let change = |order| of_chunk(mutation::Order::Change(order));
    Some(match message {
        AnyMessage::DeleteChunk(order) => {
            let (handle, version) = (order.handle, order.version);
            (order.epoch, Order::Delete { handle, version })
        }
        AnyMessage::VerifyChunk(order) => {
            let (handle, version) = (order.handle, order.version);
            (order.epoch, Order::Verify { handle, version })
        }
        AnyMessage::CopyChunk(order) => (order.epoch, Order::Copy(Box::new(order.clone()))),
        AnyMessage::Promise(order) => (order.epoch, change(Change::Promise(*order))),
        AnyMessage::Begin(order) => (order.epoch, change(Change::Begin(*order))),
        AnyMessage::PrepareSeal(order) => (order.epoch, change(Change::PrepareSeal(*order))),
        AnyMessage::Settle(order) => (order.epoch, change(Change::Settle(*order))),
        AnyMessage::GrantLease(order) => {
            let grant = mutation::Order::Grant(Box::new(order.clone()));
            (order.epoch, of_chunk(grant))
        }
        AnyMessage::RevokeLease(order) => (order.epoch, of_chunk(mutation::Order::Revoke(*order))),
        _ => return None,
    })
}

/// Orders to delete that are about to run. What they name is told as gone while this lives, over
/// whichever connection: an order may wait for its disk, and outlive the connection that it came
/// over, and a replica that counted again meanwhile would have another one deleted as too many.
/// At the end what was not deleted is told as held again.
#[derive(Debug)]
pub struct Deletes {
    chunkserver: Arc<Chunkserver>,
    orders: Vec<DeleteOrder>,
    leaving: Vec<(Arc<Directory>, ChunkHandle)>,
}

impl Deletes {
    /// Takes orders that were found to be obeyed. Asks no disk.
    #[must_use]
    pub fn announce(chunkserver: &Arc<Chunkserver>, orders: Vec<DeleteOrder>) -> Self {
        let mut leaving = Vec::new();
        // What is not served has not kept the epoch of who orders.
        for directory in chunkserver.served() {
            for &DeleteOrder {
                handle, version, ..
            } in &orders
            {
                if directory.entry(handle).map(|entry| entry.version) == Some(version) {
                    directory.begin_delete(handle);
                    chunkserver.changed(directory, handle);
                    leaving.push((Arc::clone(directory), handle));
                }
            }
        }
        Self {
            chunkserver: Arc::clone(chunkserver),
            orders,
            leaving,
        }
    }

    /// The orders.
    #[must_use]
    pub fn orders(&self) -> &[DeleteOrder] {
        &self.orders
    }

    /// Moves the chunks to the holding folders; a result for each order, in order.
    #[must_use]
    pub fn run(&self) -> Vec<Result<(), Refusal>> {
        let not_found = |order: &DeleteOrder| {
            Err(StoreError::NotFound {
                handle: order.handle,
            })
        };
        let mut results: Vec<Result<(), StoreError>> = self.orders.iter().map(not_found).collect();
        for directory in self.chunkserver.served() {
            let (damaged, whole): (Vec<_>, Vec<_>) = self
                .orders
                .iter()
                .enumerate()
                .filter(|(_, order)| holds(directory, order))
                .partition(|(_, order)| !order.version.is_some());
            let batch: Vec<_> = whole
                .iter()
                .map(|(_, it)| (it.handle, it.version))
                .collect();
            let deleted = directory.delete(&batch);
            let damaged_deleted = damaged.iter().map(|(_, it)| {
                let deleted = directory.delete_damaged(it.handle);
                self.chunkserver.changed(directory, it.handle);
                deleted
            });
            let done: Vec<_> = deleted.into_iter().chain(damaged_deleted).collect();
            for ((n, _), result) in whole.into_iter().chain(damaged).zip(done) {
                if let Some(place) = results.get_mut(n) {
                    *place = result;
                }
            }
        }
        for order in &self.orders {
            // Whoever drives it as an open chunk was told before, when nothing was gone yet.
            self.chunkserver.members.look_again(order.handle);
        }
        let ended = self.orders.iter().zip(results);
        let refused = |(order, result): (&DeleteOrder, Result<(), StoreError>)| {
            result.map_err(|error| refusal(&self.why_not(order, error)))
        };
        ended.map(refused).collect()
    }

    /// What is said of an order that failed. A chunk that was put aside is gone, though that be not
    /// stable: who heard of a failure alone would count it, and delete another one as too many.
    fn why_not(&self, order: &DeleteOrder, error: StoreError) -> StoreError {
        let handle = order.handle;
        let is_there = self.chunkserver.served().any(|it| holds(it, order));
        if is_there || matches!(error, StoreError::NotFound { .. }) {
            return error;
        }
        tracing::error!(%handle, %error, "a deleted chunk may come back with a power cut");
        StoreError::NotFound { handle }
    }
}

impl Drop for Deletes {
    fn drop(&mut self) {
        for (directory, handle) in self.leaving.drain(..) {
            directory.end_delete(handle);
            if directory.entry(handle).is_some() {
                self.chunkserver.changed(&directory, handle);
            }
        }
    }
}

/// The directory that has what an order names, if any has.
#[must_use]
pub fn holder(chunkserver: &Chunkserver, order: &DeleteOrder) -> Option<DirectoryId> {
    let mut served = chunkserver.served();
    let holder = served.find(|directory| holds(directory, order));
    holder.map(|directory| directory.identity().directory_id)
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
        Some(_) => directory.verify(handle, ReadFrom::Medium, now),
    };
    // A damaged header is found out, and marked, on the way.
    let is_marked = directory
        .entry(handle)
        .is_some_and(|entry| entry.flags.corrupt);
    let is_bad = found.as_ref().is_ok_and(|found| !found.is_good());
    if is_marked || is_bad {
        tracing::error!(%handle, "a chunk was read back and does not match");
        chunkserver.counters.chunks_corrupt.add(1);
        // If it is open: its chain is not to wait for the next mutation to hear of it.
        chunkserver.members.read_failed(handle, Status::Corrupt);
    }
    // Also if it did match: to take note of that may have poisoned it.
    chunkserver.changed(directory, handle);
    found
        .map_err(|error| refusal(&error))
        .map(|found| ChunkVerified {
            good: found.is_good(),
            length: found.length,
            crc32: found.crc32,
        })
}

/// What is said of an error of the store.
pub(super) fn refusal(error: &StoreError) -> Refusal {
    (status_of(error), ErrorBody::new(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::tickets::TicketKeys;
    use crate::net::Notice;
    use crate::store::tests::faulty::FaultyTree;
    use crate::store::tests::scenario::{ADOPTION, START, Sample};
    use sarsen_protocol::key::SecretKey;
    use sarsen_protocol::message::Level;
    use std::time::Duration;
    use tokio::sync::mpsc::UnboundedReceiver;

    /// What is told of the chunks that are noticed to have changed.
    fn told(notices: &mut UnboundedReceiver<Notice>, directory: &Directory) -> Vec<(u64, bool)> {
        let mut told = Vec::new();
        while let Ok(Notice::Changed { handle, .. }) = notices.try_recv() {
            told.push((handle.0, directory.told(handle).is_some()));
        }
        told
    }

    /// Orders outlive the connection that they came over. The report that the next one began with
    /// told of a chunk whose delete waited for its disk, and another replica was deleted as one too
    /// many.
    #[test]
    fn what_is_to_be_deleted_is_told_as_gone_and_again_if_it_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let directory = Directory::open(&folder.path().join("d"), &START).expect("opens");
        directory.adopt(ADOPTION).expect("adopts");
        let samples = [1, 2].map(|number| Sample::new(number, 3));
        for sample in &samples {
            sample.store(&directory, Level::Disk).expect("sealed");
        }
        let directory = Arc::new(directory);
        let key = SecretKey::new([0; 32]);
        let (server, mut notices) = Chunkserver::new(key, vec![Arc::clone(&directory)]);
        let server = Arc::new(server);
        let id = directory.identity().directory_id;
        server.register(TicketKeys::new(&[]), &[id], Duration::from_secs(3));
        while notices.try_recv().is_ok() {}
        let order = |sample: &Sample, version: u64| DeleteOrder {
            connection: 1,
            request_id: 1,
            handle: sample.handle,
            version: ChunkVersion(version),
        };
        let [first, second] = [&samples[0], &samples[1]];
        let orders = vec![order(first, first.version.0), order(second, 99)];
        let deletes = Deletes::announce(&server, orders.clone());
        let others = told(&mut notices, &directory);
        assert_eq!(others, [(1, false)], "no order names the second as it is");
        // The disk hung, and then the program gave it up.
        drop(deletes);
        assert_eq!(told(&mut notices, &directory), [(1, true)]);
        let deletes = Deletes::announce(&server, orders);
        assert_eq!(told(&mut notices, &directory), [(1, false)]);
        let results = deletes.run();
        assert!(results[0].is_ok() && results[1].is_err(), "{results:?}");
        drop(deletes);
        assert_eq!(told(&mut notices, &directory), [], "it was told as gone");
        assert!(directory.told(first.handle).is_none());
    }

    /// A chunk was put aside, and the sync of its folder failed. The master heard that the order had
    /// failed before it heard that the chunk was gone, and had another replica deleted as one too many.
    #[test]
    fn what_was_put_aside_is_not_there_though_that_be_not_stable() {
        let tree = Arc::new(FaultyTree::new());
        let directory = Directory::open_tree(Arc::clone(&tree) as _, &START).expect("opens");
        directory.adopt(ADOPTION).expect("adopts");
        let sample = Sample::new(1, 3);
        sample.store(&directory, Level::Disk).expect("sealed");
        let id = directory.identity().directory_id;
        let key = SecretKey::new([0; 32]);
        let (server, _notices) = Chunkserver::new(key, vec![Arc::new(directory)]);
        let server = Arc::new(server);
        server.register(TicketKeys::new(&[]), &[id], Duration::from_secs(3));
        let delete = |version| {
            let order = DeleteOrder {
                connection: 1,
                request_id: 1,
                handle: sample.handle,
                version,
            };
            let mut results = Deletes::announce(&server, vec![order]).run();
            results.remove(0).map_err(|(status, _)| status)
        };
        let other = ChunkVersion(sample.version.0 + 1);
        assert_eq!(delete(other), Err(Status::Moved), "it stays");
        tree.fail_next_sync();
        assert_eq!(delete(sample.version), Err(Status::ChunkUnknown));
        assert!(server.directories().all(|it| it.is_poisoned()));
    }
}
