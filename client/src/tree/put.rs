//! Local files and folders go up.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sarsen_protocol::id::FileId;
use sarsen_protocol::message::MakeFolder;
use tokio::task::JoinHandle;

use super::local::{Entry, Listing, LocalType, look};
use super::pool::{Finds, Found, Pool, Stopped};
use super::{PutItem, TreeEvent, TreeOptions, TreeSums};
use crate::client::Shared;
use crate::error::Error;
use crate::path;
use crate::put::{PutOptions, PutReport, put};
use crate::source::PutSource;

/// Folders that are made before they are looked into: making one takes a sync of the log, which
/// many share.
const FOLDERS_AHEAD: usize = 32;

/// Uploads items, each a file or a folder with all that is in it.
pub(crate) async fn put_tree(
    shared: &Arc<Shared>,
    items: Vec<PutItem>,
    options: TreeOptions<PutOptions>,
    on_event: &mut (dyn FnMut(TreeEvent<PutReport>) + Send),
) -> TreeSums {
    let (shared, folders) = (shared.clone(), options.folders);
    Pool::new(&shared, options, on_event)
        .run(
            move |finds| async move {
                let walk = Walk { shared, finds };
                for (item, PutItem { source, target }) in items.into_iter().enumerate() {
                    walk.item(item, source, target, folders).await?;
                }
                Ok(())
            },
            |shared, Job { source, target }, each| async move {
                put(&shared, &target, source, each).await
            },
        )
        .await
}

/// One file to be uploaded.
struct Job {
    source: PutSource,
    target: String,
}

struct Walk {
    shared: Arc<Shared>,
    finds: Finds<Job>,
}

/// A folder that is being made.
struct Made {
    source: PathBuf,
    target: String,
    making: JoinHandle<Result<FileId, Error>>,
}

/// A folder that is being read.
struct Frame {
    source: PathBuf,
    target: String,
    listing: Listing,
    batch: VecDeque<Result<Entry, Error>>,
    /// Folders in it that were found and not looked into.
    ahead: VecDeque<Made>,
    ended: bool,
}

impl Walk {
    async fn item(
        &self,
        item: usize,
        source: PathBuf,
        target: String,
        folders: bool,
    ) -> Result<(), Stopped> {
        // A link that is named by its user is followed where only files are meant, as cp does.
        let found = match look(&source, !folders).await {
            Ok(found) => found,
            Err(error) => return self.finds.fail(item, shown(&source), error).await,
        };
        match (found, folders) {
            (LocalType::Folder, true) => {
                let made = self.make(source, target);
                self.tree(item, made).await
            }
            (LocalType::Folder, false) => {
                let error = Error::LocalFolder {
                    path: source.clone(),
                };
                self.finds.fail(item, shown(&source), error).await
            }
            (LocalType::File, true) => self.file(item, PutSource::Regular(source), target).await,
            (LocalType::Other(what), true) => {
                self.finds
                    .fail(item, shown(&source), Error::Skipped { what })
                    .await
            }
            (_, false) => self.file(item, PutSource::Path(source), target).await,
        }
    }

    async fn file(&self, item: usize, source: PutSource, target: String) -> Result<(), Stopped> {
        let path = target.clone();
        let job = Job { source, target };
        self.finds.put(Found::File { item, path, job }).await
    }

    /// Goes through a folder and all below it, depth first.
    async fn tree(&self, item: usize, top: Made) -> Result<(), Stopped> {
        let mut frames: Vec<Frame> = self.enter(item, top).await?.into_iter().collect();
        while let Some(frame) = frames.last_mut() {
            match self.next_folder(item, frame).await? {
                Some(made) => frames.extend(self.enter(item, made).await?),
                None => _ = frames.pop(),
            }
        }
        Ok(())
    }

    /// Begins to make a folder in the cluster; one that is there will do.
    fn make(&self, source: PathBuf, target: String) -> Made {
        let (shared, path) = (self.shared.clone(), target.clone());
        let making = tokio::spawn(async move {
            path::check(&path)?;
            let made = shared.sessions.mutate(|request| MakeFolder {
                request,
                path: path.clone(),
                parents: true,
            });
            Ok(made.await?.file_id)
        });
        Made {
            source,
            target,
            making,
        }
    }

    /// Waits until a folder is made and begins to read it; `None` if either fails, which is told.
    async fn enter(&self, item: usize, made: Made) -> Result<Option<Frame>, Stopped> {
        let Made {
            source,
            target,
            making,
        } = made;
        let done = making.await.unwrap_or_else(|error| Err(error.into()));
        if let Err(error) = done {
            self.finds.fail(item, target, error).await?;
            return Ok(None);
        }
        self.finds.put(Found::Folder).await?;
        match Listing::open(source.clone()).await {
            Ok(listing) => Ok(Some(Frame {
                source,
                target,
                listing,
                batch: VecDeque::new(),
                ahead: VecDeque::new(),
                ended: false,
            })),
            Err(error) => {
                self.finds.fail(item, shown(&source), error).await?;
                Ok(None)
            }
        }
    }

    /// The next folder in a folder, after the files before it were found; `None` after the last.
    async fn next_folder(&self, item: usize, frame: &mut Frame) -> Result<Option<Made>, Stopped> {
        loop {
            if frame.ended || frame.ahead.len() >= FOLDERS_AHEAD {
                return Ok(frame.ahead.pop_front());
            }
            let Some(entry) = frame.batch.pop_front() else {
                match frame.listing.next_batch().await {
                    Ok(batch) => {
                        frame.ended = batch.is_empty();
                        frame.batch = batch.into();
                    }
                    Err(error) => {
                        frame.ended = true;
                        self.finds.fail(item, shown(&frame.source), error).await?;
                    }
                }
                continue;
            };
            match entry {
                Ok(entry) => self.found(item, frame, entry).await?,
                Err(error) => self.finds.fail(item, shown(&frame.source), error).await?,
            }
        }
    }

    async fn found(&self, item: usize, frame: &mut Frame, entry: Entry) -> Result<(), Stopped> {
        let source = frame.source.join(&entry.name);
        if let LocalType::Other(what) = entry.found {
            let error = Error::Skipped { what };
            return self.finds.fail(item, shown(&source), error).await;
        }
        let Some(name) = entry.name.to_str() else {
            let error = Error::NotUtf8;
            return self.finds.fail(item, shown(&source), error).await;
        };
        let target = path::join(&frame.target, name);
        match entry.found {
            LocalType::Folder => {
                frame.ahead.push_back(self.make(source, target));
                Ok(())
            }
            _ => self.file(item, PutSource::Regular(source), target).await,
        }
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
