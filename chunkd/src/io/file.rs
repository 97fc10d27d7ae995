//! Writing to a chunk's file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use super::Mode;
use super::pool::Buffer;
use crate::uring;

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
