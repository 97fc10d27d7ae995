//! The startup scan: every chunk file's header page, and nothing else
//! (`spec/chunk-file.md` section 9).
//!
//! A file that is not in order becomes a [`Problem`]: it is told, never touched. The 256 folders
//! are read by as many threads as the caller allows.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, Ordering};

use sarsen_protocol::id::ChunkHandle;
use sarsen_protocol::message::ChunkState;

use super::chunk_file::{ChunkFile, Owner};
use super::error::{Operation, StoreError};
use super::header::HeaderError;
use super::layout::{
    DATA_POSITION, chunk_folder, copied_handle_of, folder_of, handle_of, journaled_handle_of,
};
use super::region::Tree;
use super::table::{Held, lock};

/// A file under `chunks/` that this directory can give no chunk from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file's path below the directory.
    pub path: String,
    /// The handle that its name says.
    pub handle: Option<ChunkHandle>,
    /// What is wrong with it.
    pub kind: ProblemKind,
}

/// What is wrong with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProblemKind {
    /// No header that counts. [`HeaderError::Blank`] is what a crash leaves of a chunk that was
    /// just made; everything else is damage.
    Header(HeaderError),
    /// The file ends before the data that its header names. Its header is good, so the chunk is
    /// held as corrupt besides: the master is told, and orders it away in its version.
    TooShort,
    /// The header names another chunk, cluster or directory.
    OtherFile,
    /// The name is not one that a chunk in this folder has.
    UnknownName,
    /// The medium did not give the header.
    Unreadable(io::ErrorKind),
}

/// What the scan found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) held: Vec<Held>,
    pub(super) problems: Vec<Problem>,
    /// Handles whose copies an earlier start did not finish.
    pub(super) unfinished_copies: Vec<ChunkHandle>,
    /// Paths of patch files and of sealed forms in the making: the journal says what they are.
    pub(super) journaled: Vec<(ChunkHandle, String)>,
}

/// Reads all headers of the directory with up to `threads` threads.
///
/// # Errors
/// Those of listing a folder, and want of memory or descriptors: what is there can't be told then.
pub(super) fn scan(tree: &dyn Tree, owner: Owner, threads: usize) -> Result<Found, StoreError> {
    let found = Mutex::new(Found::default());
    let failed = Mutex::new(None);
    let next_folder = AtomicU16::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, 256) {
            scope.spawn(|| {
                while let Ok(low_byte) = u8::try_from(next_folder.fetch_add(1, Ordering::Relaxed)) {
                    match scan_folder(tree, owner, low_byte) {
                        Ok(slice) => {
                            let mut found = lock(&found);
                            found.held.extend(slice.held);
                            found.problems.extend(slice.problems);
                            found.unfinished_copies.extend(slice.unfinished_copies);
                            found.journaled.extend(slice.journaled);
                        }
                        Err(error) => *lock(&failed) = Some(error),
                    }
                }
            });
        }
    });
    let failure = lock(&failed).take();
    let found = std::mem::take(&mut *lock(&found));
    failure.map_or(Ok(found), Err)
}

fn scan_folder(tree: &dyn Tree, owner: Owner, low_byte: u8) -> Result<Found, StoreError> {
    let folder = chunk_folder(low_byte);
    let names = tree
        .list(&folder)
        .map_err(|source| StoreError::io(Operation::Open, tree.root().join(&folder), source))?;
    let mut found = Found::default();
    for name in names {
        if let Some(handle) = copied_handle_of(&name)
            && folder_of(handle) == folder
        {
            found.unfinished_copies.push(handle);
            continue;
        }
        if let Some(handle) = journaled_handle_of(&name)
            && folder_of(handle) == folder
        {
            found.journaled.push((handle, format!("{folder}/{name}")));
            continue;
        }
        let handle = handle_of(&name);
        let scanned = match handle {
            Some(handle) if folder_of(handle) == folder => match scan_file(tree, owner, handle) {
                // What is here can't be told then.
                Err(error) if error.is_short_of_means() => return Err(error),
                scanned => scanned.map_err(|error| problem_of(&error)),
            },
            _ => Err(ProblemKind::UnknownName),
        };
        let problem = match scanned {
            Ok((held, problem)) => {
                found.held.push(held);
                problem
            }
            Err(kind) => Some(kind),
        };
        found.problems.extend(problem.map(|kind| Problem {
            path: format!("{folder}/{name}"),
            handle,
            kind,
        }));
    }
    Ok(found)
}

/// The chunk, and what is wrong with it.
fn scan_file(
    tree: &dyn Tree,
    owner: Owner,
    handle: ChunkHandle,
) -> Result<(Held, Option<ProblemKind>), StoreError> {
    // The directory synced the whole file system before it began to scan.
    let header_stable = true;
    let file = ChunkFile::open(tree, handle, owner, header_stable)?;
    if file.header.state == ChunkState::Sealed {
        let len = file.region.file_len();
        let len = len.map_err(|source| file.error(Operation::Read, source))?;
        if len < DATA_POSITION + u64::from(file.header.length) {
            let mut held = Held::of(&file, true);
            held.entry.flags.corrupt = true;
            return Ok((held, Some(ProblemKind::TooShort)));
        }
    }
    Ok((Held::of(&file, true), None))
}

fn problem_of(error: &StoreError) -> ProblemKind {
    match error {
        StoreError::HeaderDamaged { error, .. } => ProblemKind::Header(*error),
        StoreError::OtherFile { .. } => ProblemKind::OtherFile,
        StoreError::Io { source, .. } => ProblemKind::Unreadable(source.kind()),
        _ => ProblemKind::Unreadable(io::ErrorKind::Other),
    }
}
