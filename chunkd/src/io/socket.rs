//! A data-plane connection: receive exactly, send all, send from a chunk.
//!
//! A [`Socket`] is used through `&self`: one task may receive while another sends. Dropping it
//! ends the connection in both directions, also when a request of io_uring still holds the
//! descriptor.
//!
//! A future that is dropped before it is ready may have received or sent some bytes: the
//! connection is of no use afterwards and has to be dropped too. This is so with both modes.

use std::io::{self, IoSlice};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags};
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::Mode;
use super::pool::Buffer;
use crate::store::{ReadableChunk, data_position};
use crate::uring;

/// Pieces that one call sends.
const SLICES_MAX: usize = 64;

/// A connection on the data plane, after its hello.
#[derive(Debug)]
pub struct Socket {
    kind: Kind,
    peer: SocketAddr,
    /// The connection goes on over another descriptor.
    is_released: AtomicBool,
}

#[derive(Debug)]
enum Kind {
    Uring(Arc<std::net::TcpStream>),
    Epoll(TcpStream),
}

/// What stopped a chunk's bytes from being sent.
#[derive(Debug)]
pub enum SendChunkError {
    /// The peer is gone, or its connection broke.
    Peer(io::Error),
    /// The medium did not give the bytes; so many of them had been sent.
    Medium {
        /// Bytes that were sent.
        sent: u32,
        /// What the kernel said.
        source: io::Error,
    },
}

impl Socket {
    /// Takes over a connection that was made with tokio.
    ///
    /// # Errors
    /// When the connection is gone already.
    pub fn new(mode: Mode, stream: TcpStream) -> io::Result<Self> {
        let peer = stream.peer_addr()?;
        let kind = match mode {
            Mode::Epoll => Kind::Epoll(stream),
            Mode::Uring => {
                let stream = stream.into_std()?;
                // io_uring answers a request on a non-blocking socket with EAGAIN and doesn't wait.
                stream.set_nonblocking(false)?;
                Kind::Uring(Arc::new(stream))
            }
        };
        Ok(Self {
            kind,
            peer,
            is_released: AtomicBool::new(false),
        })
    }

    /// Takes over a connection that was [released](Self::release), whose small frames are received
    /// when they are there and sent at once, whatever the mode of the thread is: a request of io_uring
    /// for each costs a turn of the ring more than it saves.
    ///
    /// # Errors
    /// When the connection is gone already.
    pub fn of_small_frames(stream: std::net::TcpStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Self::new(Mode::Epoll, TcpStream::from_std(stream)?)
    }

