//! Takes the peer's frames until the connection ends.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sarsen_protocol::deframe::{Deframer, Frame, error_frame, frame};
use sarsen_protocol::error::FrameError;
use sarsen_protocol::message::{self, ErrorBody, Kind};
use sarsen_protocol::status::Status;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::{Arrival, CLOSE_AFTER, QUEUED_BYTES_MAX, Request, Shared};

/// Silence after which the peer is asked whether it is there.
const PING_AFTER: Duration = Duration::from_secs(10);

/// How long a frame may be on its way: the longest over the slowest link that is worth serving.
const FRAME_TIME_MAX: Duration = Duration::from_secs(300);

/// Takes frames until the peer goes, breaks the protocol, or the connection is closed.
pub(super) async fn read_frames(
    shared: Arc<Shared>,
    arrived: mpsc::Sender<Arrival>,
    read: impl AsyncRead + Unpin,
    deframer: Deframer,
) {
    let reader = Reader {
        shared: &shared,
        arrived,
        read,
        deframer,
        frame_time_max: FRAME_TIME_MAX,
        whole_by: None,
    };
    let ended = tokio::select! {
        ended = reader.run() => ended,
        () = shared.wait_closed() => Ok(()),
    };
    if let Err(error) = ended {
        tracing::warn!(peer = ?shared.peer.identity.role, %error, "closing a control connection");
        let body = ErrorBody::new(error.to_string());
        shared.send(error_frame(Kind::Goodbye, 0, Status::ProtocolError, &body).into());
    }
    shared.close();
}

struct Reader<'a, R> {
    shared: &'a Shared,
    arrived: mpsc::Sender<Arrival>,
    read: R,
    deframer: Deframer,
    frame_time_max: Duration,
    /// When the frame must be whole of which a part is here.
    whole_by: Option<Instant>,
}

impl<R: AsyncRead + Unpin> Reader<'_, R> {
    /// Runs until the peer goes (`Ok`) or breaks the protocol.
    async fn run(mut self) -> Result<(), FrameError> {
        loop {
            while let Some(frame) = self.deframer.next_frame()? {
                self.whole_by = None;
                if !self.handle(frame).await? {
                    return Ok(());
                }
            }
            if !self.fill().await {
                return Ok(());
            }
        }
    }

    /// Waits for bytes, asking a silent peer whether it lives. False when it is gone, or when a frame
    /// has taken too long: a byte now and then does not keep an unfinished one going.
    async fn fill(&mut self) -> bool {
        let began = Instant::now();
        if self.deframer.is_mid_frame() {
            // Counted from here, so that no time is in it in which nothing was read.
            self.whole_by.get_or_insert(began + self.frame_time_max);
        }
        let close_at = began + CLOSE_AFTER;
        let close_at = self.whole_by.map_or(close_at, |by| by.min(close_at));
        let ping_at = close_at.min(began + PING_AFTER);
        let buffer = self.deframer.buffer();
        if let Ok(read) = timeout_at(ping_at, self.read.read_buf(buffer)).await {
            return read.is_ok_and(|len| len > 0);
        }
        self.shared.ping();
        let read = timeout_at(close_at, self.read.read_buf(buffer)).await;
        if read.is_err() && self.deframer.is_mid_frame() {
            tracing::warn!(
                peer = ?self.shared.peer.identity.role,
                "closing a control connection: a frame took too long"
            );
        }
        matches!(read, Ok(Ok(len)) if len > 0)
    }

    /// Takes one frame. False when the connection is to end.
    async fn handle(&self, frame: Frame) -> Result<bool, FrameError> {
        let kind = frame.header.kind;
        if kind.is_hello() {
            return Err(FrameError::OutOfTurn { kind });
        }
        if kind == Kind::Goodbye {
            let status = frame.header.status;
            tracing::info!(%status, text = frame.error()?.text, "the peer says goodbye");
            return Ok(false);
        }
        if kind.is_reply() {
            return match self.shared.end_call(frame)? {
                Some(answer) => Ok(self.arrived.send(Arrival::Answer(answer)).await.is_ok()),
                None => Ok(true),
            };
        }
        self.wait_for_room().await;
        let id = frame.header.request_id;
        if kind == Kind::Ping {
            frame.message::<message::Ping>()?;
            self.shared.send(self::frame(&message::Pong, id).into());
            return Ok(true);
        }
        let message = frame.any_message()?;
        let Ok(permit) = self.shared.request_permits.acquire().await else {
            return Ok(false);
        };
        // Given back by `Connection::reply`.
        permit.forget();
        let request = Arrival::Request(Request { id, message });
        Ok(self.arrived.send(request).await.is_ok())
    }

    /// Waits while too much is queued for a peer that doesn't read.
    async fn wait_for_room(&self) {
        while self.shared.queued_bytes.load(Ordering::Relaxed) > QUEUED_BYTES_MAX {
            self.shared.queue_shrank.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use sarsen_protocol::handshake::{Identity, Peer};
    use sarsen_protocol::id::ClusterId;
    use sarsen_protocol::message::{Plane, Role, Start, Stat};
    use tokio::io::AsyncWriteExt as _;
    use tokio::time::sleep;

    use super::*;

    fn peer() -> Peer {
        Peer {
            identity: Identity {
                role: Role::Client,
                cluster_id: ClusterId::NONE,
                start: Start::default(),
            },
            version: 1,
            features: 0,
        }
    }

    /// A peer that sent a byte every 29 s kept what had come of a frame, 16 MiB at most, for ever: only
    /// silence had an end.
    #[tokio::test]
    async fn a_frame_that_was_begun_becomes_whole_or_ends_the_connection() {
        const FRAME_TIME: Duration = Duration::from_millis(100);
        let (queue, _queued) = mpsc::unbounded_channel();
        let shared = Shared::new(peer(), queue);
        let (arrived, mut arrivals) = mpsc::channel(1);
        let (mut theirs, ours) = tokio::io::duplex(64);
        let mut deframer = Deframer::new(Plane::Control);
        deframer.hello_is_done();
        let reader = Reader {
            shared: &shared,
            arrived,
            read: ours,
            deframer,
            frame_time_max: FRAME_TIME,
            whole_by: None,
        };
        let path = "/".repeat(1000);
        let bytes = frame(&Stat { path }, 1);
        let sending = async {
            // However long it is between two frames, each has its own time.
            for _ in 0..2 {
                theirs.write_all(&bytes).await.unwrap();
                assert!(arrivals.recv().await.is_some());
                sleep(2 * FRAME_TIME).await;
            }
            for byte in bytes.chunks(1) {
                theirs.write_all(byte).await.unwrap();
                sleep(FRAME_TIME / 10).await;
            }
        };
        tokio::select! {
            ended = reader.run() => assert_eq!(ended, Ok(())),
            () = sending => panic!("it was waited for"),
        }
    }
}
