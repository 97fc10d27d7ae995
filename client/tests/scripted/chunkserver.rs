//! A chunkserver that plays the whole chain: what its script doesn't change, it does as
//! `spec/wire.md` section 12 says, in memory and in the name of every member.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use sarsen_client::core::pieces::{all_match, crcs_of};
use sarsen_protocol::crc::crc32;
use sarsen_protocol::deframe::{Deframer, Frame, error_frame, frame};
use sarsen_protocol::handshake::Listener;
use sarsen_protocol::header::Header;
use sarsen_protocol::id::{ChunkHandle, Serial, ServerId};
use sarsen_protocol::key::SecretKey;
use sarsen_protocol::message::{
    ChunkState, CutData, ErrorBody, Kind, Level, MemberLevel, Message, Plane, Read, ReadCut,
    ReadData, Role, WriteAck, WriteData, WriteOpen, WriteOpened, WriteSeal, WriteSealed,
};
use sarsen_protocol::status::Status;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::open_chunks::OpenChunks;
use crate::{CHUNK_SIZE, identity};

/// Bytes of a `ReadData`'s payload: several frames a chunk.
const READ_PAYLOAD_LEN: usize = CHUNK_SIZE / 4;

/// What a chunkserver does otherwise than it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Fails a write stream once, with a status and a server to blame.
    WriteOnce(Status, u64),
    /// Fails every write stream.
    Write(Status),
    /// Flips a bit of what it sends, at this place in the chunk.
    FlippedBit(usize),
    /// Sends another chunk's bytes, with CRCs that fit them.
    OtherBytes,
    /// Answers reads with a status.
    Read(Status),
    /// Answers one read with a status.
    ReadOnce(Status),
    /// Sends one frame of what is read, then nothing more.
    StopsSending,
    /// Takes what is asked of it to read, and never answers.
    Hangs,
    /// So do reads of one chunk, and what is behind them on their connection.
    HangsAt(ChunkHandle),
    /// Takes this long for each frame of what is read.
    Slow(Duration),
    /// Closes each connection behind its first stream.
    ClosesAfterStream,
    /// Takes no connection, and answers on none.
    Dead,
}

#[derive(Debug)]
pub(crate) struct Chunkserver {
    pub(crate) address: String,
    pub(crate) chunks: Mutex<HashMap<ChunkHandle, Vec<u8>>>,
    fault: Mutex<Option<Fault>>,
    /// Connections that were taken.
    pub(crate) connections: AtomicUsize,
    /// Reads that were asked for.
    pub(crate) reads: AtomicUsize,
    /// Frames that were sent for them.
    pub(crate) frames: AtomicUsize,
    /// Write streams that were begun.
    pub(crate) opened: Mutex<Vec<WriteOpen>>,
    /// What is open, of all servers together.
    open: Arc<OpenChunks>,
}

