//! Entries that carry out clients' requests: folders, uploads, the trash
//! (`spec/oplog-entries.md` sections 4.8 to 4.16 and 4.21).

use sarsen_protocol::codec::{Decoder, Encoder, Field};
use sarsen_protocol::error::BodyError;
use sarsen_protocol::id::{ChunkHandle, ChunkVersion, FileId, ServerId};
use sarsen_protocol::message::Level;
use sarsen_protocol::size::{CHUNK_LEN_MAX, PATH_LEN_MAX, PUBLISH_CHUNKS_MAX, REPLICAS_MAX};

use super::cluster::take_chunk_size;
use super::{IDS_MAX, flags, take_flags, take_some};
use crate::core::path::Path;

const PARENTS: u8 = 1;
const FORCE: u8 = 2;
const PURGE: u8 = 4;
const RECURSIVE: u8 = 1;
const REMOVE_PURGE: u8 = 2;

/// A folder is made (section 4.8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FolderMade {
    /// Make what is missing above, and take a folder that is there for done.
    pub parents: bool,
    /// The folder.
    pub path: Path,
}

impl Field for FolderMade {
    const LEN_MIN: usize = 4;

    fn encode(&self, out: &mut Encoder) {
        out.put(&flags([self.parents])).put(&self.path);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        let flags = take_flags(input, PARENTS)?;
        Ok(Self {
            parents: flags & PARENTS != 0,
            path: input.take()?,
        })
    }
}

/// An empty file is made (section 4.21).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileMade {
    /// Make what is missing above.
    pub parents: bool,
    /// Copies wanted.
    pub replicas: u8,
    /// The cluster's.
    pub chunk_size: u32,
    /// The file.
    pub path: Path,
}

impl Field for FileMade {
    const LEN_MIN: usize = 9;

    fn encode(&self, out: &mut Encoder) {
        out.put(&flags([self.parents]))
            .put(&self.replicas)
            .put(&self.chunk_size)
            .put(&self.path);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        let flags = take_flags(input, PARENTS)?;
        Ok(Self {
            parents: flags & PARENTS != 0,
            replicas: take_replicas(input)?,
            chunk_size: take_chunk_size(input)?,
            path: input.take()?,
        })
    }
}

/// An upload begins (section 4.9).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingCreated {
    /// Missing folders will be made.
    pub parents: bool,
    /// A file that is there will be replaced.
    pub force: bool,
    /// Copies wanted.
    pub replicas: u8,
    /// What its acks will be.
    pub level: Level,
    /// The cluster's.
    pub chunk_size: u32,
    /// Where it is to appear.
    pub path: Path,
}

impl Field for PendingCreated {
    const LEN_MIN: usize = 10;

    fn encode(&self, out: &mut Encoder) {
        out.put(&flags([self.parents, self.force]))
            .put(&self.replicas)
            .put(&self.level)
            .put(&self.chunk_size)
            .put(&self.path);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        let flags = take_flags(input, PARENTS | FORCE)?;
        Ok(Self {
            parents: flags & PARENTS != 0,
            force: flags & FORCE != 0,
            replicas: take_replicas(input)?,
            level: input.take()?,
            chunk_size: take_chunk_size(input)?,
            path: input.take()?,
        })
    }
}

/// Takes a number of replicas that a file may want.
pub(in crate::core) fn take_replicas(input: &mut Decoder<'_>) -> Result<u8, BodyError> {
    let replicas: u8 = input.take()?;
    match (1..=REPLICAS_MAX).contains(&usize::from(replicas)) {
        true => Ok(replicas),
        false => Err(BodyError::OutOfBounds),
    }
}

/// An upload is given up (section 4.10).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingAborted {
    /// The pending file.
    pub file: FileId,
}

impl Field for PendingAborted {
    const LEN_MIN: usize = 8;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.file);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            file: take_some(input)?,
        })
    }
}

/// An upload is done: the file appears (section 4.11).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilePublished {
    /// Make missing folders.
    pub parents: bool,
    /// Replace a file that is there.
    pub force: bool,
    /// The file replaced goes for good.
    pub purge: bool,
    /// The pending file.
    pub file: FileId,
    /// Its bytes.
    pub size: u64,
    /// Where it appears.
    pub path: Path,
    /// Its chunks, in the order of their indexes.
    pub chunks: Vec<PublishedChunk>,
}

