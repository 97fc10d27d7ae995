//! What a verb needs that must see everything that was acknowledged before it began: where the
//! chunks are by now, and of those that are open the newest state. Drives [`Confirm`].

use std::time::Duration;

use sarsen_protocol::id::FileId;
use sarsen_protocol::message::{
    ChunkState, Locate, LocateReply, LocatedChunk, Newest, NewestReply, Replica,
};

use crate::client::Shared;
use crate::core::locations::page_start;
use crate::core::newest::{Action, Confirm, size};
use crate::core::read::PAGE_LEN;
use crate::error::{Error, StreamError};
use crate::fetch;

/// A file as it is by now.
pub(crate) struct Whole {
    /// Its first chunks, those that are open with the length of their newest state. The node's size
    /// is the exact one.
    pub(crate) first_page: LocateReply,
    /// Its last chunk, if it has one.
    pub(crate) last: Option<LocatedChunk>,
}

/// Where a file's first chunks are, and how long it is.
pub(crate) async fn locate_whole(
    shared: &Shared,
    which: &Locate,
    patience: Duration,
) -> Result<Whole, Error> {
    let mut first_page = locate(shared, which, patience).await?;
    let last_index = first_page.slots.saturating_sub(1);
    let last_page = match last_index < PAGE_LEN {
        true => None,
        false => {
            let which = page(first_page.node.file_id, page_start(last_index));
            Some(locate(shared, &which, patience).await?)
        }
    };
    let page = last_page.as_ref().unwrap_or(&first_page);
    let last = page.chunks.last().cloned();
    let size = size(page);
    first_page.node.size = size;
    Ok(Whole { first_page, last })
}

/// Where chunks are, those that are open with the length of their newest state.
pub(crate) async fn locate(
    shared: &Shared,
    which: &Locate,
    patience: Duration,
) -> Result<LocateReply, Error> {
    let mut located = fetch::locate(shared, which).await?;
    let is_open = |chunk: &LocatedChunk| chunk.state == ChunkState::Open;
    if located.chunks.iter().any(is_open) {
        let chunks = std::mem::take(&mut located.chunks);
        let file_id = located.node.file_id;
        located.chunks = confirm(shared, file_id, chunks, patience).await?;
    }
    Ok(located)
}

/// A page of a file's chunks.
pub(crate) const fn page(file_id: FileId, first_index: u32) -> Locate {
    Locate {
        path: String::new(),
        file_id,
        first_index,
        count: PAGE_LEN,
    }
}

async fn confirm(
    shared: &Shared,
    file_id: FileId,
    chunks: Vec<LocatedChunk>,
    patience: Duration,
) -> Result<Vec<LocatedChunk>, Error> {
    let (clock, seed) = (shared.clock, shared.master.draw_seed());
    let mut confirm = Confirm::new(clock.now(), patience, seed, chunks);
    let mut last_failure = None;
    loop {
        let Some(action) = confirm.poll(clock.now()) else {
            clock.wait_until(confirm.wake_at()).await;
            continue;
        };
        match action {
            Action::Ask { chunk, primary } => match ask(shared, &chunk, &primary).await {
                Ok(reply) => confirm.handle_newest(chunk.index, reply),
                Err(error) => {
                    tracing::info!(index = chunk.index, %error, "the master is asked again");
                    last_failure = Some(Box::new(error));
                    confirm.handle_failed(clock.now(), chunk.index);
                }
            },
            Action::Locate { index } => {
                let which = Locate {
                    first_index: index,
                    count: 1,
                    ..page(file_id, 0)
                };
                let located = fetch::locate(shared, &which).await?;
                let mut chunks = located.chunks.into_iter();
                let chunk = chunks.find(|chunk| chunk.index == index);
                confirm.handle_located(index, chunk);
            }
            Action::Done => break,
            Action::GiveUp { index, handle } => {
                return Err(Error::NoReplica {
                    index,
                    handle,
                    cause: last_failure,
                });
            }
        }
    }
    let (chunks, confirmed) = confirm.into_known();
    for (handle, state) in confirmed {
        shared.note_seen(handle, state);
    }
    Ok(chunks)
}

async fn ask(
    shared: &Shared,
    chunk: &LocatedChunk,
    primary: &Replica,
) -> Result<NewestReply, StreamError> {
    let request = Newest {
        ticket: chunk.ticket,
        handle: chunk.handle,
        version: chunk.version,
    };
    let time_max = shared.links.suspect_after();
    let (server, addr) = (primary.server, &primary.control_addr);
    shared.controls.call(server, addr, &request, time_max).await
}
