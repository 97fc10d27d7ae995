//! Another chunkserver's data port, scripted: each connection meets the next of its ways.

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sarsen_protocol::crc::crc32;
use sarsen_protocol::deframe::{Deframer, Frame, error_frame, frame};
use sarsen_protocol::handshake::{Identity, Listener};
use sarsen_protocol::header::Header;
use sarsen_protocol::id::{Serial, ServerId, SessionId};
use sarsen_protocol::id_row::{ID_ROW_LEN, IdRow, IdRowKind, encode_table};
use sarsen_protocol::key::SecretKey;
use sarsen_protocol::message::{
    ChunkIds, ChunkIdsReply, ChunkState, Crcs, ErrorBody, Hop, Kind, Message as _, Plane, Read,
    ReadData, Role, Start,
};
use sarsen_protocol::size::{BLOCK_LEN, ID_ROWS_TOLD_MAX};
use sarsen_protocol::status::Status;

use crate::master::CLUSTER;

/// Bytes of a frame: few, so that a chunk takes several.
const FRAME_LEN: usize = 2 * BLOCK_LEN as usize;

/// The serial of what it serves.
pub(crate) const SERIAL: Serial = Serial(17);

/// The ids of what it serves: so many rows that they take several frames.
pub(crate) fn ids() -> Vec<u8> {
    let row = |number| IdRow {
        session: SessionId(5),
        number,
        kind: IdRowKind::Append,
        offset: 0,
        length: 1,
        crc32: 9,
    };
    encode_table(&(1..=600).map(row).collect::<Vec<_>>())
}

/// How a connection goes.
#[derive(Clone, Debug)]
pub(crate) enum Way {
    /// It serves these bytes.
    Serve(Vec<u8>),
    /// It serves these, and a bit of this one flips on the way.
    Flip(Vec<u8>, usize),
    /// It serves these, and closes after so many frames.
    Close(Vec<u8>, usize),
    /// It serves these, and falls silent after so many frames.
    Hang(Vec<u8>, usize),
    /// It refuses.
    Refuse(Status),
    /// It serves these bytes, and closes when it is asked for the ids, as who doesn't know the question.
    NoIds(Vec<u8>),
    /// It serves these bytes, and a row that does not match the table's CRC.
    FlipIds(Vec<u8>),
    /// It serves these bytes, and refuses to tell the ids.
    RefuseIds(Vec<u8>, Status),
}

/// A data port.
pub(crate) struct Source {
    pub(crate) hop: Hop,
    /// The reads that came.
    pub(crate) reads: Arc<Mutex<Vec<Read>>>,
}

impl Source {
    /// Listens as server `id` for as many connections as there are ways.
    pub(crate) fn start(id: u64, key: &SecretKey, ways: &[Way]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let data_addr = listener.local_addr().expect("bound").to_string();
        let reads = Arc::default();
        let (key, mut ways) = (key.clone(), VecDeque::from(ways.to_vec()));
        let seen: Arc<Mutex<Vec<Read>>> = Arc::clone(&reads);
        std::thread::spawn(move || {
            while let Some(way) = ways.pop_front() {
                let (stream, _) = listener.accept().expect("a connection");
                serve(stream, ServerId(id), &key, &way, &seen);
            }
        });
        let hop = Hop {
            server: ServerId(id),
            data_addr,
        };
        Self { hop, reads }
    }
}

/// A hop where nobody listens.
pub(crate) fn nobody(id: u64) -> Hop {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    Hop {
        server: ServerId(id),
        data_addr: listener.local_addr().expect("bound").to_string(),
    }
}

fn next(stream: &mut TcpStream, deframer: &mut Deframer) -> Option<Frame> {
    loop {
        if let Some(frame) = deframer.next_frame().expect("a good frame") {
            return Some(frame);
        }
        let mut bytes = [0; 4096];
        match stream.read(&mut bytes) {
            Ok(0) | Err(_) => return None,
            Ok(read) => deframer.buffer().extend_from_slice(&bytes[..read]),
        }
    }
}