impl Chunkserver {
    pub(crate) async fn start(key: SecretKey, open: Arc<OpenChunks>) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Arc::new(Self {
            address: listener.local_addr().unwrap().to_string(),
            chunks: Mutex::default(),
            fault: Mutex::default(),
            connections: AtomicUsize::default(),
            reads: AtomicUsize::default(),
            frames: AtomicUsize::default(),
            opened: Mutex::default(),
            open,
        });
        let serving = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                serving.connections.fetch_add(1, Ordering::Relaxed);
                let (server, key) = (serving.clone(), key.clone());
                tokio::spawn(async move { server.serve(stream, key).await });
            }
        });
        server
    }

    /// From now on this goes wrong.
    pub(crate) fn fail(&self, fault: Fault) {
        *self.fault.lock().unwrap() = Some(fault);
    }

    fn fault(&self) -> Option<Fault> {
        *self.fault.lock().unwrap()
    }

    async fn serve(&self, mut stream: TcpStream, key: SecretKey) {
        if self.fault() == Some(Fault::Dead) {
            return;
        }
        let mut deframer = Deframer::new(Plane::Data);
        let identity = identity(Role::Chunkserver);
        let mut listener = Listener::new(identity, Plane::Data, key, [9; 32]);
        let hello = next(&mut stream, &mut deframer).await.unwrap();
        let reply = listener.handle_hello(&hello).unwrap();
        stream.write_all(&reply).await.unwrap();
        // A dialer with another key goes without a proof.
        let Some(proof) = next(&mut stream, &mut deframer).await else {
            return;
        };
        let (_, done) = listener.handle_proof(&proof).unwrap();
        stream.write_all(&done).await.unwrap();
        deframer.hello_is_done();
        while let Some(first) = next(&mut stream, &mut deframer).await {
            if self.fault() == Some(Fault::Dead) {
                return;
            }
            let went_well = match first.header.kind {
                Kind::WriteOpen => self.write(&mut stream, &mut deframer, &first).await,
                Kind::Read => self.read(&mut stream, &first).await,
                Kind::ReadCut => self.read_cut(&mut stream, &first).await,
                kind => panic!("{kind:?} begins no stream"),
            };
            if !went_well || self.fault() == Some(Fault::ClosesAfterStream) {
                break;
            }
        }
        // What is still coming is thrown away: closing on it would take back what was said.
        let _ = stream.shutdown().await;
        let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    }

    /// Takes a chunk; false if the connection is to be closed.
    async fn write(&self, stream: &mut TcpStream, deframer: &mut Deframer, first: &Frame) -> bool {
        let id = first.header.request_id;
        let open: WriteOpen = first.message().unwrap();
        if open.begin_serial.is_some() {
            self.open.serve(stream, deframer, first).await;
            return false;
        }
        self.opened.lock().unwrap().push(open.clone());
        send(stream, &frame(&WriteOpened, id)).await;
        let mut bytes = Vec::new();
        let mut serial = 0;
        while let Some(frame_in) = next(stream, deframer).await {
            assert_eq!(frame_in.header.request_id, id, "one stream at a time");
            match frame_in.header.kind {
                Kind::WriteData => {
                    let data: WriteData = frame_in.message().unwrap();
                    data.check_payload(frame_in.header.payload_len).unwrap();
                    serial += 1;
                    assert_eq!(data.serial, Serial(serial));
                    assert_eq!(data.offset as usize, bytes.len(), "contiguous");
                    assert!(all_match(data.offset, &frame_in.payload, &data.crcs));
                    if let Some((status, server)) = self.write_fault() {
                        let mut error = ErrorBody::new("as the script says");
                        error.server = ServerId(server);
                        send(stream, &error_frame(Kind::WriteAck, id, status, &error)).await;
                        return false;
                    }
                    bytes.extend_from_slice(&frame_in.payload);
                    send(stream, &frame(&ack(serial, open.chain.len()), id)).await;
                }
                Kind::WriteSeal => {
                    let seal: WriteSeal = frame_in.message().unwrap();
                    let own = (u32::try_from(bytes.len()).unwrap(), crc32(&bytes));
                    assert_eq!((seal.length, seal.crc32), own);
                    self.chunks.lock().unwrap().insert(open.handle, bytes);
                    send(stream, &frame(&sealed(&seal, &open), id)).await;
                    return true;
                }
                kind => panic!("{kind:?} in a write stream"),
            }
        }
        false
    }

    fn write_fault(&self) -> Option<(Status, u64)> {
        let mut fault = self.fault.lock().unwrap();
        match *fault {
            Some(Fault::WriteOnce(status, server)) => {
                *fault = None;
                Some((status, server))
            }
            Some(Fault::Write(status)) => Some((status, 0)),
            _ => None,
        }
    }

    fn read_fault(&self) -> Option<Status> {
        let mut fault = self.fault.lock().unwrap();
        match *fault {
            Some(Fault::ReadOnce(status)) => {
                *fault = None;
                Some(status)
            }
            Some(Fault::Read(status)) => Some(status),
            _ => None,
        }
    }

    /// Gives a chunk out; false if the connection is to be closed.
    async fn read(&self, stream: &mut TcpStream, first: &Frame) -> bool {
        let id = first.header.request_id;
        let read: Read = first.message().unwrap();
        self.hang_if_told().await;
        if let Some(status) = self.read_fault() {
            let error = ErrorBody::new("as the script says");
            send(stream, &error_frame(Kind::ReadData, id, status, &error)).await;
            return true;
        }
        let stored = self.chunks.lock().unwrap().get(&read.handle).cloned();
        let Some(mut bytes) = stored else {
            let error = ErrorBody::new("no such chunk");
            let unknown = error_frame(Kind::ReadData, id, Status::ChunkUnknown, &error);
            send(stream, &unknown).await;
            return true;
        };
        if self.fault() == Some(Fault::OtherBytes) {
            bytes.reverse();
        }
        let end = (read.offset as usize + read.length as usize).min(bytes.len());
        // Whole blocks, as they are stored.
        let end = end.next_multiple_of(65_536).min(bytes.len());
        let mut offset = read.offset as usize;
        loop {
            let to = (offset + READ_PAYLOAD_LEN).min(end);
            let data = data(&read, &bytes, offset, to, to == end);
            let mut payload = bytes[offset..to].to_vec();
            if let Some(Fault::FlippedBit(place)) = self.fault()
                && (offset..to).contains(&place)
            {
                payload[place - offset] ^= 0x10;
            }
            if let Some(Fault::Slow(time)) = self.fault() {
                tokio::time::sleep(time).await;
            }
            self.frames.fetch_add(1, Ordering::Relaxed);
            send_data(stream, id, &data, &payload).await;
            if self.fault() == Some(Fault::StopsSending) {
                std::future::pending::<()>().await;
            }
            if to == end {
                return true;
            }
            offset = to;
        }
    }

    async fn hang_if_told(&self) {
        self.reads.fetch_add(1, Ordering::Relaxed);
        if self.fault() == Some(Fault::Hangs) {
            std::future::pending::<()>().await;
        }
    }

    /// Gives bytes of one block out; false if the connection is to be closed.
    async fn read_cut(&self, stream: &mut TcpStream, first: &Frame) -> bool {
        let id = first.header.request_id;
        let read: ReadCut = first.message().unwrap();
        self.hang_if_told().await;
        match self.fault() {
            Some(Fault::Slow(time)) => tokio::time::sleep(time).await,
            Some(Fault::HangsAt(handle)) if handle == read.handle => std::future::pending().await,
            _ => {}
        }
        let stored = self.chunks.lock().unwrap().get(&read.handle).cloned();
        let refused = match (self.read_fault(), stored) {
            (Some(status), _) => Err((status, "as the script says")),
            (None, None) => Err((Status::ChunkUnknown, "no such chunk")),
            (None, Some(bytes)) => Ok(bytes),
        };
        let mut bytes = match refused {
            Ok(bytes) => bytes,
            Err((status, text)) => {
                let error = ErrorBody::new(text);
                send(stream, &error_frame(Kind::CutData, id, status, &error)).await;
                return true;
            }
        };
        if self.fault() == Some(Fault::OtherBytes) {
            bytes.reverse();
        }
        let from = read.offset as usize;
        let to = (from + read.length as usize).min(bytes.len());
        let block = from / 65_536 * 65_536;
        let block = block..(block + 65_536).min(bytes.len());
        let block_crc = crc32(&bytes[block.clone()]);
        if let Some(Fault::FlippedBit(place)) = self.fault() {
            bytes[place] ^= 0x10;
        }
        let data = CutData {
            handle: read.handle,
            version: read.version,
            serial: Serial(1),
            chunk_length: u32::try_from(bytes.len()).unwrap(),
            offset: read.offset,
            block_crc,
            before: crc32(&bytes[block.start..from]),
            behind: crc32(&bytes[to..block.end]),
            state: ChunkState::Sealed,
        };
        let body = data.to_body();
        let payload_len = u32::try_from(to - from).unwrap();
        let header = Header::new(Kind::CutData, Status::Ok, id, &body, payload_len);
        let frame = [&header.encode()[..], &body, &bytes[from..to]].concat();
        send(stream, &frame).await;
        if self.fault() == Some(Fault::StopsSending) {
            std::future::pending::<()>().await;
        }
        true
    }
}

