//! The tree of folders and files, and the trash (`spec/oplog-entries.md` sections 3.1 and 3.4).
//!
//! Invariants:
//! - every node but the root and the trash entries has a parent that is a folder, and is among
//!   that folder's children under its own name;
//! - every path, in the tree, is one that [`Path`] takes: no longer, no deeper;
//! - whatever is refused is refused before anything changes.
//!
//! Nothing here recurses: a tree as deep as the limit allows takes a stack on the heap. There
//! are no locks and no permissions: one writer orders everything.

use std::collections::BTreeMap;
use std::collections::btree_map::Range;
use std::ops::Bound;

use sarsen_protocol::id::FileId;
use sarsen_protocol::size::{PATH_DEPTH_MAX, PATH_LEN_MAX};

use super::file::File;
use super::path::Path;
use super::refusal::Refusal;

/// The root folder.
pub const ROOT: FileId = FileId(1);

/// A file or folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The folder above; none for the root and for trash entries.
    pub parent: FileId,
    /// Its name there; empty for the root.
    pub name: Box<str>,
    /// When it was last changed: a folder by its children, a file by its publication.
    pub modified_ms: u64,
    /// What it is.
    pub content: Content,
}

/// What a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A folder, with its children by name.
    Folder(BTreeMap<Box<str>, FileId>),
    /// A file.
    File(File),
}

impl Node {
    /// The children, if this is a folder.
    #[must_use]
    pub fn as_folder(&self) -> Option<&BTreeMap<Box<str>, FileId>> {
        match &self.content {
            Content::Folder(children) => Some(children),
            Content::File(_) => None,
        }
    }

    /// The file, if this is one.
    #[must_use]
    pub fn as_file(&self) -> Option<&File> {
        match &self.content {
            Content::File(file) => Some(file),
            Content::Folder(_) => None,
        }
    }
}

/// What is kept of a trash entry beside its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trashed {
    /// When it was removed.
    pub deleted_ms: u64,
    /// The path that it had.
    pub path: Path,
}

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spot {
    /// A file or folder.
    Taken(FileId),
    /// Nothing.
    Free(FreeSpot),
}

/// Where a new node would go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FreeSpot {
    /// The lowest folder of the path that is there.
    folder: FileId,
    /// Folders to be made below it, from above.
    missing: Vec<Box<str>>,
    /// The node's name.
    name: Box<str>,
}

/// One step of a [`Walk`].
#[derive(Clone, Copy, Debug)]
pub struct Visit<'a> {
    /// The node.
    pub id: FileId,
    /// What it is.
    pub node: &'a Node,
    /// Names below the start of the walk.
    pub depth: usize,
    /// Bytes that these names add to the start's path, separators included.
    pub path_len: usize,
}

/// The tree and the trash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    nodes: BTreeMap<FileId, Node>,
    trash: BTreeMap<FileId, Trashed>,
    /// The next id to be drawn, for nodes and pending files.
    pub(super) next: u64,
}

impl Default for Namespace {
    /// An empty root.
    fn default() -> Self {
        let root = Node {
            parent: FileId::NONE,
            name: "".into(),
            modified_ms: 0,
            content: Content::Folder(BTreeMap::new()),
        };
        Self {
            nodes: BTreeMap::from([(ROOT, root)]),
            trash: BTreeMap::new(),
            next: ROOT.0 + 1,
        }
    }
}

impl Namespace {
    /// A node, in the tree or below a trash entry.
    #[must_use]
    pub fn node(&self, id: FileId) -> Option<&Node> {
        self.nodes.get(&id)
    }

    /// A file, in the tree or below a trash entry.
    #[must_use]
    pub fn file(&self, id: FileId) -> Option<&File> {
        self.node(id)?.as_file()
    }