impl Field for FilePublished {
    const LEN_MIN: usize = 24;

    fn encode(&self, out: &mut Encoder) {
        out.put(&flags([self.parents, self.force, self.purge]))
            .put(&self.file)
            .put(&self.size)
            .put(&self.path)
            .list(&self.chunks);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        let flags = take_flags(input, PARENTS | FORCE | PURGE)?;
        Ok(Self {
            parents: flags & PARENTS != 0,
            force: flags & FORCE != 0,
            purge: flags & PURGE != 0,
            file: take_some(input)?,
            size: input.take()?,
            path: input.take()?,
            chunks: input.list(PUBLISH_CHUNKS_MAX)?,
        })
    }
}

/// One chunk of a file that is published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedChunk {
    /// The slot.
    pub index: u32,
    /// The chunk.
    pub handle: ChunkHandle,
    /// Its version.
    pub version: ChunkVersion,
    /// Its bytes.
    pub len: u32,
    /// Their CRC.
    pub crc: u32,
    /// Who acknowledged its seal.
    pub servers: Vec<ServerId>,
}

impl Field for PublishedChunk {
    const LEN_MIN: usize = 32;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.index)
            .put(&self.handle)
            .put(&self.version)
            .put(&self.len)
            .put(&self.crc)
            .list(&self.servers);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        let (index, handle, version) = (input.take()?, take_some(input)?, take_some(input)?);
        let len: u32 = input.take()?;
        if !(1..=CHUNK_LEN_MAX).contains(&len) {
            return Err(BodyError::OutOfBounds);
        }
        let (crc, servers) = (input.take()?, input.list(REPLICAS_MAX)?);
        Ok(Self {
            index,
            handle,
            version,
            len,
            crc,
            servers,
        })
    }
}

/// A file or folder gets another path (section 4.12).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renamed {
    /// What is moved.
    pub source: Path,
    /// Its new path.
    pub target: Path,
}

impl Field for Renamed {
    const LEN_MIN: usize = 6;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.source).put(&self.target);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            source: input.take()?,
            target: input.take()?,
        })
    }
}

/// A file or tree goes to the trash, or for good (section 4.13).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    /// A folder that is not empty too.
    pub recursive: bool,
    /// For good.
    pub purge: bool,
    /// What is removed.
    pub path: Path,
}

impl Field for Removed {
    const LEN_MIN: usize = 4;

    fn encode(&self, out: &mut Encoder) {
        out.put(&flags([self.recursive, self.purge]))
            .put(&self.path);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        let flags = take_flags(input, RECURSIVE | REMOVE_PURGE)?;
        Ok(Self {
            recursive: flags & RECURSIVE != 0,
            purge: flags & REMOVE_PURGE != 0,
            path: input.take()?,
        })
    }
}

/// A trash entry comes back (section 4.14).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrashRestored {
    /// The trash entry.
    pub entry: FileId,
    /// Where to, or where it was.
    pub target: Option<Path>,
}

impl Field for TrashRestored {
    const LEN_MIN: usize = 10;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.entry)
            .string(self.target.as_ref().map_or("", Path::as_str));
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        let entry = take_some(input)?;
        let target = match input.string(PATH_LEN_MAX)? {
            "" => None,
            text => Some(Path::parse(text).map_err(|_| BodyError::OutOfBounds)?),
        };
        Ok(Self { entry, target })
    }
}

/// Trash entries go for good, by request (section 4.15).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrashEmptied {
    /// The trash entry, or none for every one.
    pub entry: FileId,
}

impl Field for TrashEmptied {
    const LEN_MIN: usize = 8;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.entry);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            entry: input.take()?,
        })
    }
}

/// Trash entries go for good, by age (section 4.16).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrashExpired {
    /// Which; those that are not there are passed over.
    pub entries: Vec<FileId>,
}

impl Field for TrashExpired {
    const LEN_MIN: usize = 4;

    fn encode(&self, out: &mut Encoder) {
        out.list(&self.entries);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            entries: input.list(IDS_MAX)?,
        })
    }
}
