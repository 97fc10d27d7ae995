//! What clients do, and how it ends for them.

use std::ops::Range;
use std::time::Duration;

use sarsen_protocol::id::{ChunkHandle, FileId};
use sarsen_protocol::message::Level;
use sarsen_protocol::status::Status;

use super::cells::Value;
use super::content::Content;
use super::image::Layout;

/// One thing that a client does; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OpId(pub u64);

/// One mutation of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A record.
    Record {
        /// Bytes of its payload, which follow from its id.
        len: u32,
    },
    /// Cells of one chunk, all with one value.
    Cells {
        /// How the file is cut.
        layout: Layout,
        /// The first.
        first: u32,
        /// How many.
        count: u32,
        /// Never used twice.
        value: Value,
    },
    /// Zeros far behind everything in a file of records, which no reader takes for one.
    Zeros {
        /// In which slot.
        index: u32,
        /// Where in it.
        offset: u32,
        /// How many.
        len: u32,
    },
}

/// Mutations of one file, each some time behind the one before.
#[derive(Clone, Debug)]
pub struct Changes {
    /// Which file.
    pub path: String,
    /// How safe each is to be.
    pub level: Level,
    /// Records stay in their order.
    pub ordered: bool,
    /// What, and how long after the one before.
    pub changes: Vec<(Duration, Change)>,
}

/// What a client does.
#[derive(Clone, Debug)]
pub enum Op {
    /// Mutates a file.
    Change(Changes),
    /// Makes a file end in front of a cell, or reach up to it.
    Truncate {
        /// Which file.
        path: String,
        /// How it is cut.
        layout: Layout,
        /// In front of which cell.
        cell: u32,
    },
    /// Has what is open of a file sealed.
    Seal {
        /// Which.
        path: String,
    },
    /// Reads all records of a file.
    ReadRecords {
        /// Which.
        path: String,
    },
    /// Reads records for a while, also those that come meanwhile.
    FollowRecords {
        /// Of which file.
        path: String,
        /// For how long.
        time: Duration,
    },
    /// Reads cells of a file.
    ReadCells {
        /// Which file.
        path: String,
        /// How it is cut.
        layout: Layout,
        /// Which cells; none for all that there are.
        cells: Option<Range<u32>>,
        /// What was acknowledged before is to be seen, whoever wrote it.
        newest: bool,
    },
    /// Makes a folder.
    MakeFolder {
        /// Where.
        path: String,
        /// Also those above it.
        parents: bool,
    },
    /// Uploads a file.
    Put {
        /// Where to.
        path: String,
        /// What.
        content: Content,
        /// Also over another.
        force: bool,
        /// What is replaced goes for good.
        purge: bool,
        /// Copies; 0 for the cluster's default.
        replicas: u8,
    },
    /// Downloads a file, or a part of one.
    Get {
        /// Which.
        path: String,
        /// First byte, and how many at most; none for all.
        range: Option<(u64, u64)>,
    },
    /// Moves something.
    Rename {
        /// From where.
        source: String,
        /// To where.
        target: String,
    },
    /// Removes something.
    Remove {
        /// What.
        path: String,
        /// Also if there is something in it.
        recursive: bool,
        /// For good.
        purge: bool,
    },
    /// Takes something out of the trash.
    Restore {
        /// Which entry.
        entry: u64,
        /// To where; empty for where it was.
        target: String,
    },
    /// Empties the trash.
    Empty {
        /// Of which entry; 0 for all.
        entry: u64,
    },
    /// Lists a folder.
    List {
        /// Which.
        path: String,
    },
    /// Goes on without what nobody may have any more of a chunk.
    AcceptLoss {
        /// Which.
        handle: ChunkHandle,
        /// Whose it is.
        file: FileId,
    },
}

/// How it ended, as the client was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done.
    Done(Done),
    /// Refused for good.
    Refused(Status),
    /// Not now: no effect was asked for, or all that was asked was refused for now.
    NotNow,
    /// The upload failed before its publication was asked for.
    NotStored,
    /// It may have been done, or not, or is yet to be.
    Unknown,
    /// A download that got no good bytes.
    NoGoodBytes,
}

/// What it was answered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// Nothing in particular.
    Nothing,
    /// A folder was made, or was there.
    Folder(FileId),
    /// A file was published.
    File(FileId),
    /// So many files went.
    Removed(u64),
    /// It is there again.
    Restored(String),
    /// So many entries went.
    Emptied(u64),
    /// It was read.
    Read,
    /// Every mutation was done.
    Changed,
}
