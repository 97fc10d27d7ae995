//! A plain model of the namespace: paths and what they name, nothing clever.
//!
//! It is told every entry of the log in order and says what each should be answered with. It
//! shares no code with the master: where the two differ, one of them is wrong.

use std::collections::{BTreeMap, BTreeSet};

use sarsen_master::core::command::{Activation, Command, Entry, FilePublished, Then};
use sarsen_master::core::path::Path;
use sarsen_protocol::id::{ChunkHandle, FileId, SessionId};
use sarsen_protocol::status::Status;

use super::op::Done;
use crate::workload::CHUNK_SIZE;

/// What a path names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Node {
    /// A folder.
    Folder(FileId),
    /// A file.
    File(FileId),
}

impl Node {
    /// Its id.
    #[must_use]
    pub const fn id(self) -> FileId {
        match self {
            Self::Folder(id) | Self::File(id) => id,
        }
    }
}

/// What lies in the trash under one number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trashed {
    /// Where it was.
    pub path: String,
    /// It and what is below it, by the rest of the path.
    pub tree: BTreeMap<String, Node>,
}

/// The namespace.
#[derive(Clone, Debug)]
pub struct Names {
    /// Everything but the root, by path.
    nodes: BTreeMap<String, Node>,
    trash: BTreeMap<u64, Trashed>,
    pending: BTreeMap<FileId, SessionId>,
    chunks: BTreeMap<FileId, Vec<ChunkHandle>>,
    needed: BTreeSet<ChunkHandle>,
    next: u64,
    taken: Option<(ChunkHandle, ChunkHandle)>,
    /// Files that took another's place.
    pub replaced: u64,
}

impl Default for Names {
    fn default() -> Self {
        Self {
            nodes: BTreeMap::new(),
            trash: BTreeMap::new(),
            pending: BTreeMap::new(),
            chunks: BTreeMap::new(),
            needed: BTreeSet::new(),
            next: 2,
            taken: None,
            replaced: 0,
        }
    }
}

/// Where something can be put.
enum Spot {
    Taken(Option<Node>),
    /// Folders that are missing above.
    Free(Vec<String>),
}

impl Names {
    /// What a path names; the root is a folder.
    ///
    /// # Errors
    /// As the master's.
    pub fn find(&self, path: &str) -> Result<Node, Status> {
        match self.spot(path, false)? {
            Spot::Taken(Some(node)) => Ok(node),
            Spot::Taken(None) => Ok(Node::Folder(FileId(1))),
            Spot::Free(_) => Err(Status::NotFound),
        }
    }

    /// What lies in a folder.
    #[must_use]
    pub fn list(&self, folder: &str) -> BTreeMap<&str, Node> {
        let prefix = match folder {
            "/" => "/".to_owned(),
            folder => format!("{folder}/"),
        };
        let below = self.below(&prefix);
        let names = below.filter_map(|(path, node)| {
            let name = path.strip_prefix(&prefix)?;
            (!name.contains('/')).then_some((name, *node))
        });
        names.collect()
    }

    /// Every file that a path names, by path.
    pub fn files(&self) -> impl Iterator<Item = (&str, FileId)> {
        self.nodes.iter().filter_map(|(path, node)| match node {
            Node::File(id) => Some((path.as_str(), *id)),
            Node::Folder(_) => None,
        })
    }

    /// Every folder, by path.
    pub fn folders(&self) -> impl Iterator<Item = &str> {
        self.nodes
            .iter()
            .filter(|(_, node)| matches!(node, Node::Folder(_)))
            .map(|(path, _)| path.as_str())
    }

    /// The trash, by number.
    #[must_use]
    pub const fn trash(&self) -> &BTreeMap<u64, Trashed> {
        &self.trash
    }

    /// Whether a file is published, in the tree or in the trash.
    #[must_use]
    pub fn is_published(&self, file: FileId) -> bool {
        self.chunks.contains_key(&file)
    }