    /// Every node, by id.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = (FileId, &Node)> {
        self.nodes.iter().map(|(&id, node)| (id, node))
    }

    /// Every trash entry, by id.
    pub fn trash(&self) -> impl ExactSizeIterator<Item = (FileId, &Trashed)> {
        self.trash.iter().map(|(&id, trashed)| (id, trashed))
    }

    /// One trash entry.
    #[must_use]
    pub fn trash_entry(&self, id: FileId) -> Option<&Trashed> {
        self.trash.get(&id)
    }

    /// Trash entries with ids above `after`.
    pub fn trash_after(&self, after: FileId) -> Range<'_, FileId, Trashed> {
        self.trash.range((Bound::Excluded(after), Bound::Unbounded))
    }

    /// What is at a path.
    ///
    /// # Errors
    /// [`Refusal::NotFound`], [`Refusal::NotAFolder`] where a file is in the way.
    pub fn resolve(&self, path: &Path) -> Result<FileId, Refusal> {
        match self.spot(path, false)? {
            Spot::Taken(id) => Ok(id),
            Spot::Free(_) => Err(Refusal::NotFound),
        }
    }

    /// What is at a path, or where it would go; with `parents` below folders that are missing.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] if a folder above is missing, [`Refusal::NotAFolder`] if a file is
    /// in the way.
    pub fn spot(&self, path: &Path, parents: bool) -> Result<Spot, Refusal> {
        let mut at = ROOT;
        let mut names = path.names();
        while let Some(name) = names.next() {
            let node = self.node(at).ok_or(Refusal::NotFound)?;
            let children = node.as_folder().ok_or(Refusal::NotAFolder)?;
            if let Some(&child) = children.get(name) {
                at = child;
                continue;
            }
            let mut missing: Vec<Box<str>> = vec![name.into()];
            missing.extend(names.map(Box::from));
            let name = missing.pop().unwrap_or_default();
            return match missing.is_empty() || parents {
                true => Ok(Spot::Free(FreeSpot {
                    folder: at,
                    missing,
                    name,
                })),
                false => Err(Refusal::NotFound),
            };
        }
        Ok(Spot::Taken(at))
    }

    /// The path of a node; of one in the trash, the path that it had.
    #[must_use]
    pub fn path_of(&self, id: FileId) -> Option<String> {
        let mut names = Vec::new();
        let mut at = id;
        let top = loop {
            let node = self.node(at)?;
            if node.parent.is_some() {
                names.push(&*node.name);
                at = node.parent;
            } else if at == ROOT {
                break "";
            } else {
                break self.trash.get(&at)?.path.as_str();
            }
        };
        if at == ROOT && names.is_empty() {
            return Some("/".to_owned());
        }
        let mut path = top.to_owned();
        for name in names.iter().rev() {
            path.push('/');
            path.push_str(name);
        }
        Some(path)
    }

    /// Whether a node is a trash entry or below one.
    #[must_use]
    pub fn is_in_trash(&self, id: FileId) -> bool {
        let mut at = id;
        while let Some(node) = self.node(at) {
            if !node.parent.is_some() {
                return at != ROOT;
            }
            at = node.parent;
        }
        false
    }

    /// Walks a node and all that is below it, a folder before its children.
    #[must_use]
    pub fn walk(&self, id: FileId) -> Walk<'_> {
        Walk {
            namespace: self,
            open: vec![(id, 0, 0)],
        }
    }

    /// Whether a node, with all that is below it, has paths within the limits at `target`.
    ///
    /// # Errors
    /// [`Refusal::TooLarge`] if not.
    pub fn check_fit(&self, id: FileId, target: &Path) -> Result<(), Refusal> {
        let (len, depth) = (target.as_str().len(), target.names().count());
        match self.walk(id).all(|visit| {
            len + visit.path_len <= PATH_LEN_MAX && depth + visit.depth <= PATH_DEPTH_MAX
        }) {
            true => Ok(()),
            false => Err(Refusal::TooLarge),
        }
    }

    /// The next id to be drawn: every file id of this log is below.
    #[must_use]
    pub fn next_file(&self) -> FileId {
        FileId(self.next)
    }

    /// Draws the id of a new node or pending file.
    pub(super) fn draw_id(&mut self) -> FileId {
        let id = FileId(self.next);
        self.next += 1;
        id
    }

    /// Makes a folder, and the missing ones above it.
    pub(super) fn make_folder(&mut self, spot: FreeSpot, time_ms: u64) -> FileId {
        let (above, name) = self.make_missing(spot, time_ms);
        let id = self.draw_id();
        let content = Content::Folder(BTreeMap::new());
        self.attach(above, name, id, time_ms, content, time_ms);
        id
    }

    /// Makes a file that was not pending before, and the missing folders above it.
    pub(super) fn make_new_file(&mut self, spot: FreeSpot, file: File, time_ms: u64) -> FileId {
        let (above, name) = self.make_missing(spot, time_ms);
        let id = self.draw_id();
        self.attach(above, name, id, time_ms, Content::File(file), time_ms);
        id
    }

    /// Makes a pending file a file, and the missing folders above it.
    pub(super) fn make_file(&mut self, spot: FreeSpot, id: FileId, file: File, time_ms: u64) {
        let (above, name) = self.make_missing(spot, time_ms);
        self.attach(above, name, id, time_ms, Content::File(file), time_ms);
    }

    /// Moves a node to another place, and makes the missing folders above it.
    ///
    /// Its own modification time stays; those of the folders that lose and get it become
    /// `time_ms`. The node may be a trash entry, which it then no longer is.
    pub(super) fn move_node(&mut self, id: FileId, spot: FreeSpot, time_ms: u64) {
        self.detach(id, time_ms);
        self.trash.remove(&id);
        if let Some(node) = self.nodes.remove(&id) {
            let (above, name) = self.make_missing(spot, time_ms);
            self.attach(above, name, id, node.modified_ms, node.content, time_ms);
        }
    }

    /// Puts a node, with all that is below it, into the trash.
    pub(super) fn move_to_trash(&mut self, id: FileId, path: Path, time_ms: u64) {
        self.detach(id, time_ms);
        if let Some(node) = self.nodes.get_mut(&id) {
            node.parent = FileId::NONE;
            self.trash.insert(
                id,
                Trashed {
                    deleted_ms: time_ms,
                    path,
                },
            );
        }
    }

    /// Takes a node and all that is below it away for good, and gives the files among them.
    pub(super) fn purge(&mut self, id: FileId, time_ms: u64) -> Vec<File> {
        let doomed: Vec<FileId> = self.walk(id).map(|visit| visit.id).collect();
        self.detach(id, time_ms);
        self.trash.remove(&id);
        let mut files = Vec::new();
        for id in doomed {
            if let Some(Node {
                content: Content::File(file),
                ..
            }) = self.nodes.remove(&id)
            {
                files.push(file);
            }
        }
        files
    }

    /// A file, to change it.
    pub(super) fn file_mut(&mut self, id: FileId) -> Option<&mut File> {
        match &mut self.nodes.get_mut(&id)?.content {
            Content::File(file) => Some(file),
            Content::Folder(_) => None,
        }
    }

    /// Sets a node's modification time.
    pub(super) fn touch(&mut self, id: FileId, time_ms: u64) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.modified_ms = time_ms;
        }
    }

    /// Takes the rows of a checkpoint; `None` if they don't fit together.
    pub(super) fn restore(
        mut nodes: BTreeMap<FileId, Node>,
        trash: BTreeMap<FileId, Trashed>,
        next: u64,
    ) -> Option<Self> {
        let tops = |id: &FileId| *id == ROOT || trash.contains_key(id);
        let places: Vec<(FileId, FileId, Box<str>)> = nodes
            .iter()
            .filter(|(id, _)| !tops(id))
            .map(|(&id, node)| (node.parent, id, node.name.clone()))
            .collect();
        let tops_are_free = nodes
            .iter()
            .all(|(id, node)| !tops(id) || node.parent == FileId::NONE);
        let only_the_root_is_nameless = nodes
            .iter()
            .all(|(id, node)| (*id == ROOT) == node.name.is_empty());
        if !tops_are_free || !only_the_root_is_nameless {
            return None;
        }
        for (parent, id, name) in places {
            let Content::Folder(children) = &mut nodes.get_mut(&parent)?.content else {
                return None;
            };
            if children.insert(name, id).is_some() {
                return None;
            }
        }
        let namespace = Self { nodes, trash, next };
        namespace.node(ROOT)?.as_folder()?;
        // What hangs below no top goes round in a circle and is never visited.
        let below_tops: usize = std::iter::once(ROOT)
            .chain(namespace.trash.keys().copied())
            .map(|top| namespace.walk(top).count())
            .sum();
        let last_is_drawn = namespace
            .nodes
            .keys()
            .next_back()
            .is_none_or(|last| last.0 < next);
        (below_tops == namespace.nodes.len() && last_is_drawn).then_some(namespace)
    }

    /// Makes the missing folders of a spot, from above; gives the lowest and the last name.
    fn make_missing(&mut self, spot: FreeSpot, time_ms: u64) -> (FileId, Box<str>) {
        let mut above = spot.folder;
        for name in spot.missing {
            let made = self.draw_id();
            let content = Content::Folder(BTreeMap::new());
            self.attach(above, name, made, time_ms, content, time_ms);
            above = made;
        }
        (above, spot.name)
    }

    fn attach(
        &mut self,
        folder: FileId,
        name: Box<str>,
        id: FileId,
        modified_ms: u64,
        content: Content,
        time_ms: u64,
    ) {
        if let Some(parent) = self.nodes.get_mut(&folder)
            && let Content::Folder(children) = &mut parent.content
        {
            parent.modified_ms = time_ms;
            children.insert(name.clone(), id);
            self.nodes.insert(
                id,
                Node {
                    parent: folder,
                    name,
                    modified_ms,
                    content,
                },
            );
        }
    }

    /// Takes a node out of the folder above it, if there is one.
    fn detach(&mut self, id: FileId, time_ms: u64) {
        let Some(node) = self.nodes.get(&id) else {
            return;
        };
        let (folder, name) = (node.parent, node.name.clone());
        if let Some(parent) = self.nodes.get_mut(&folder)
            && let Content::Folder(children) = &mut parent.content
        {
            parent.modified_ms = time_ms;
            children.remove(&name);
        }
    }
}

/// A walk over a node and all that is below it, see [`Namespace::walk`].
#[derive(Clone, Debug)]
pub struct Walk<'a> {
    namespace: &'a Namespace,
    open: Vec<(FileId, usize, usize)>,
}

impl<'a> Iterator for Walk<'a> {
    type Item = Visit<'a>;

    fn next(&mut self) -> Option<Visit<'a>> {
        let (id, depth, path_len) = self.open.pop()?;
        let node = self.namespace.node(id)?;
        if let Some(children) = node.as_folder() {
            let below = children.iter().rev();
            self.open
                .extend(below.map(|(name, &id)| (id, depth + 1, path_len + 1 + name.len())));
        }
        Some(Visit {
            id,
            node,
            depth,
            path_len,
        })
    }
}

#[cfg(test)]
mod tests;
