//! The requests that the data plane makes of io_uring.
//!
//! Everything here is unsafe in all but name: a request holds a raw address until the kernel is
//! done with it, and nothing but this module keeps that address good. The contract, which each
//! request fulfils in one place ([`submit`]):
//!
//! - what owns the memory, and what owns the descriptor, move into the request (`kept`) and
//!   stay there until its completion, also when the future is dropped;
//! - the memory does not move when its owner does: it is on the heap or mapped;
//! - memory that the kernel writes to has one owner, the request; memory that it reads from is
//!   shared read-only, or is a mapping that nobody here looks into.

use std::fs::File;
use std::io;
use std::net::TcpStream;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use io_uring::{cqueue, opcode, squeue, types};
use rustix::net::{RecvFlags, SendFlags};
use tokio_uring::{OneshotOutputTransform, UnsubmittedOneshot};

use super::outstanding::Counted;
use crate::io::pool::Buffer;
use crate::io::socket::{SendChunkError, is_of_the_medium};
use crate::store::ReadableChunk;

/// Does nothing, but only once everything before it was submitted.
pub async fn no_op() {
    // It can't fail, and if it did nothing would be lost.
    let _ = submit((), opcode::Nop::new().build()).await;
}

/// Receives up to `len` bytes into the room behind those of `buffer`, which has that much.
///
/// # Errors
/// Those of the connection.
#[expect(
    unsafe_code,
    reason = "the kernel fills memory that nothing was written to before"
)]
pub async fn recv_some(
    stream: &Arc<TcpStream>,
    mut buffer: BytesMut,
    len: usize,
) -> io::Result<BytesMut> {
    let before = buffer.len();
    let room = buffer.spare_capacity_mut();
    let len = len.min(room.len());
    let request = opcode::Recv::new(fd(stream), room.as_mut_ptr().cast(), to_u32(len)).build();
    let (result, (_, mut buffer)) = submit((Arc::clone(stream), buffer), request).await;
    let received = (result? as usize).min(len);
    // SAFETY: the kernel has written so many bytes from the first of the room on, and the buffer had
    // no other owner meanwhile.
    unsafe { buffer.set_len(before + received) };
    Ok(buffer)
}

/// Receives a buffer's payload from its byte `from` on, in one completion if nothing interrupts.
///
/// # Errors
/// Those of the connection; [`io::ErrorKind::UnexpectedEof`] if it ends first.
pub async fn recv_payload(
    stream: &Arc<TcpStream>,
    mut buffer: Buffer,
    from: usize,
) -> io::Result<Buffer> {
    let mut done = from;
    loop {
        let rest = buffer.payload_mut().get_mut(done..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(buffer);
        }
        let request = opcode::Recv::new(fd(stream), rest.as_mut_ptr(), to_u32(rest.len()))
            .flags(flag_bits(RecvFlags::WAITALL.bits()))
            .build();
        let (result, (_, returned)) = submit((Arc::clone(stream), buffer), request).await;
        buffer = returned;
        match result? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            received => done += received as usize,
        }
    }
}

/// Sends small bytes.
///
/// # Errors
/// Those of the connection.
pub async fn send(stream: &Arc<TcpStream>, bytes: Bytes, flags: SendFlags) -> io::Result<()> {
    let mut done = 0;
    while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
        let request = send_request(stream, rest.as_ptr(), rest.len(), flags);
        let (sent, _) = submit((Arc::clone(stream), bytes.clone()), request).await;
        done += sent? as usize;
    }
    Ok(())
}

/// Sends the frame in a buffer.
///
/// # Errors
/// Those of the connection.
pub async fn send_frame(stream: &Arc<TcpStream>, buffer: Arc<Buffer>) -> io::Result<()> {
    let mut done = 0;
    while let Some(rest) = buffer.frame().get(done..).filter(|rest| !rest.is_empty()) {
        let request = send_request(stream, rest.as_ptr(), rest.len(), SendFlags::empty());
        let (sent, _) = submit((Arc::clone(stream), Arc::clone(&buffer)), request).await;
        done += sent? as usize;
    }
    Ok(())
}

/// Sends bytes of a chunk from its mapping. A bad sector is an error of the request, not a signal.
///
/// # Errors
/// Whose fault it was.
pub async fn send_chunk(
    stream: &Arc<TcpStream>,
    chunk: &Arc<ReadableChunk>,
    offset: u32,
    len: u32,
) -> Result<(), SendChunkError> {
    let mut sent = 0;
    while sent < len {
        let view = chunk
            .mapping()
            .and_then(|mapping| mapping.view(offset + sent, len - sent));
        let Some(view) = view else {
            let source = io::ErrorKind::UnexpectedEof.into();
            return Err(SendChunkError::Medium { sent, source });
        };
        let request = send_request(stream, view.as_ptr(), view.len(), SendFlags::empty());
        // The chunk owns the mapping, and is kept.
        let (result, _) = submit((Arc::clone(stream), Arc::clone(chunk)), request).await;
        match result {
            Ok(more) => sent += more,
            Err(source) if is_of_the_medium(&source) => {
                return Err(SendChunkError::Medium { sent, source });
            }
            Err(error) => return Err(SendChunkError::Peer(error)),
        }
    }
    Ok(())
}

