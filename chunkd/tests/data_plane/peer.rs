//! A scripted peer: it sends what a test tells it to, whatever the protocol says, and blocks.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use sarsen_protocol::crc::crc32;
use sarsen_protocol::deframe::{Deframer, Frame, frame};
use sarsen_protocol::handshake::{Dialer, Identity, Listener};
use sarsen_protocol::header::Header;
use sarsen_protocol::id::{ChunkHandle, ClusterId, Serial, ServerId};
use sarsen_protocol::message::{
    Crcs, Hop, Kind, Level, Message, Plane, Read, ReadData, Role, Start, Want, WriteAck, WriteData,
    WriteOpen, WriteSeal,
};
use sarsen_protocol::size::piece_lens;
use sarsen_protocol::status::Status;
use sarsen_protocol::ticket::{Rights, Ticket};

use crate::cluster::{CLUSTER, FILE, VERSION, key, ticket};

/// What a test waits for longer than this will not come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A connection to a data port.
pub(crate) struct Peer {
    stream: TcpStream,
    deframer: Deframer,
    pub(crate) request_id: u64,
    /// What was acknowledged last, so that a repetition is known for a keep-alive.
    acked: Serial,
    /// What is to be sent at once with more.
    held: Option<Vec<u8>>,
}

impl Peer {
    /// Connects and says hello.
    pub(crate) fn dial(address: SocketAddr) -> Self {
        Self::dial_as(
            address,
            Identity {
                role: Role::Client,
                cluster_id: ClusterId::NONE,
                start: Start::default(),
            },
        )
    }

    /// Connects and says hello as whoever this is.
    pub(crate) fn dial_as(address: SocketAddr, identity: Identity) -> Self {
        let mut peer = Self::dial_silently(address);
        let (mut dialer, hello) = Dialer::new(identity, Plane::Data, key(), [3; 32]);
        peer.send(&hello);
        let reply = peer.recv().expect("an answer");
        let proof = dialer.handle_reply(&reply).expect("a good proof");
        peer.send(&proof);
        let done = peer.recv().expect("the end");
        dialer.handle_done(&done).expect("welcome");
        peer.deframer.hello_is_done();
        peer
    }