    /// The file that names a chunk, and in which of its slots.
    #[must_use]
    pub fn slot_of(&self, handle: ChunkHandle) -> Option<(FileId, u32)> {
        self.chunks.iter().find_map(|(file, chunks)| {
            let index = chunks.iter().position(|it| *it == handle)?;
            Some((*file, u32::try_from(index).ok()?))
        })
    }

    /// Whether a file names a chunk.
    #[must_use]
    pub fn is_needed(&self, handle: ChunkHandle) -> bool {
        self.needed.contains(&handle)
    }

    /// Applies an entry: what it is to be answered with, for those that the model knows.
    pub fn apply(&mut self, entry: &Entry) -> Option<Result<Done, Status>> {
        let session = entry
            .request
            .map_or(SessionId::NONE, |request| request.session);
        Some(match &entry.command {
            Command::FolderMade(body) => self.make_folder(&text(&body.path), body.parents),
            Command::PendingCreated(body) => {
                self.create_pending(&text(&body.path), body.parents, body.force, session)
            }
            Command::FileMade(body) => self.make_file(&text(&body.path), body.parents),
            Command::PendingAborted(body) => {
                if self.pending.get(&body.file) == Some(&session) {
                    self.pending.remove(&body.file);
                }
                Ok(Done::Nothing)
            }
            Command::FilePublished(body) => self.publish(body, session),
            Command::Renamed(body) => self.rename(&text(&body.source), &text(&body.target)),
            Command::Removed(body) => self.remove(&text(&body.path), body.recursive, body.purge),
            Command::TrashRestored(body) => {
                self.restore(body.entry.0, body.target.as_ref().map(text))
            }
            Command::TrashEmptied(body) => self.empty(body.entry.0),
            Command::TrashExpired(body) => {
                let gone = body
                    .entries
                    .iter()
                    .filter(|entry| self.trash.contains_key(&entry.0));
                let gone: Vec<u64> = gone.map(|entry| entry.0).collect();
                gone.iter().for_each(|&entry| self.purge_trash(entry));
                Ok(Done::Emptied(gone.len() as u64))
            }
            Command::SessionsClosed(body) => {
                self.pending
                    .retain(|_, session| !body.sessions.contains(session));
                Ok(Done::Nothing)
            }
            Command::FileResized(body) => match self.is_published(body.file) {
                true if !self.is_in_trash(body.file) => {
                    self.cut(body.file, body.size);
                    Ok(Done::File(body.file))
                }
                _ => Err(Status::NotFound),
            },
            Command::ChunkSealed(body) => match &body.then {
                Then::Cut { file, size } => {
                    self.cut(*file, *size);
                    Ok(Done::File(*file))
                }
                Then::Next(next) => {
                    self.activate(next);
                    return None;
                }
                // Of those that are asked for, this one is a loss that is accepted.
                Then::Nothing => {
                    entry.request?;
                    let (file, _) = self.slot_of(body.handle)?;
                    Ok(Done::File(file))
                }
            },
            Command::ChunkActivated(body) => {
                self.activate(body);
                return None;
            }
            _ => return None,
        })
    }

    /// A chunk of a file is open from now on, or goes on.
    fn activate(&mut self, body: &Activation) {
        let Some(slots) = self.chunks.get_mut(&body.file) else {
            return;
        };
        let index = body.index as usize;
        if slots.len() <= index {
            slots.resize(index + 1, ChunkHandle::NONE);
        }
        let before = std::mem::replace(&mut slots[index], body.handle);
        if before != body.handle {
            self.needed.remove(&before);
            self.needed.insert(body.handle);
            if before.is_some() {
                self.taken = Some((before, body.handle));
            }
        }
    }

    /// A chunk whose slot was given to another, and which.
    #[must_use]
    pub const fn taken(&self) -> Option<(ChunkHandle, ChunkHandle)> {
        self.taken
    }

    fn cut(&mut self, file: FileId, size: u64) {
        let slots = self.chunks.get_mut(&file);
        let kept = usize::try_from(size.div_ceil(CHUNK_SIZE.into())).unwrap_or(usize::MAX);
        for handle in slots
            .into_iter()
            .flat_map(|it| it.split_off(kept.min(it.len())))
        {
            self.needed.remove(&handle);
        }
    }