/// Writes a buffer's payload at `position`, all of it.
///
/// # Errors
/// Those of the medium.
pub async fn write_at(file: &Arc<File>, buffer: Arc<Buffer>, position: u64) -> io::Result<()> {
    let mut done = 0;
    while let Some(rest) = buffer.payload().get(done..).filter(|rest| !rest.is_empty()) {
        let request = opcode::Write::new(fd(file), rest.as_ptr(), to_u32(rest.len()))
            .offset(position + done as u64)
            .build();
        let (written, _) = submit((Arc::clone(file), Arc::clone(&buffer)), request).await;
        match written? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            written => done += written as usize,
        }
    }
    Ok(())
}

/// Has the kernel begin to write a part of a file to its disk, and waits for nothing. That it
/// failed shows at the next sync.
pub fn begin_write_back(file: &Arc<File>, position: u64, len: u32) {
    /// `SYNC_FILE_RANGE_WRITE` of sync_file_range(2).
    const WRITE: u32 = 2;
    let request = opcode::SyncFileRange::new(fd(file), len)
        .offset(position)
        .flags(WRITE)
        .build();
    let file = Arc::clone(file);
    tokio_uring::spawn(async move {
        let _ = submit(file, request).await;
    });
}

fn send_request(
    stream: &Arc<TcpStream>,
    start: *const u8,
    len: usize,
    flags: SendFlags,
) -> squeue::Entry {
    // Without WAITALL a send ends when the socket's buffer is full.
    let waitall = RecvFlags::WAITALL.bits();
    let flags = (flags | SendFlags::NOSIGNAL).bits() | waitall;
    opcode::Send::new(fd(stream), start, to_u32(len))
        .flags(flag_bits(flags))
        .build()
}

fn fd(owner: &impl AsRawFd) -> types::Fd {
    let fd: RawFd = owner.as_raw_fd();
    types::Fd(fd)
}

fn to_u32(len: usize) -> u32 {
    u32::try_from(len).expect("no buffer here is longer than a frame or a chunk")
}

fn flag_bits(bits: u32) -> i32 {
    i32::try_from(bits).expect("no flag has the highest bit")
}

/// Hands a request to the ring; `kept` stays alive until the kernel is done with it, and comes
/// back. The request must point only into memory, and name only descriptors, that `kept` owns.
async fn submit<K: Unpin + 'static>(kept: K, request: squeue::Entry) -> (io::Result<u32>, K) {
    let kept = Kept {
        data: kept,
        _counted: Counted::new(),
    };
    UnsubmittedOneshot::new(kept, Completion(std::marker::PhantomData), request)
        .submit()
        .await
}

/// What a request needs, counted for as long as it is kept.
struct Kept<K> {
    data: K,
    /// Behind the data, and so dropped after it.
    _counted: Counted,
}

/// Turns a completion into its result and what was kept.
struct Completion<K>(std::marker::PhantomData<K>);

impl<K: 'static> OneshotOutputTransform for Completion<K> {
    type Output = (io::Result<u32>, K);
    type StoredData = Kept<K>;

    fn transform_oneshot_output(self, kept: Kept<K>, completion: cqueue::Entry) -> Self::Output {
        let result = match u32::try_from(completion.result()) {
            Ok(count) => Ok(count),
            Err(_) => Err(io::Error::from_raw_os_error(-completion.result())),
        };
        (result, kept.data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future as _;
    use std::io::Write as _;
    use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
    use std::sync::mpsc;
    use std::task::Poll;

    /// Leaked, so that the test itself is sound.
    type Memory = &'static [AtomicU8; 64];

    fn written(memory: Memory) -> usize {
        memory
            .iter()
            .filter(|byte| byte.load(Ordering::SeqCst) != 0)
            .count()
    }

    /// Owns memory that the kernel writes to; tells what the kernel had written when it went.
    struct Owner {
        memory: Memory,
        written_at_drop: &'static AtomicUsize,
        _stream: Arc<TcpStream>,
    }

    impl Drop for Owner {
        fn drop(&mut self) {
            self.written_at_drop
                .store(written(self.memory), Ordering::SeqCst);
        }
    }

    /// At its end tokio-uring gave back what requests needed whose futures had been dropped, and
    /// only then waited for the kernel, which went on writing there.
    #[test]
    fn memory_is_kept_until_the_kernel_is_done_also_at_the_end() {
        if crate::uring::probe().is_err() {
            return; // Forbidden here.
        }
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (ours, _) = listener.accept().unwrap();
        let ours = Arc::new(ours);
        let memory: Memory = Box::leak(Box::new(std::array::from_fn(|_| AtomicU8::new(0))));
        let written_at_drop: &AtomicUsize = Box::leak(Box::new(AtomicUsize::new(0)));
        let (ended, has_ended) = mpsc::channel();
        let peer = std::thread::spawn(move || {
            has_ended.recv().unwrap();
            peer.write_all(&[0xaa; 64]).unwrap();
        });
        crate::uring::run(async {
            let start = memory.as_ptr().cast_mut().cast();
            let request = opcode::Recv::new(fd(&ours), start, 64)
                .flags(flag_bits(RecvFlags::WAITALL.bits()))
                .build();
            let owner = Owner {
                memory,
                written_at_drop,
                _stream: Arc::clone(&ours),
            };
            let mut receiving = Box::pin(submit(owner, request));
            // As a task that is aborted: asked for, with the kernel, then dropped.
            let begun = std::future::poll_fn(|context| {
                Poll::Ready(receiving.as_mut().poll(context).is_pending())
            });
            assert!(begun.await);
            no_op().await;
            drop(receiving);
            ended.send(()).unwrap();
        })
        .unwrap();
        peer.join().unwrap();
        assert_eq!(written_at_drop.load(Ordering::SeqCst), 64);
    }
}
