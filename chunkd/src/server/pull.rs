//! Pulls a chunk from another chunkserver, as the master ordered (`spec/messages.md` section 10).
//!
//! A copy has a thread to itself, so it may wait for the disk and for its source without holding
//! anybody up. It holds one frame at a time, and the id table: memory does not grow with the chunk. A source that
//! does not bring a frame to its end in the time after which the cluster takes a server for dead is
//! given up, and the next one is tried.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use sarsen_edge::hello::dial_data;
use sarsen_protocol::deframe::{Deframer, Frame};
use sarsen_protocol::message::{ChunkCopied, CopyChunk, ErrorBody, Hop, Plane};
use sarsen_protocol::status::Status;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime;
use tokio::time::timeout;

use super::copies::{self, Begun, CopyFailure, Making};
use crate::core::event::Refusal;
use crate::net::Chunkserver;
use crate::net::chunkserver::wall_clock;

/// How long a source has to be reached and say hello.
const DIAL_MAX: Duration = Duration::from_secs(5);

/// Bytes that there is room for before each receive.
const READ_LEN: usize = 256 * 1024;

/// Carries an order out, from one source after the other. Blocks for as long as that takes.
///
/// `silence_max` is how long a source has for each frame.
pub(super) fn run(
    chunkserver: &Arc<Chunkserver>,
    order: &CopyChunk,
    silence_max: Duration,
) -> Result<ChunkCopied, Refusal> {
    let _counted = chunkserver.counters.copies.count();
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| refused(chunkserver, Status::Internal, error.to_string()))?;
    let result = try_sources(chunkserver, order, silence_max, &runtime);
    if let Err((status, error)) = &result {
        chunkserver.counters.copy_failures.add(1);
        tracing::warn!(handle = %order.handle, %status, blamed = %error.server, text = error.text,
            "a chunk could not be copied");
    }
    result
}

fn try_sources(
    chunkserver: &Arc<Chunkserver>,
    order: &CopyChunk,
    silence_max: Duration,
    runtime: &runtime::Runtime,
) -> Result<ChunkCopied, Refusal> {
    let (mut suspects, mut last) = (Vec::new(), None);
    for source in &order.sources {
        let making = match copies::begin(chunkserver, order, wall_clock())? {
            Begun::Held(copied) => return Ok(ChunkCopied { suspects, ..copied }),
            Begun::Making(making) => *making,
        };
        let pulled = runtime.block_on(pull(chunkserver, source, silence_max, making));
        match pulled.and_then(|making| making.finish(wall_clock())) {
            Ok(copied) => {
                tracing::info!(handle = %order.handle, source = %source.server, "a chunk was copied");
                return Ok(ChunkCopied { suspects, ..copied });
            }
            Err(CopyFailure::Here(refusal)) => return Err(refusal),
            Err(CopyFailure::Source {
                status,
                text,
                is_suspect,
            }) => {
                tracing::warn!(handle = %order.handle, source = %source.server, %status, text,
                    "a source was given up");
                if is_suspect {
                    suspects.push(source.server);
                }
                let error = ErrorBody {
                    server: source.server,
                    ..ErrorBody::new(text)
                };
                last = Some((status, error));
            }
        }
    }
    Err(last.unwrap_or_else(|| {
        let text = "the order names no source".to_owned();
        refused(chunkserver, Status::InvalidArgument, text)
    }))
}

fn refused(chunkserver: &Chunkserver, status: Status, text: String) -> Refusal {
    let error = ErrorBody {
        server: chunkserver.me(),
        ..ErrorBody::new(text)
    };
    (status, error)
}

/// Takes everything that a source has; the copy is then to be finished.
async fn pull(
    chunkserver: &Chunkserver,
    source: &Hop,
    silence_max: Duration,
    mut making: Making,
) -> Result<Making, CopyFailure> {
    let mut connection = dial(chunkserver, source, silence_max).await?;
    while !making.is_over() {
        if let Some(request) = making.next_request() {
            connection.send(&request).await?;
        }
        let frame = connection.next_frame().await?;
        making.take(&frame)?;
    }
    Ok(making)
}

async fn dial(
    chunkserver: &Chunkserver,
    source: &Hop,
    silence_max: Duration,
) -> Result<Connection, CopyFailure> {
    let (identity, key) = (chunkserver.identity(), chunkserver.key());
    let dialled = dial_data(&source.data_addr, identity, &key, DIAL_MAX).await;
    let (stream, peer) = dialled.map_err(CopyFailure::broken)?;
    let found = peer.identity.start.server_id;
    if found != source.server {
        let text = format!("server {found} answers at {}", source.data_addr);
        return Err(CopyFailure::broken(text));
    }
    let mut deframer = Deframer::new(Plane::Data);
    deframer.hello_is_done();
    Ok(Connection {
        stream,
        deframer,
        silence_max,
    })
}

/// A connection to a source after its hello.
struct Connection {
    stream: TcpStream,
    deframer: Deframer,
    silence_max: Duration,
}

impl Connection {
    async fn send(&mut self, frame: &[u8]) -> Result<(), CopyFailure> {
        let sent = timeout(self.silence_max, self.stream.write_all(frame)).await;
        let sent = sent.map_err(|_| CopyFailure::broken("the source takes nothing"))?;
        sent.map_err(CopyFailure::broken)
    }

    async fn next_frame(&mut self) -> Result<Frame, CopyFailure> {
        let frame = timeout(self.silence_max, self.whole_frame()).await;
        frame.map_err(|_| CopyFailure::broken("the source fell silent"))?
    }

    async fn whole_frame(&mut self) -> Result<Frame, CopyFailure> {
        loop {
            if let Some(frame) = self.deframer.next_frame().map_err(CopyFailure::broken)? {
                return Ok(frame);
            }
            let buffer = self.deframer.buffer();
            buffer.reserve(READ_LEN);
            let read = self.stream.read_buf(buffer).await;
            if read.map_err(CopyFailure::broken)? == 0 {
                return Err(CopyFailure::broken(io::Error::from(
                    io::ErrorKind::UnexpectedEof,
                )));
            }
        }
    }
}