    fn is_in_trash(&self, file: FileId) -> bool {
        let mut trees = self.trash.values();
        trees.any(|it| it.tree.values().any(|node| node.id() == file))
    }

    fn make_folder(&mut self, path: &str, parents: bool) -> Result<Done, Status> {
        match self.spot(path, parents)? {
            Spot::Taken(None) if parents => Ok(Done::Folder(FileId(1))),
            Spot::Taken(Some(Node::Folder(id))) if parents => Ok(Done::Folder(id)),
            Spot::Taken(_) => Err(Status::AlreadyExists),
            Spot::Free(missing) => {
                self.make_missing(missing);
                let id = self.draw();
                self.nodes.insert(path.to_owned(), Node::Folder(id));
                Ok(Done::Folder(id))
            }
        }
    }

    fn make_file(&mut self, path: &str, parents: bool) -> Result<Done, Status> {
        if let Spot::Free(missing) = self.file_spot(path, parents, false)? {
            self.make_missing(missing);
        }
        let id = self.draw();
        self.chunks.insert(id, Vec::new());
        self.nodes.insert(path.to_owned(), Node::File(id));
        Ok(Done::File(id))
    }

    fn create_pending(
        &mut self,
        path: &str,
        parents: bool,
        force: bool,
        session: SessionId,
    ) -> Result<Done, Status> {
        self.file_spot(path, parents, force)?;
        let id = self.draw();
        self.pending.insert(id, session);
        Ok(Done::File(id))
    }

    fn file_spot(&self, path: &str, parents: bool, force: bool) -> Result<Spot, Status> {
        let spot = self.spot(path, parents)?;
        match spot {
            Spot::Taken(None | Some(Node::Folder(_))) => Err(Status::IsAFolder),
            Spot::Taken(Some(Node::File(_))) if !force => Err(Status::AlreadyExists),
            spot => Ok(spot),
        }
    }

    fn publish(&mut self, body: &FilePublished, session: SessionId) -> Result<Done, Status> {
        if self.is_published(body.file) {
            return Ok(Done::File(body.file));
        }
        if self.pending.get(&body.file) != Some(&session) {
            return Err(Status::PendingUnknown);
        }
        let path = text(&body.path);
        if let Spot::Taken(Some(_)) = self.file_spot(&path, body.parents, body.force)? {
            self.discard(&path, body.purge);
            self.replaced += 1;
        }
        if let Spot::Free(missing) = self.spot(&path, body.parents)? {
            self.make_missing(missing);
        }
        self.pending.remove(&body.file);
        let chunks: Vec<_> = body.chunks.iter().map(|chunk| chunk.handle).collect();
        self.needed.extend(&chunks);
        self.chunks.insert(body.file, chunks);
        self.nodes.insert(path, Node::File(body.file));
        Ok(Done::File(body.file))
    }

    fn rename(&mut self, source: &str, target: &str) -> Result<Done, Status> {
        let is_below = target.starts_with(&format!("{source}/"));
        if source == "/" || target == "/" || is_below {
            return Err(Status::InvalidArgument);
        }
        self.find(source)?;
        match self.spot(target, false)? {
            Spot::Taken(_) => Err(Status::AlreadyExists),
            Spot::Free(_) => {
                let tree = self.take(source);
                self.put(target, tree);
                Ok(Done::Nothing)
            }
        }
    }

    fn remove(&mut self, path: &str, recursive: bool, purge: bool) -> Result<Done, Status> {
        if path == "/" {
            return Err(Status::InvalidArgument);
        }
        self.find(path)?;
        let below = self.below(&format!("{path}/")).count();
        if below > 0 && !recursive {
            return Err(Status::NotEmpty);
        }
        let files = self.discard(path, purge);
        Ok(Done::Removed(files))
    }

