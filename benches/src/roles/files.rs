//! The parties of a download without a cluster: one sends from a file, one takes it.

use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use rustix::fs::sendfile;
use serde::{Deserialize, Serialize};

use super::chain::{FRAME_LEN, accept, check, connect, in_threads, receive};
use super::{Done, Started, listener_on_stdin};

/// Sends a file in equal parts, one a stream, by `sendfile`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FileServer {
    /// The file.
    pub file: PathBuf,
    /// Connections to be accepted.
    pub streams: usize,
    /// Bytes of each.
    pub stream_len: u64,
}

impl FileServer {
    pub(super) fn play(&self) -> anyhow::Result<Done> {
        let file = File::open(&self.file)?;
        let listener = listener_on_stdin()?;
        let started = Started::serving()?;
        let streams = accept(&listener, self.streams)?;
        let bytes = in_threads(streams, |number, stream| {
            let mut position = self.stream_len * number as u64;
            let end = position + self.stream_len;
            while position < end {
                let left = usize::try_from(end - position).unwrap_or(FRAME_LEN);
                let len = left.min(FRAME_LEN);
                let sent = sendfile(&stream, &file, Some(&mut position), len)?;
                anyhow::ensure!(sent > 0, "the file is too short");
            }
            Ok(self.stream_len)
        })?;
        Ok(started.done(bytes))
    }
}

/// Takes what a file server sends.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Reader {
    /// The server.
    pub from: SocketAddr,
    /// Connections.
    pub streams: usize,
    /// Bytes of each.
    pub stream_len: u64,
    /// Whether it computes the CRC of each block.
    pub crc: bool,
    /// The file that it writes, if it does.
    pub target: Option<PathBuf>,
}

impl Reader {
    pub(super) fn play(&self) -> anyhow::Result<Done> {
        let connected = (0..self.streams).map(|_| connect(self.from));
        let streams = connected.collect::<anyhow::Result<Vec<_>>>()?;
        let started = Started::go()?;
        let target = self.target.as_ref().map(File::create).transpose()?;
        if let Some(target) = &target {
            target.set_len(self.stream_len * self.streams as u64)?;
        }
        let read = |number, stream| self.read(number, &stream, target.as_ref());
        let bytes = in_threads(streams, read)?;
        Ok(started.done(bytes))
    }

    fn read(&self, number: usize, from: &TcpStream, to: Option<&File>) -> anyhow::Result<u64> {
        let mut buffer = vec![0; FRAME_LEN];
        let start = self.stream_len * number as u64;
        let mut total = 0;
        loop {
            let received = receive(from, &mut buffer)?;
            let bytes = buffer.get(..received).unwrap_or_default();
            if bytes.is_empty() {
                return Ok(total);
            }
            if self.crc {
                check(bytes);
            }
            if let Some(to) = to {
                to.write_all_at(bytes, start + total)?;
            }
            total += received as u64;
        }
    }
}