fn data(read: &Read, bytes: &[u8], offset: usize, to: usize, last: bool) -> ReadData {
    let at = u32::try_from(offset).unwrap();
    ReadData {
        handle: read.handle,
        version: read.version,
        serial: Serial(1),
        chunk_length: u32::try_from(bytes.len()).unwrap(),
        offset: at,
        state: ChunkState::Sealed,
        last,
        crcs: crcs_of(at, &bytes[offset..to]).unwrap(),
    }
}

fn ack(serial: u64, members: usize) -> WriteAck {
    WriteAck {
        serial: Serial(serial),
        commit_mark: Serial(serial),
        level: Level::Memory,
        copies: u8::try_from(members).unwrap(),
    }
}

fn sealed(seal: &WriteSeal, open: &WriteOpen) -> WriteSealed {
    WriteSealed {
        length: seal.length,
        crc32: seal.crc32,
        members: open
            .chain
            .iter()
            .map(|hop| MemberLevel {
                server: hop.server,
                level: seal.level,
            })
            .collect(),
    }
}

async fn send_data(stream: &mut TcpStream, id: u64, data: &ReadData, payload: &[u8]) {
    let body = data.to_body();
    let payload_len = u32::try_from(payload.len()).unwrap();
    let header = Header::new(Kind::ReadData, Status::Ok, id, &body, payload_len);
    let mut bytes = BytesMut::from(&header.encode()[..]);
    bytes.extend_from_slice(&body);
    bytes.extend_from_slice(payload);
    send(stream, &bytes).await;
}

/// Sends; a client that has gone meanwhile is its own affair.
pub(crate) async fn send(stream: &mut TcpStream, bytes: &[u8]) {
    let _ = stream.write_all(bytes).await;
}

/// The next frame; `None` when the client has gone.
pub(crate) async fn next(stream: &mut TcpStream, deframer: &mut Deframer) -> Option<Frame> {
    loop {
        if let Some(frame) = deframer.next_frame().expect("a well-formed frame") {
            return Some(frame);
        }
        match stream.read_buf(deframer.buffer()).await {
            Ok(0) | Err(_) => return None,
            Ok(_) => {}
        }
    }
}
