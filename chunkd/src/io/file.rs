//! Writing to a chunk's file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use super::Mode;
use super::pool::Buffer;
use crate::uring;

/// Has what was written to a part of a file go to its disk from now on, so that a later sync has
/// less to wait for. Says nothing of when it is there, nor whether: only the sync does.
///
/// Without io_uring nothing is done: the kernel then begins when it thinks fit.
pub fn begin_write_back(mode: Mode, file: &Arc<File>, position: u64, len: u32) {
    if mode == Mode::Uring {
        uring::ops::begin_write_back(file, position, len);
    }
}

/// Writes a buffer's payload at `position`, all of it, without holding the thread up.
///
/// # Errors
/// Those of the medium; how much was written is then not known.
pub async fn write_at(
    mode: Mode,
    file: &Arc<File>,
    buffer: Arc<Buffer>,
    position: u64,
) -> io::Result<()> {
    match mode {
        Mode::Uring => uring::ops::write_at(file, buffer, position).await,
        Mode::Epoll => {
            let file = Arc::clone(file);
            let write = move || file.write_all_at(buffer.payload(), position);
            tokio::task::spawn_blocking(write)
                .await
                .map_err(io::Error::other)?
        }
    }
}
