//! The parties of a relay: one that sends, and the hops, each with one thread a stream.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::thread;

use rustix::net::{RecvFlags, recv};
use sarsen_edge::listen::tune_bulk;
use sarsen_protocol::size::BLOCK_LEN;
use serde::{Deserialize, Serialize};

use super::{Done, Started, listener_on_stdin};
use crate::store::ChunkFiles;

/// Bytes in one receive, send and write: what a data frame carries.
pub const FRAME_LEN: usize = sarsen_protocol::size::PAYLOAD_LEN_MAX as usize;

/// Sends the same mebibyte again and again, so that no memory but a cache is read.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sender {
    /// The first hop.
    pub to: SocketAddr,
    /// Connections, each with its share.
    pub streams: usize,
    /// Bytes of each stream.
    pub stream_len: u64,
    /// Whether it computes the CRC of each block.
    pub crc: bool,
}

impl Sender {
    pub(super) fn play(&self) -> anyhow::Result<Done> {
        let connected = (0..self.streams).map(|_| connect(self.to));
        let streams = connected.collect::<anyhow::Result<Vec<_>>>()?;
        let started = Started::go()?;
        in_threads(streams, |_, stream| self.send(stream))?;
        Ok(started.done(self.stream_len * self.streams as u64))
    }

    fn send(&self, mut stream: TcpStream) -> anyhow::Result<u64> {
        let buffer = vec![0xa5; FRAME_LEN];
        let mut left = self.stream_len;
        while left > 0 {
            let now = usize::try_from(left).map_or(FRAME_LEN, |left| left.min(FRAME_LEN));
            let bytes = buffer.get(..now).unwrap_or_default();
            if self.crc {
                check(bytes);
            }
            stream.write_all(bytes)?;
            left -= now as u64;
        }
        Ok(self.stream_len)
    }
}

/// Receives, sends on if there is a next hop, computes CRCs and writes files if it is to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Hop {
    /// Connections to be accepted.
    pub streams: usize,
    /// The next hop.
    pub next: Option<SocketAddr>,
    /// Whether it computes the CRC of each block.
    pub crc: bool,
    /// Where it writes, if it does.
    pub store: Option<PathBuf>,
}

impl Hop {
    pub(super) fn play(&self) -> anyhow::Result<Done> {
        let listener = listener_on_stdin()?;
        let started = Started::serving()?;
        let streams = accept(&listener, self.streams)?;
        let bytes = in_threads(streams, |number, stream| self.relay(number, &stream))?;
        Ok(started.done(bytes))
    }

    fn relay(&self, number: usize, from: &TcpStream) -> anyhow::Result<u64> {
        let mut to = self.next.map(connect).transpose()?;
        let store = self.store.as_ref();
        let mut files = store.map(|it| ChunkFiles::new(it, format!("stream-{number}"), false));
        let mut buffer = vec![0; FRAME_LEN];
        let mut total = 0;
        loop {
            let received = receive(from, &mut buffer)?;
            let bytes = buffer.get(..received).unwrap_or_default();
            if bytes.is_empty() {
                return Ok(total);
            }
            if let Some(to) = &mut to {
                to.write_all(bytes)?;
            }
            if self.crc {
                check(bytes);
            }
            if let Some(files) = &mut files {
                files.write(bytes)?;
            }
            total += received as u64;
        }
    }
}

/// Connects as Sarsen does.
pub(super) fn connect(to: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect(to)?;
    tune_bulk(&stream)?;
    Ok(stream)
}

/// Accepts so many connections as Sarsen does.
pub(super) fn accept(listener: &TcpListener, count: usize) -> anyhow::Result<Vec<TcpStream>> {
    let accept = || {
        let (stream, _) = listener.accept()?;
        tune_bulk(&stream)?;
        Ok(stream)
    };
    (0..count).map(|_| accept()).collect()
}

/// Fills `buffer` in one call, with less only at the end of the stream.
pub(super) fn receive(from: &TcpStream, buffer: &mut [u8]) -> anyhow::Result<usize> {
    let mut len = 0;
    while let Some(rest) = buffer.get_mut(len..).filter(|rest| !rest.is_empty()) {
        match recv(from, rest, RecvFlags::WAITALL)?.0 {
            0 => break,
            received => len += received,
        }
    }
    Ok(len)
}

/// Computes the CRC of each block.
pub(super) fn check(bytes: &[u8]) {
    for block in bytes.chunks(BLOCK_LEN as usize) {
        std::hint::black_box(crc32fast::hash(block));
    }
}

/// Does `act` for each of `items` in a thread of its own; the sum of what they return.
pub(super) fn in_threads<T: Send>(
    items: Vec<T>,
    act: impl Fn(usize, T) -> anyhow::Result<u64> + Sync,
) -> anyhow::Result<u64> {
    let act = &act;
    thread::scope(|scope| {
        let begin = |(number, item)| scope.spawn(move || act(number, item));
        let threads: Vec<_> = items.into_iter().enumerate().map(begin).collect();
        let mut sum = 0;
        for thread in threads {
            sum += thread
                .join()
                .map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        }
        Ok(sum)
    })
}
