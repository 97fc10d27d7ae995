//! Files and folders of the cluster come down.
//!
//! Names come from the master and are checked before they become a part of a local path: none
//! leads out of the target. Nothing but real folders is written through, and nothing but real
//! files is replaced.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use sarsen_protocol::message::{List, ListEntry, NodeType, Stat, Usage};

use super::local::make_folder;
use super::pool::{Finds, Found, Pool, Stopped};
use super::{GetItem, TreeEvent, TreeOptions, TreeSums};
use crate::client::{Shared, check_ascends};
use crate::error::Error;
use crate::get::{GetOptions, GetReport, get};
use crate::part::is_part_name;
use crate::path;
use crate::sink::GetTarget;

/// Names asked for in one go.
const PAGE: u32 = 1_000;

/// Downloads items, each a file or a folder with all that is in it.
pub(crate) async fn get_tree(
    shared: &Arc<Shared>,
    items: Vec<GetItem>,
    options: TreeOptions<GetOptions>,
    on_event: &mut (dyn FnMut(TreeEvent<GetReport>) + Send),
) -> TreeSums {
    if let Some(progress) = &options.each.progress
        && let Some(bytes) = bytes_of(shared, &items).await
    {
        progress.whole(bytes);
    }
    let (shared, folders) = (shared.clone(), options.folders);
    Pool::new(&shared, options, on_event)
        .run(
            move |finds| async move {
                let walk = Walk { shared, finds };
                for (item, GetItem { source, target }) in items.into_iter().enumerate() {
                    walk.item(item, source, target, folders).await?;
                }
                Ok(())
            },
            |shared, Job { source, target }, each| async move {
                get(&shared, &source, target, each).await
            },
        )
        .await
}

/// What is to come, for whoever is shown the time that is left.
async fn bytes_of(shared: &Shared, items: &[GetItem]) -> Option<u64> {
    let mut bytes = 0;
    for item in items {
        let path = item.source.clone();
        bytes += shared.master.call(&Usage { path }).await.ok()?.bytes;
    }
    Some(bytes)
}

/// One file to be downloaded.
struct Job {
    source: String,
    target: GetTarget<'static>,
}

struct Walk {
    shared: Arc<Shared>,
    finds: Finds<Job>,
}

/// A folder that is being listed.
struct Frame {
    source: String,
    target: PathBuf,
    page: VecDeque<ListEntry>,
    after: String,
    more: bool,
}

impl Walk {
    async fn item(
        &self,
        item: usize,
        source: String,
        target: PathBuf,
        folders: bool,
    ) -> Result<(), Stopped> {
        if !folders {
            return self.file(item, source, GetTarget::Path(target)).await;
        }
        let request = Stat {
            path: source.clone(),
        };
        let node = match path::check(&source) {
            Ok(()) => self.shared.master.call(&request).await.map(|it| it.node),
            Err(error) => Err(error.into()),
        };
        match node.map(|node| node.node_type) {
            Ok(NodeType::File) => self.file(item, source, GetTarget::Regular(target)).await,
            Ok(NodeType::Folder) => self.tree(item, source, target).await,
            Err(error) => self.finds.fail(item, source, error).await,
        }
    }

    async fn file(
        &self,
        item: usize,
        source: String,
        target: GetTarget<'static>,
    ) -> Result<(), Stopped> {
        let path = source.clone();
        let job = Job { source, target };
        self.finds.put(Found::File { item, path, job }).await
    }

    /// Goes through a folder and all below it, depth first.
    async fn tree(&self, item: usize, source: String, target: PathBuf) -> Result<(), Stopped> {
        let mut frames: Vec<Frame> = self
            .enter(item, source, target)
            .await?
            .into_iter()
            .collect();
        while let Some(frame) = frames.last_mut() {
            match self.next_folder(item, frame).await? {
                Some((source, target)) => frames.extend(self.enter(item, source, target).await?),
                None => _ = frames.pop(),
            }
        }
        Ok(())
    }

    /// Makes the local folder; `None` if that fails, which is told.
    async fn enter(
        &self,
        item: usize,
        source: String,
        target: PathBuf,
    ) -> Result<Option<Frame>, Stopped> {
        if let Err(error) = make_folder(&target).await {
            self.finds.fail(item, source, error).await?;
            return Ok(None);
        }
        self.finds.put(Found::Folder).await?;
        Ok(Some(Frame {
            source,
            target,
            page: VecDeque::new(),
            after: String::new(),
            more: true,
        }))
    }

    /// The next folder in a folder, after the files before it were found; `None` after the last.
    async fn next_folder(
        &self,
        item: usize,
        frame: &mut Frame,
    ) -> Result<Option<(String, PathBuf)>, Stopped> {
        loop {
            let Some(ListEntry { name, node }) = frame.page.pop_front() else {
                if !frame.more {
                    return Ok(None);
                }
                if let Err(error) = self.turn_page(frame).await {
                    frame.more = false;
                    self.finds.fail(item, frame.source.clone(), error).await?;
                }
                continue;
            };
            let source = path::join(&frame.source, &name);
            if let Err(error) = check_name(&name) {
                self.finds.fail(item, source, error).await?;
                continue;
            }
            let target = frame.target.join(&name);
            match node.node_type {
                NodeType::Folder => return Ok(Some((source, target))),
                NodeType::File if is_part_name(&name) => {
                    self.finds.fail(item, source, Error::PartName).await?;
                }
                NodeType::File => {
                    self.file(item, source, GetTarget::Regular(target)).await?;
                }
            }
        }
    }

    async fn turn_page(&self, frame: &mut Frame) -> Result<(), Error> {
        let request = List {
            path: frame.source.clone(),
            after: frame.after.clone(),
            limit: PAGE,
        };
        let reply = self.shared.master.call(&request).await?;
        check_ascends(&*frame.after, reply.entries.iter().map(|it| &*it.name))?;
        if let Some(last) = reply.entries.last() {
            frame.after.clone_from(&last.name);
        }
        frame.more = reply.more && !reply.entries.is_empty();
        frame.page = reply.entries.into();
        Ok(())
    }
}

/// Whether a name from a listing may become a part of a local path.
fn check_name(name: &str) -> Result<(), Error> {
    match path::check_name(name) {
        Ok(()) if !name.contains('/') => Ok(()),
        _ => Err(Error::BadListing),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_leads_out_of_the_target() {
        for name in ["a", "a b", "...", "ü", ".hidden", &"n".repeat(255)] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in [
            "",
            ".",
            "..",
            "/",
            "../x",
            "a/b",
            "/etc",
            "a\0",
            &"n".repeat(256),
        ] {
            assert!(
                matches!(check_name(name), Err(Error::BadListing)),
                "{name:?}"
            );
        }
    }
}