    /// Who is at the other end.
    #[must_use]
    pub const fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Receives up to `len` bytes, at least one, behind those that `buffer` has and into the room
    /// that it has; nothing more in it is the end of the stream.
    ///
    /// # Errors
    /// When the connection broke; the buffer is lost with it.
    pub async fn recv_some(&self, mut buffer: BytesMut, len: usize) -> io::Result<BytesMut> {
        let len = len.min(buffer.capacity() - buffer.len());
        let stream = match &self.kind {
            Kind::Uring(stream) => return uring::ops::recv_some(stream, buffer, len).await,
            Kind::Epoll(stream) => stream,
        };
        loop {
            stream.readable().await?;
            match stream.try_read_buf(&mut (&mut buffer).limit(len)) {
                Ok(_) => return Ok(buffer),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Receives a buffer's payload from its byte `from` on, all of it.
    ///
    /// # Errors
    /// When the connection broke or ended; the buffer is lost with it.
    pub async fn recv_payload(&self, mut buffer: Buffer, from: usize) -> io::Result<Buffer> {
        let stream = match &self.kind {
            Kind::Uring(stream) => return uring::ops::recv_payload(stream, buffer, from).await,
            Kind::Epoll(stream) => stream,
        };
        let mut done = from;
        while let Some(rest) = buffer
            .payload_mut()
            .get_mut(done..)
            .filter(|it| !it.is_empty())
        {
            stream.readable().await?;
            match stream.try_read(rest) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(received) => done += received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(buffer)
    }

    /// Sends a small frame.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn send(&self, frame: impl Into<Bytes>) -> io::Result<()> {
        let frame = frame.into();
        match &self.kind {
            Kind::Uring(stream) => uring::ops::send(stream, frame, SendFlags::empty()).await,
            Kind::Epoll(stream) => send_all(stream, &frame, SendFlags::empty()).await,
        }
    }

    /// Sends small frames that the socket mostly has room for: at once, without a turn of the ring.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn send_at_once(&self, frames: Vec<u8>) -> io::Result<()> {
        let mut rest = Bytes::from(frames);
        match self.try_send(std::slice::from_ref(&rest)) {
            Ok(sent) => rest.advance(sent),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        match rest.is_empty() {
            true => Ok(()),
            false => self.send(rest).await,
        }
    }

    /// Sends as much of some pieces as the socket takes at once; how many bytes that was.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] if it takes nothing now, and when the connection broke.
    pub fn try_send(&self, pieces: &[Bytes]) -> io::Result<usize> {
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let fd = match &self.kind {
            Kind::Uring(stream) => stream.as_fd(),
            Kind::Epoll(stream) => stream.as_fd(),
        };
        if let [piece] = pieces {
            return Ok(rustix::net::send(fd, piece, flags)?);
        }
        let slices: Vec<IoSlice<'_>> = pieces
            .iter()
            .take(SLICES_MAX)
            .map(|piece| IoSlice::new(piece))
            .collect();
        let mut nothing = SendAncillaryBuffer::default();
        Ok(rustix::net::sendmsg(fd, &slices, &mut nothing, flags)?)
    }

    /// Sends the frame in a buffer, head and payload, from where it lies.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn send_frame(&self, buffer: Arc<Buffer>) -> io::Result<()> {
        match &self.kind {
            Kind::Uring(stream) => uring::ops::send_frame(stream, buffer).await,
            Kind::Epoll(stream) => send_all(stream, buffer.frame(), SendFlags::empty()).await,
        }
    }

    /// Sends a head, then `len` bytes of a chunk from `offset` on, with no copy in user space.
    ///
    /// # Errors
    /// Whose fault it was.
    pub async fn send_chunk(
        &self,
        head: Bytes,
        chunk: &Arc<ReadableChunk>,
        offset: u32,
        len: u32,
    ) -> Result<(), SendChunkError> {
        // More follows: head and payload may share a segment.
        let flags = if len > 0 {
            SendFlags::MORE
        } else {
            SendFlags::empty()
        };
        match &self.kind {
            Kind::Uring(stream) => {
                let sent = uring::ops::send(stream, head, flags).await;
                sent.map_err(SendChunkError::Peer)?;
                uring::ops::send_chunk(stream, chunk, offset, len).await
            }
            Kind::Epoll(stream) => {
                let sent = send_all(stream, &head, flags).await;
                sent.map_err(SendChunkError::Peer)?;
                send_file(stream, chunk, offset, len).await
            }
        }
    }

    /// Lets go of the connection, which goes on elsewhere: dropping this socket does not end it any
    /// more. Nothing may be under way on it.
    ///
    /// # Errors
    /// When there is no descriptor to be had; the connection ends then.
    pub fn release(&self) -> io::Result<std::net::TcpStream> {
        let released = match &self.kind {
            Kind::Uring(stream) => stream.try_clone()?,
            Kind::Epoll(stream) => socket2::SockRef::from(stream).try_clone()?.into(),
        };
        self.is_released.store(true, Ordering::Relaxed);
        Ok(released)
    }

    /// Whether an idle connection can still be used: the peer has neither closed it nor spoken.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let peeked = match &self.kind {
            Kind::Uring(stream) => rustix::net::recv(stream, &mut [0; 1], flags),
            Kind::Epoll(stream) => rustix::net::recv(stream, &mut [0; 1], flags),
        };
        matches!(peeked, Err(rustix::io::Errno::WOULDBLOCK))
    }

    /// Tells the peer that nothing more will be sent; what it sends can still be received.
    pub fn end_sending(&self) {
        self.shutdown(Shutdown::Write);
    }

    fn shutdown(&self, how: Shutdown) {
        // Fails only when the connection is gone, which is what is wanted.
        let _ = match &self.kind {
            Kind::Uring(stream) => stream.shutdown(how),
            Kind::Epoll(stream) => socket2::SockRef::from(stream).shutdown(how),
        };
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if !*self.is_released.get_mut() {
            self.shutdown(Shutdown::Both);
        }
    }
}

async fn send_all(stream: &TcpStream, bytes: &[u8], flags: SendFlags) -> io::Result<()> {
    let flags = flags | SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    let mut done = 0;
    while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
        let send = || Ok(rustix::net::send(stream, rest, flags)?);
        done += stream.async_io(Interest::WRITABLE, send).await?;
    }
    Ok(())
}

async fn send_file(
    stream: &TcpStream,
    chunk: &ReadableChunk,
    offset: u32,
    len: u32,
) -> Result<(), SendChunkError> {
    let medium = |sent, source| SendChunkError::Medium { sent, source };
    let Some(file) = chunk.file() else {
        return Err(medium(0, io::ErrorKind::Unsupported.into()));
    };
    let mut sent = 0;
    while sent < len {
        let mut position = data_position(offset + sent);
        let left = len - sent;
        let send = || {
            Ok(rustix::fs::sendfile(
                stream,
                file,
                Some(&mut position),
                left as usize,
            )?)
        };
        match stream.async_io(Interest::WRITABLE, send).await {
            // The file ends before its data: it was cut off behind our back.
            Ok(0) => return Err(medium(sent, io::ErrorKind::UnexpectedEof.into())),
            Ok(more) => sent += u32::try_from(more).unwrap_or(left),
            Err(error) if is_of_the_medium(&error) => return Err(medium(sent, error)),
            Err(error) => return Err(SendChunkError::Peer(error)),
        }
    }
    Ok(())
}

/// Whether a failed send from a chunk is the disk's fault and not the connection's.
pub(crate) fn is_of_the_medium(error: &io::Error) -> bool {
    let errno = rustix::io::Errno::from_io_error(error);
    matches!(
        errno,
        Some(rustix::io::Errno::FAULT | rustix::io::Errno::IO)
    )
}
