//! What a registration asks to be kept durably, each directory for itself: one whose disk fails or
//! hangs is left out, and the server goes on with the others.

use std::sync::Arc;
use std::time::Duration;

use sarsen_protocol::id::DirectoryId;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, timeout_at};

use super::master_link::{Inputs, tell};
use crate::core::action::ToKeep;
use crate::core::event::{ConnectionId, Event};
use crate::net::Chunkserver;
use crate::store::{Adoption, StoreError};

/// How long the disks have before the server goes on without those that have not answered.
const KEEP_MAX: Duration = Duration::from_secs(5);

/// How one directory's keeping goes.
type Keeping = JoinHandle<Result<(), StoreError>>;

/// Adopts the directories that count, and takes note of the master's epoch in each. Blocks.
///
/// # Errors
/// Those of the first directory that can't; the master must not be obeyed with it then.
pub fn keep_durably(chunkserver: &Chunkserver, keep: &ToKeep) -> Result<(), StoreError> {
    let adoption = Adoption {
        cluster_id: keep.cluster_id,
        server_id: keep.server_id,
        chunk_size: keep.chunk_size,
    };
    for directory in keep
        .directories
        .iter()
        .filter_map(|&id| chunkserver.directory(id))
    {
        directory.adopt(adoption)?;
        directory.obey_epoch(keep.epoch)?;
        if let Err(error) = directory.start_is_registered() {
            // Nothing rests on it: the next start offers this one too.
            tracing::warn!(%error, "could not note that this start is registered");
        }
    }
    Ok(())
}

/// Does it in all directories at once, and tells what came of it.
pub(super) async fn run(
    chunkserver: Arc<Chunkserver>,
    inputs: Inputs,
    connection: ConnectionId,
    keep: ToKeep,
) {
    let until = Instant::now() + KEEP_MAX;
    let begin = |&directory_id: &DirectoryId| {
        let keep = ToKeep {
            directories: vec![directory_id],
            ..keep.clone()
        };
        let chunkserver = Arc::clone(&chunkserver);
        let keeping = spawn_blocking(move || keep_durably(&chunkserver, &keep));
        (directory_id, keeping)
    };
    let begun: Vec<_> = keep.directories.iter().map(begin).collect();
    let (mut kept, mut late, mut last_error) = (0, Vec::new(), String::new());
    for (directory_id, mut keeping) in begun {
        let error = match timeout_at(until, &mut keeping).await {
            Ok(Ok(Ok(()))) => {
                kept += 1;
                continue;
            }
            Ok(Ok(Err(error))) if !is_of_its_disk(&error) => {
                return tell(&inputs, refused(connection, &error));
            }
            Ok(Ok(Err(error))) => error.to_string(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => {
                late.push((directory_id, keeping));
                format!("the disk has not answered for {KEEP_MAX:?}")
            }
        };
        let directory = chunkserver.directory(directory_id);
        let path = directory.map(|it| it.root().display().to_string());
        tracing::error!(dir = path, %error,
            "A DIRECTORY IS LEFT OUT: it can't keep what the registration asks for; none of its \
             chunks is served");
        last_error = error;
        tell(
            &inputs,
            Event::LeftOut {
                connection,
                directory_id,
            },
        );
    }
    let outcome = match kept {
        0 => Event::KeepFailed {
            connection,
            text: last_error,
            is_foreign: false,
        },
        _ => Event::Kept { connection },
    };
    tell(&inputs, outcome);
    for (directory_id, keeping) in late {
        tokio::spawn(wait(inputs.clone(), connection, directory_id, keeping));
    }
}

/// Waits for a disk that hangs, for as long as it takes.
async fn wait(
    inputs: Inputs,
    connection: ConnectionId,
    directory_id: DirectoryId,
    keeping: Keeping,
) {
    if let Ok(Ok(())) = keeping.await {
        let kept = Event::KeptLate {
            connection,
            directory_id,
        };
        tell(&inputs, kept);
    }
}

/// Whether only this directory is concerned, and not the master that asks. Want of descriptors or memory
/// is nobody's in particular, and passes: the server registers again then.
fn is_of_its_disk(error: &StoreError) -> bool {
    matches!(error, StoreError::Io { .. } | StoreError::NoSpace { .. })
        && !error.is_short_of_means()
}

fn refused(connection: ConnectionId, error: &StoreError) -> Event {
    Event::KeepFailed {
        connection,
        text: error.to_string(),
        is_foreign: matches!(
            error,
            StoreError::OtherCluster { .. }
                | StoreError::OtherServer { .. }
                | StoreError::ChunkSize { .. }
        ),
    }
}

#[cfg(test)]
mod tests {
    use sarsen_protocol::id::Epoch;
    use sarsen_protocol::key::SecretKey;
    use tokio::sync::mpsc::unbounded_channel;

    use super::super::master_link::Input;
    use super::*;
    use crate::store::tests::faulty::FaultyTree;
    use crate::store::tests::scenario::{ADOPTION, START};
    use crate::store::{Directory, Start};

    /// A directory that found no memory, or descriptor, for its new identity was told as a failed disk
    /// until the next registration: all its chunks were copied elsewhere.
    #[tokio::test]
    async fn want_of_memory_leaves_no_directory_out() {
        let trees = [(); 2].map(|()| Arc::new(FaultyTree::new()));
        let open = |(tree, number): (&Arc<FaultyTree>, u8)| {
            let start = Start {
                new_directory_id: DirectoryId([number; 16]),
                ..START
            };
            let directory = Directory::open_tree(Arc::clone(tree) as _, &start).expect("opens");
            directory.adopt(ADOPTION).expect("adopts");
            Arc::new(directory)
        };
        let directories: Vec<_> = trees.iter().zip(1..).map(open).collect();
        let keep = ToKeep {
            cluster_id: ADOPTION.cluster_id,
            server_id: ADOPTION.server_id,
            chunk_size: ADOPTION.chunk_size,
            epoch: Epoch {
                number: 5,
                incarnation: 50,
            },
            directories: vec![DirectoryId([1; 16]), DirectoryId([2; 16])],
        };
        let (chunkserver, _notices) = Chunkserver::new(SecretKey::new([0; 32]), directories);
        let chunkserver = Arc::new(chunkserver);
        let (inputs, mut arrived) = unbounded_channel();
        trees[1].be_short_of_memory_for(Some("IDENTITY"));
        run(Arc::clone(&chunkserver), inputs.clone(), 1, keep.clone()).await;
        let Some(Input::Event(Event::KeepFailed { is_foreign, .. })) = arrived.recv().await else {
            panic!("not to be tried again");
        };
        assert!(!is_foreign);
        trees[1].be_short_of_memory_for(None);
        run(chunkserver, inputs, 1, keep).await;
        let kept = arrived.recv().await;
        assert!(matches!(kept, Some(Input::Event(Event::Kept { .. }))));
        assert!(arrived.is_empty());
    }
}