    /// Connects and says nothing.
    pub(crate) fn dial_silently(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).expect("connects"))
    }

    /// Accepts a connection as the server `id` would, and takes its hello.
    pub(crate) fn accept(listener: &TcpListener, id: ServerId) -> Self {
        let (stream, _) = listener.accept().expect("a connection");
        let mut peer = Self::over(stream);
        let mut listener = Listener::new(chunkserver(id), Plane::Data, key(), [4; 32]);
        let hello = peer.recv().expect("a hello");
        let reply = listener.handle_hello(&hello).expect("a good hello");
        peer.send(&reply);
        let proof = peer.recv().expect("a proof");
        let (_, done) = listener.handle_proof(&proof).expect("a good proof");
        peer.send(&done);
        peer.deframer.hello_is_done();
        peer
    }

    fn over(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        stream.set_write_timeout(Some(PATIENCE)).expect("set");
        stream.set_nodelay(true).expect("set");
        Self {
            stream,
            deframer: Deframer::new(Plane::Data),
            request_id: 1,
            acked: Serial::NONE,
            held: None,
        }
    }

    /// Sends bytes, as far as the other side takes them.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        match &mut self.held {
            Some(held) => held.extend_from_slice(bytes),
            // Who was refused may find the connection closed already.
            None => drop(self.stream.write_all(bytes)),
        }
    }

    /// Sends what `act` sends with one call, so that it comes together.
    pub(crate) fn at_once(&mut self, act: impl FnOnce(&mut Self)) {
        self.held = Some(Vec::new());
        act(self);
        let held = self.held.take().unwrap_or_default();
        self.send(&held);
    }

    /// Nothing more will be sent.
    pub(crate) fn end_sending(&self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Write);
    }

    /// The next frame; `None` when the connection was closed.
    pub(crate) fn recv(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.deframer.next_frame().expect("a good frame") {
                return Some(frame);
            }
            let mut bytes = [0; 65_536];
            match self.stream.read(&mut bytes) {
                Ok(0) => return None,
                Ok(read) => self.deframer.buffer().extend_from_slice(&bytes[..read]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("no answer came: {error}"),
            }
        }
    }

    /// The next frame if it is here already, or the connection's end is not.
    pub(crate) fn try_recv(&mut self) -> Option<Frame> {
        self.stream.set_nonblocking(true).expect("set");
        loop {
            if let Some(frame) = self.deframer.next_frame().expect("a good frame") {
                return Some(frame);
            }
            let mut bytes = [0; 65_536];
            match self.stream.read(&mut bytes) {
                Ok(read) if read > 0 => self.deframer.buffer().extend_from_slice(&bytes[..read]),
                _ => return None,
            }
        }
    }

    /// The next frame as this message, which must have come well; keep-alives are passed over.
    pub(crate) fn expect<M: Message>(&mut self) -> M {
        loop {
            let frame = self.recv().expect("a frame");
            let status = frame.header.status;
            assert!(status.is_ok(), "{:?}: {:?}", status, frame.error());
            if let Ok(ack) = frame.message::<WriteAck>() {
                if ack.serial == self.acked {
                    continue;
                }
                self.acked = ack.serial;
            }
            return frame.message().expect("the message that is due");
        }
    }

    /// Takes keep-alives, each of which must be one.
    pub(crate) fn expect_keep_alives(&mut self, count: usize) {
        for _ in 0..count {
            let ack: WriteAck = self.recv().expect("a frame").message().expect("an ack");
            assert_eq!(ack.serial, self.acked, "it acknowledges nothing");
        }
    }

    /// The kind, status and blamed server of the failure that comes next, past what came well.
    pub(crate) fn expect_failure(&mut self) -> (Kind, Status, u64) {
        loop {
            let frame = self.recv().expect("a failure before the end");
            let status = frame.header.status;
            if !status.is_ok() {
                let server = frame.error().expect("an error body").server;
                return (frame.header.kind, status, server.0);
            }
        }
    }

    /// Waits until the connection is closed.
    pub(crate) fn expect_closed(&mut self) {
        while self.recv().is_some() {}
    }

    pub(crate) fn open(&mut self, handle: ChunkHandle, chain: &[Hop]) {
        self.open_with(ticket(Rights::WRITE, handle, chain), handle, chain);
    }

    pub(crate) fn open_with(&mut self, ticket: Ticket, handle: ChunkHandle, chain: &[Hop]) {
        let open = WriteOpen {
            ticket,
            handle,
            version: VERSION,
            file_id: FILE,
            index: 0,
            room: 0,
            begin_serial: Serial::NONE,
            lock_token: 0,
            level: Level::Disk,
            position: 0,
            chain: chain.to_vec(),
        };
        self.acked = Serial::NONE;
        self.send(&frame(&open, self.request_id));
    }

    pub(crate) fn data(&mut self, handle: ChunkHandle, serial: u64, offset: u32, payload: &[u8]) {
        self.data_with(handle, serial, offset, payload, |_| {});
    }

    /// Sends data whose CRCs or fields a test has changed.
    pub(crate) fn data_with(
        &mut self,
        handle: ChunkHandle,
        serial: u64,
        offset: u32,
        payload: &[u8],
        change: impl FnOnce(&mut WriteData),
    ) {
        let head = self.data_head(handle, serial, offset, payload, change);
        self.send(&head);
        self.send(payload);
    }

    /// Sends data up to `len` bytes of its payload, and leaves it there.
    pub(crate) fn begin_data(
        &mut self,
        handle: ChunkHandle,
        serial: u64,
        offset: u32,
        payload: &[u8],
        len: usize,
    ) {
        let head = self.data_head(handle, serial, offset, payload, |_| {});
        self.send(&head);
        self.send(&payload[..len]);
    }

    fn data_head(
        &self,
        handle: ChunkHandle,
        serial: u64,
        offset: u32,
        payload: &[u8],
        change: impl FnOnce(&mut WriteData),
    ) -> Vec<u8> {
        let mut data = WriteData {
            handle,
            version: VERSION,
            serial: Serial(serial),
            commit_mark: Serial::NONE,
            request: None,
            offset,
            level: Level::Disk,
            crcs: Crcs::new(&crcs_of(offset, payload)).expect("few pieces"),
        };
        change(&mut data);
        let body = data.to_body();
        let len = u32::try_from(payload.len()).expect("small");
        let header = Header::new(Kind::WriteData, Status::Ok, self.request_id, &body, len);
        [&header.encode()[..], &body].concat()
    }

    pub(crate) fn seal(&mut self, handle: ChunkHandle, bytes: &[u8], level: Level) {
        let seal = WriteSeal {
            handle,
            version: VERSION,
            length: u32::try_from(bytes.len()).expect("small"),
            crc32: crc32(bytes),
            level,
        };
        self.send(&frame(&seal, self.request_id));
    }

    /// Asks for a range.
    pub(crate) fn read(&mut self, handle: ChunkHandle, offset: u32, length: u32) {
        let read = Read {
            ticket: ticket(Rights::READ, handle, &[]),
            handle,
            version: VERSION,
            serial: Serial::NONE,
            want: Want::Sealed,
            offset,
            length,
        };
        self.send(&frame(&read, self.request_id));
    }

    /// Takes the frames of one read: the bytes, and the offsets of the pieces that don't match.
    pub(crate) fn read_data(&mut self) -> (Vec<u8>, Vec<u32>) {
        let (mut bytes, mut bad) = (Vec::new(), Vec::new());
        loop {
            let frame = self.recv().expect("a frame");
            let data: ReadData = frame.message().expect("data");
            data.check_payload(frame.header.payload_len).expect("fits");
            assert_eq!(frame.header.request_id, self.request_id);
            let computed = crcs_of(data.offset, &frame.payload);
            for (n, (found, stored)) in computed.iter().zip(data.crcs.as_slice()).enumerate() {
                if found != stored {
                    bad.push(data.offset + n as u32 * 65_536);
                }
            }
            bytes.extend_from_slice(&frame.payload);
            if data.last {
                return (bytes, bad);
            }
        }
    }
}

/// What the server `id` says of itself.
pub(crate) fn chunkserver(id: ServerId) -> Identity {
    Identity {
        role: Role::Chunkserver,
        cluster_id: CLUSTER,
        start: Start {
            server_id: id,
            ..Start::default()
        },
    }
}

/// One CRC a piece.
pub(crate) fn crcs_of(offset: u32, payload: &[u8]) -> Vec<u32> {
    let mut rest = payload;
    let lens = piece_lens(offset, u32::try_from(payload.len()).expect("small"));
    lens.map(|len| {
        let (piece, behind) = rest.split_at(len as usize);
        rest = behind;
        crc32(piece)
    })
    .collect()
}

/// Bytes that differ from block to block.
pub(crate) fn bytes(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut bytes: Vec<u8> = (0..len.div_ceil(8)).flat_map(|_| next()).collect();
    bytes.truncate(len);
    bytes
}