    fn restore(&mut self, entry: u64, target: Option<String>) -> Result<Done, Status> {
        let trashed = self.trash.get(&entry).ok_or(Status::NotFound)?;
        let target = target.unwrap_or_else(|| trashed.path.clone());
        match self.spot(&target, true)? {
            Spot::Taken(_) => Err(Status::AlreadyExists),
            Spot::Free(missing) => {
                let trashed = self.trash.remove(&entry).ok_or(Status::NotFound)?;
                self.make_missing(missing);
                self.put(&target, trashed.tree);
                Ok(Done::Restored(target))
            }
        }
    }

    fn empty(&mut self, entry: u64) -> Result<Done, Status> {
        let entries: Vec<u64> = match entry {
            0 => self.trash.keys().copied().collect(),
            entry if self.trash.contains_key(&entry) => vec![entry],
            _ => return Err(Status::NotFound),
        };
        entries.iter().for_each(|&entry| self.purge_trash(entry));
        Ok(Done::Emptied(entries.len() as u64))
    }

    /// Puts what is at a path into the trash, or takes it away; how many files.
    fn discard(&mut self, path: &str, purge: bool) -> u64 {
        let tree = self.take(path);
        let is_file = |node: &&Node| matches!(node, Node::File(_));
        let files = tree.values().filter(is_file).count() as u64;
        let number = tree.get("").map_or(0, |node| node.id().0);
        match purge {
            true => self.forget(&tree),
            false => {
                let path = path.to_owned();
                self.trash.insert(number, Trashed { path, tree });
            }
        }
        files
    }

    fn purge_trash(&mut self, entry: u64) {
        if let Some(trashed) = self.trash.remove(&entry) {
            self.forget(&trashed.tree);
        }
    }

    fn forget(&mut self, tree: &BTreeMap<String, Node>) {
        for node in tree.values() {
            for handle in self.chunks.remove(&node.id()).unwrap_or_default() {
                self.needed.remove(&handle);
            }
        }
    }

    fn take(&mut self, path: &str) -> BTreeMap<String, Node> {
        let prefix = format!("{path}/");
        let below: Vec<String> = self.below(&prefix).map(|(path, _)| path.clone()).collect();
        let mut tree = BTreeMap::new();
        for at in below.iter().map(String::as_str).chain([path]) {
            if let Some(node) = self.nodes.remove(at) {
                tree.insert(at[path.len()..].to_owned(), node);
            }
        }
        tree
    }

    fn put(&mut self, path: &str, tree: BTreeMap<String, Node>) {
        let placed = tree
            .into_iter()
            .map(|(rest, node)| (format!("{path}{rest}"), node));
        self.nodes.extend(placed);
    }

    fn below(&self, prefix: &str) -> impl Iterator<Item = (&String, &Node)> {
        let from = self.nodes.range(prefix.to_owned()..);
        from.take_while(move |(path, _)| path.starts_with(prefix))
    }

    fn spot(&self, path: &str, parents: bool) -> Result<Spot, Status> {
        if path == "/" {
            return Ok(Spot::Taken(None));
        }
        let mut ends: Vec<usize> = path.match_indices('/').map(|(at, _)| at).skip(1).collect();
        ends.push(path.len());
        let mut missing = Vec::new();
        let mut found = None;
        for end in ends {
            let at = &path[..end];
            if matches!(found, Some(Node::File(_))) {
                return Err(Status::NotAFolder);
            }
            match self.nodes.get(at).copied().filter(|_| missing.is_empty()) {
                Some(node) => found = Some(node),
                None => {
                    found = None;
                    missing.push(at.to_owned());
                }
            }
        }
        match (missing.pop(), found) {
            (None, found) => Ok(Spot::Taken(found)),
            (Some(_), _) if missing.is_empty() || parents => Ok(Spot::Free(missing)),
            (Some(_), _) => Err(Status::NotFound),
        }
    }

    fn make_missing(&mut self, missing: Vec<String>) {
        for path in missing {
            let id = self.draw();
            self.nodes.insert(path, Node::Folder(id));
        }
    }

    const fn draw(&mut self) -> FileId {
        let id = FileId(self.next);
        self.next += 1;
        id
    }
}

fn text(path: &Path) -> String {
    match path.is_root() {
        true => "/".to_owned(),
        false => path.as_str().to_owned(),
    }
}
