//! A peer that reads when a test wants it to.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use sarsen_protocol::deframe::{Deframer, Frame, frame};
use sarsen_protocol::handshake::{Dialer, Identity};
use sarsen_protocol::id::ClusterId;
use sarsen_protocol::key::SecretKey;
use sarsen_protocol::message::{Message, Plane, Request, Role, Start};
use sarsen_protocol::status::Status;

/// A control connection whose request numbers the test chooses.
pub(crate) struct Peer {
    stream: TcpStream,
    deframer: Deframer,
}

impl Peer {
    /// Dials as a client.
    pub(crate) fn dial(addr: &str, key: &SecretKey) -> Self {
        let identity = Identity {
            role: Role::Client,
            cluster_id: ClusterId::NONE,
            start: Start::default(),
        };
        let mut peer = Self {
            stream: TcpStream::connect(addr).expect("listens"),
            deframer: Deframer::new(Plane::Control),
        };
        let (mut dialer, hello) = Dialer::new(identity, Plane::Control, key.clone(), [7; 32]);
        peer.send(&hello);
        let reply = peer.next().expect("a reply");
        let proof = dialer.handle_reply(&reply).expect("the right key");
        peer.send(&proof);
        let done = peer.next().expect("a reply");
        dialer.handle_done(&done).expect("accepted");
        peer.deframer.hello_is_done();
        peer
    }

    /// Sends bytes as they are.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("taken");
    }

    /// The next frame; `None` when the connection has ended.
    pub(crate) fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.deframer.next_frame().expect("a frame") {
                return Some(frame);
            }
            let mut bytes = [0; 4096];
            // A reset ends it as well.
            let len = self.stream.read(&mut bytes).unwrap_or(0);
            if len == 0 {
                return None;
            }
            self.deframer.buffer().extend_from_slice(&bytes[..len]);
        }
    }

    /// Asks as request `number`, again while the master is still starting, and takes the next frame
    /// for the answer.
    pub(crate) fn ask<R: Request>(&mut self, number: u64, request: &R) -> R::Reply {
        loop {
            self.send(&frame(request, number));
            let reply = self.next().expect("a reply");
            let header = &reply.header;
            assert_eq!(
                (header.kind, header.request_id),
                (<R::Reply as Message>::KIND, number)
            );
            if header.status != Status::Overloaded {
                return reply.message().expect("the reply's body");
            }
        }
    }
}