fn serve(mut stream: TcpStream, id: ServerId, key: &SecretKey, way: &Way, seen: &Mutex<Vec<Read>>) {
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .expect("set");
    let mut deframer = Deframer::new(Plane::Data);
    let start = Start {
        server_id: id,
        ..Start::default()
    };
    let identity = Identity {
        role: Role::Chunkserver,
        cluster_id: CLUSTER,
        start,
    };
    let mut listener = Listener::new(identity, Plane::Data, key.clone(), [9; 32]);
    let hello = next(&mut stream, &mut deframer).expect("a hello");
    let reply = listener.handle_hello(&hello).expect("a good hello");
    stream.write_all(&reply).expect("sent");
    let proof = next(&mut stream, &mut deframer).expect("a proof");
    let (_, done) = listener.handle_proof(&proof).expect("a good proof");
    stream.write_all(&done).expect("sent");
    deframer.hello_is_done();
    let Some(frame) = next(&mut stream, &mut deframer) else {
        return;
    };
    let read: Read = frame.message().expect("a read");
    let request_id = frame.header.request_id;
    seen.lock().expect("whole").push(read);
    let (bytes, flip, frames_max) = match way {
        Way::Serve(bytes) | Way::NoIds(bytes) | Way::FlipIds(bytes) | Way::RefuseIds(bytes, _) => {
            (bytes, None, usize::MAX)
        }
        Way::Flip(bytes, at) => (bytes, Some(*at), usize::MAX),
        Way::Close(bytes, frames) | Way::Hang(bytes, frames) => (bytes, None, *frames),
        Way::Refuse(status) => {
            let error = ErrorBody::new("scripted");
            let frame = error_frame(Kind::ReadData, request_id, *status, &error);
            return stream.write_all(&frame).expect("sent");
        }
    };
    for (n, payload) in bytes.chunks(FRAME_LEN).enumerate().take(frames_max) {
        let crcs: Vec<u32> = payload.chunks(BLOCK_LEN as usize).map(crc32).collect();
        let offset = n * FRAME_LEN;
        let data = ReadData {
            handle: read.handle,
            version: read.version,
            serial: SERIAL,
            chunk_length: bytes.len() as u32,
            offset: offset as u32,
            state: ChunkState::Sealed,
            last: offset + payload.len() == bytes.len(),
            crcs: Crcs::new(&crcs).expect("few"),
        };
        let mut payload = payload.to_vec();
        if let Some(at) = flip.filter(|at| (offset..offset + payload.len()).contains(at)) {
            payload[at - offset] ^= 1;
        }
        let body = data.to_body();
        let status = Status::Ok;
        let header = Header::new(
            Kind::ReadData,
            status,
            request_id,
            &body,
            payload.len() as u32,
        );
        for part in [&header.encode()[..], &body, &payload] {
            // Who was given up on may be hung up on.
            if stream.write_all(part).is_err() {
                return;
            }
        }
    }
    if matches!(way, Way::Close(..)) {
        return;
    }
    // One that hangs waits until the other side has had enough.
    let Some(asked) = next(&mut stream, &mut deframer) else {
        return;
    };
    tell_ids(&mut stream, &asked, way);
}

/// Tells the ids of what was served, in frames of 255 rows at most.
fn tell_ids(stream: &mut TcpStream, asked: &Frame, way: &Way) {
    let request_id = asked.header.request_id;
    let ChunkIds { .. } = asked.message().expect("the question for the ids");
    let mut table = ids();
    let (length, crc) = (table.len() as u32, crc32(&table));
    match way {
        Way::NoIds(_) => return,
        Way::RefuseIds(_, status) => {
            let error = ErrorBody::new("scripted");
            let frame = error_frame(Kind::ChunkIdsReply, request_id, *status, &error);
            return stream.write_all(&frame).expect("sent");
        }
        Way::FlipIds(_) => table[300 * ID_ROW_LEN + 20] ^= 1,
        _ => {}
    }
    let (rows, _) = table.as_chunks::<ID_ROW_LEN>();
    for (n, rows) in rows.chunks(ID_ROWS_TOLD_MAX).enumerate() {
        let reply = ChunkIdsReply {
            table_length: length,
            table_crc32: crc,
            first_row: (n * ID_ROWS_TOLD_MAX) as u32,
            rows: rows.to_vec(),
        };
        if stream.write_all(&frame(&reply, request_id)).is_err() {
            return;
        }
    }
}
