//! Every vector of the wire, against this crate (`spec/README.md`, `spec/wire.md` section 14).
//!
//! The bytes were made by the second implementation in `spec/decoder`; the values in `samples`
//! are built by hand. So an error here is a difference between two readings of the specification.

mod samples;
mod vector_file;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use sarsen_protocol::codec::{Decoder, Encoder};
use sarsen_protocol::deframe::{Deframer, Frame, frame};
use sarsen_protocol::error::{BodyError, FrameError};
use sarsen_protocol::handshake::{Dialer, HandshakeError, Identity, Listener};
use sarsen_protocol::id::{ChunkHandle, ChunkVersion, ServerId};
use sarsen_protocol::key::SecretKey;
use sarsen_protocol::message::{
    AnyMessage, ErrorBody, HELLO_LEN, HELLO_REPLY_LEN, Hello, HelloProof, HelloReply, Kind,
    Message, Plane,
};
use sarsen_protocol::status::Status;
use sarsen_protocol::ticket::{Rights, Ticket, TicketError, servers_crc};
use serde::Deserialize;
use serde::de::{Deserializer, Error};
use vector_file::{VectorFile, from_hex};

const FILES: [&str; 4] = ["wire.toml", "messages.toml", "hello.toml", "tickets.toml"];

/// A 64-bit number as it stands in a vector.
#[derive(Clone, Copy)]
struct Word(u64);

impl<'de> Deserialize<'de> for Word {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digits = text.strip_prefix("0x").ok_or(D::Error::custom("no 0x"))?;
        u64::from_str_radix(digits, 16)
            .map(Self)
            .map_err(D::Error::custom)
    }
}

/// Bytes as they stand in a vector.
struct Octets(Vec<u8>);

impl<'de> Deserialize<'de> for Octets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digits = text.strip_prefix("0x").ok_or(D::Error::custom("no 0x"))?;
        Ok(Self(from_hex(digits)))
    }
}

impl Octets {
    fn key(&self) -> SecretKey {
        SecretKey::new(self.0.clone().try_into().unwrap())
    }
}

/// The kind that a vector of a body has, if it is of one.
fn kind_named(name: &str) -> Option<Kind> {
    Kind::ALL.iter().copied().find(|kind| kind.name() == name)
}

/// What a body's vectors give beside the bytes.
#[derive(Deserialize)]
struct OfBody {
    payload_len: Option<u32>,
}

/// The body of a frame with so much payload, with every check of `spec/wire.md` sections 6 and 7.
fn decode(kind: Kind, body: &[u8], payload_len: u32) -> Result<AnyMessage, BodyError> {
    let message = AnyMessage::from_body(kind, body)?;
    match &message {
        AnyMessage::WriteData(data) => data.check_payload(payload_len)?,
        AnyMessage::ReadData(data) => data.check_payload(payload_len)?,
        AnyMessage::Append(records) => records.check_payload(payload_len)?,
        AnyMessage::WriteBatch(batch) => batch.check_payload(payload_len)?,
        AnyMessage::CutData(data) => data.check_payload(payload_len)?,
        _ => assert_eq!(payload_len, 0, "only data has a payload"),
    }
    Ok(message)
}

#[test]
fn accepted_bodies_are_the_samples() {
    let mut samples = samples::all();
    for vector in ["messages.toml", "hello.toml"]
        .into_iter()
        .flat_map(|file| VectorFile::read(file).accepted)
    {
        let Some(kind) = kind_named(&vector.kind) else {
            continue;
        };
        let name = &vector.name;
        let sample = samples
            .remove(name.as_str())
            .unwrap_or_else(|| panic!("{name}: no sample"));
        let given: OfBody = vector.given();
        let bytes = vector.bytes();
        assert_eq!(sample.kind(), kind, "{name}");
        assert_eq!(sample.to_body(), bytes, "{name}");
        let decoded = decode(kind, &bytes, given.payload_len.unwrap_or(0));
        assert_eq!(decoded, Ok(sample), "{name}");
    }
    assert_eq!(samples.keys().next(), None, "a sample without a vector");
}

/// Nothing is optional, so no body is another one's beginning.
#[test]
fn a_body_cut_anywhere_is_truncated_and_a_longer_one_has_trailing_bytes() {
    for (name, sample) in samples::all() {
        let mut body = sample.to_body();
        for len in 0..body.len() {
            let cut = AnyMessage::from_body(sample.kind(), &body[..len]);
            assert_eq!(cut, Err(BodyError::Truncated), "{name} cut to {len} bytes");
        }
        body.push(0);
        let longer = AnyMessage::from_body(sample.kind(), &body);
        assert_eq!(longer, Err(BodyError::TrailingBytes), "{name}");
    }
}

#[test]
fn rejected_bodies_fail_with_their_error() {
    for vector in ["messages.toml", "hello.toml"]
        .into_iter()
        .flat_map(|file| VectorFile::read(file).rejected)
    {
        let Some(kind) = kind_named(&vector.kind) else {
            continue;
        };
        let given: OfBody = vector.given();
        let decoded = decode(kind, &vector.bytes(), given.payload_len.unwrap_or(0));
        let error = decoded.map_err(BodyError::name);
        assert_eq!(error, Err(vector.error.as_str()), "{}", vector.name);
    }
}

#[test]
fn every_kind_has_an_accepted_vector() {
    let shown: BTreeSet<String> = FILES
        .into_iter()
        .flat_map(|file| VectorFile::read(file).accepted)
        .map(|vector| vector.kind)
        .collect();
    for kind in Kind::ALL {
        assert!(shown.contains(kind.name()), "{}", kind.name());
    }
}

/// The errors of form that `spec/wire.md` section 9 lists, and those of a proof and a ticket.
#[test]
fn every_error_has_a_rejected_vector() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../spec/wire.md");
    let page = fs::read_to_string(page).unwrap();
    let section = page.split("\n## 9. ").nth(1).unwrap();
    let section = section.split("\n## 10. ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let mut listed: BTreeSet<&str> = rows
        .flat_map(|row| {
            row.split(" | ")
                .next()
                .unwrap()
                .split('`')
                .skip(1)
                .step_by(2)
        })
        .collect();
    assert_eq!(listed.len(), 20, "the table was read: {listed:?}");
    listed.extend(["wrong_key", "ticket_invalid", "ticket_expired"]);
    let vectors: Vec<_> = FILES
        .into_iter()
        .flat_map(|file| VectorFile::read(file).rejected)
        .collect();
    let shown: BTreeSet<&str> = vectors.iter().map(|vector| vector.error.as_str()).collect();
    assert_eq!(shown, listed);
}

/// What a frame's vectors give beside the bytes.
#[derive(Deserialize)]
struct OfFrame {
    plane: String,
    hello_done: bool,
    due: Option<String>,
}

#[derive(Deserialize)]
struct FrameFields {
    kind: u16,
    status: u16,
    request_id: Word,
    body: Octets,
    payload: Octets,
}

fn plane(name: &str) -> Plane {
    match name {
        "control" => Plane::Control,
        "data" => Plane::Data,
        _ => panic!("no plane {name}"),
    }
}

/// Takes one frame as a connection does: deframed, in turn, its body and payload looked at.
fn take_frame(bytes: &[u8], given: &OfFrame) -> Result<Frame, FrameError> {
    let mut deframer = Deframer::new(plane(&given.plane));
    if given.hello_done {
        deframer.hello_is_done();
    }
    deframer.buffer().extend_from_slice(bytes);
    let frame = deframer.next_frame()?.expect("the frame is whole");
    assert!(!deframer.is_mid_frame(), "the frame is all there is");
    match given.due.as_deref() {
        None => {}
        Some("Hello") => drop(frame.message::<Hello>()?),
        Some("HelloReply") => drop(frame.message::<HelloReply>()?),
        Some("HelloProof") => drop(frame.message::<HelloProof>()?),
        Some(other) => panic!("{other} is never the only one due"),
    }
    let kind = frame.header.kind;
    if frame.header.status.is_ok() {
        decode(kind, &frame.body, frame.header.payload_len)
            .map_err(|source| FrameError::Body { kind, source })?;
    } else {
        frame.error()?;
    }
    Ok(frame)
}

#[test]
fn accepted_frames() {
    let file = VectorFile::read("wire.toml");
    for vector in file.accepted.iter().filter(|one| one.kind == "frame") {
        let name = &vector.name;
        let fields: FrameFields = vector.fields();
        let frame = take_frame(&vector.bytes(), &vector.given()).unwrap();
        assert_eq!(frame.header.kind.number(), fields.kind, "{name}");
        assert_eq!(frame.header.request_id, fields.request_id.0, "{name}");
        assert_eq!(frame.body, fields.body.0, "{name}");
        assert_eq!(frame.payload, fields.payload.0, "{name}");
        let status = Status::from_number(fields.status);
        assert_eq!(frame.header.status, status, "{name}");
        // A status that isn't listed is read as `internal`, and never sent.
        if status.number() == fields.status {
            assert_eq!(frame.header.encode(), vector.bytes()[..64], "{name}");
        }
    }
}

#[test]
fn rejected_frames() {
    let file = VectorFile::read("wire.toml");
    for vector in file.rejected.iter().filter(|one| one.kind == "frame") {
        let error = take_frame(&vector.bytes(), &vector.given()).map_err(FrameError::name);
        assert_eq!(error, Err(vector.error.as_str()), "{}", vector.name);
    }
}

#[derive(Deserialize)]
struct ErrorFields {
    text: String,
    server: Word,
    version: Word,
    serial: Word,
    retry_after: u32,
}

#[test]
fn error_bodies() {
    let file = VectorFile::read("wire.toml");
    for vector in file.accepted.iter().filter(|one| one.kind == "error_body") {
        let fields: ErrorFields = vector.fields();
        let body = ErrorBody::from_body(&vector.bytes()).unwrap();
        assert_eq!(body.to_body(), vector.bytes(), "{}", vector.name);
        assert_eq!(body.text, fields.text);
        assert_eq!(body.server.0, fields.server.0);
        assert_eq!(body.version.0, fields.version.0);
        assert_eq!(body.serial.0, fields.serial.0);
        assert_eq!(body.retry_after, fields.retry_after);
    }
    for vector in file.rejected.iter().filter(|one| one.kind == "error_body") {
        let error = ErrorBody::from_body(&vector.bytes()).map_err(BodyError::name);
        assert_eq!(error, Err(vector.error.as_str()), "{}", vector.name);
    }
}

/// What a whole hello's vectors, and those of a ticket, give beside the bytes.
#[derive(Deserialize)]
struct OfKey {
    key: Octets,
}

/// Replays a hello: each side's state machine is given the other's frame of the vector.
fn shake_hands(bytes: &[u8], key: &SecretKey) -> Result<(), HandshakeError> {
    let (hello_body, rest) = bytes.split_at(HELLO_LEN);
    let (reply_body, proof_body) = rest.split_at(HELLO_REPLY_LEN);
    let hello = Hello::from_body(hello_body).unwrap();
    let reply = HelloReply::from_body(reply_body).unwrap();
    let proof = HelloProof::from_body(proof_body).unwrap();
    let identity = |role, cluster_id, start| Identity {
        role,
        cluster_id,
        start,
    };
    let framed = |bytes: &[u8]| {
        let mut deframer = Deframer::new(hello.plane);
        deframer.buffer().extend_from_slice(bytes);
        deframer.next_frame().unwrap().unwrap()
    };

    let ours = identity(hello.role, hello.cluster_id, hello.start);
    let (mut dialer, sent) = Dialer::new(ours, hello.plane, key.clone(), hello.nonce);
    assert_eq!(framed(&sent).body, hello_body);
    let sent = dialer.handle_reply(&framed(&frame(&reply, 0)))?;

    let theirs = identity(reply.role, reply.cluster_id, reply.start);
    let mut listener = Listener::new(theirs, reply.plane, key.clone(), reply.nonce);
    let answered = listener.handle_hello(&framed(&frame(&hello, 0)))?;
    assert_eq!(framed(&answered).body, reply_body);
    listener.handle_proof(&framed(&frame(&proof, 0)))?;
    assert_eq!(framed(&sent).body, proof_body);
    Ok(())
}

#[test]
fn hello_exchanges() {
    let file = VectorFile::read("hello.toml");
    let accepted = file.accepted.iter();
    for vector in accepted.filter(|one| one.kind == "hello_exchange") {
        let given: OfKey = vector.given();
        let shaken = shake_hands(&vector.bytes(), &given.key.key());
        assert_eq!(shaken, Ok(()), "{}", vector.name);
    }
    let rejected = file.rejected.iter();
    for vector in rejected.filter(|one| one.kind == "hello_exchange") {
        let given: OfKey = vector.given();
        let shaken = shake_hands(&vector.bytes(), &given.key.key());
        let error = shaken.map_err(|error| error.status().name());
        assert_eq!(error, Err(vector.error.as_str()), "{}", vector.name);
    }
}

#[derive(Deserialize)]
struct TicketFields {
    rights: u8,
    key_id: u32,
    handle: Word,
    version: Word,
    expiry: Word,
    file_id: Word,
    session: Word,
    epoch: Word,
    chain_crc: u32,
}

/// The ticket in a vector, and only that.
fn decode_ticket(bytes: &[u8]) -> Result<Ticket, BodyError> {
    let mut input = Decoder::new(bytes);
    let ticket = input.take()?;
    input.finish()?;
    Ok(ticket)
}

#[test]
fn tickets_as_fields() {
    let file = VectorFile::read("tickets.toml");
    for vector in file.accepted {
        let name = &vector.name;
        let fields: TicketFields = vector.fields();
        let ticket = decode_ticket(&vector.bytes()).unwrap();
        let mut out = Encoder::new();
        out.put(&ticket);
        assert_eq!(out.into_bytes(), vector.bytes(), "{name}");
        let claims = ticket.unverified_claims();
        for (bit, right) in [(1, Rights::READ), (2, Rights::WRITE), (4, Rights::COPY)] {
            let listed = fields.rights & bit != 0;
            assert_eq!(claims.rights.allow(right), listed, "{name}");
        }
        assert_eq!(claims.key_id, fields.key_id, "{name}");
        assert_eq!(claims.handle.0, fields.handle.0, "{name}");
        assert_eq!(claims.version.0, fields.version.0, "{name}");
        assert_eq!(claims.expiry, fields.expiry.0, "{name}");
        assert_eq!(claims.file_id.0, fields.file_id.0, "{name}");
        assert_eq!(claims.session.0, fields.session.0, "{name}");
        assert_eq!(claims.epoch, fields.epoch.0, "{name}");
        assert_eq!(claims.chain_crc, fields.chain_crc, "{name}");
    }
    for vector in file.rejected.iter().filter(|one| one.kind == "ticket") {
        let error = decode_ticket(&vector.bytes()).map_err(BodyError::name);
        assert_eq!(error, Err(vector.error.as_str()), "{}", vector.name);
    }
}

/// What a checked ticket's vectors give beside the bytes.
#[derive(Deserialize)]
struct OfTicket {
    key: Octets,
    handle: Word,
    version: Word,
    right: u8,
    now: Word,
    chain: Option<Vec<Word>>,
}

/// Checks a ticket as a chunkserver does.
fn verify(bytes: &[u8], given: &OfTicket) -> Result<(), &'static str> {
    let ticket = decode_ticket(bytes).map_err(BodyError::name)?;
    let right = match given.right {
        1 => Rights::READ,
        2 => Rights::WRITE,
        4 => Rights::COPY,
        other => panic!("no right {other}"),
    };
    let claims = ticket
        .verify(
            &given.key.key(),
            right,
            ChunkHandle(given.handle.0),
            ChunkVersion(given.version.0),
            given.now.0,
        )
        .map_err(|error| match error {
            TicketError::Expired => "ticket_expired",
            _ => "ticket_invalid",
        })?;
    match &given.chain {
        Some(chain) if servers_crc(chain.iter().map(|one| ServerId(one.0))) != claims.chain_crc => {
            Err("ticket_invalid")
        }
        _ => Ok(()),
    }
}

#[test]
fn tickets_as_a_chunkserver_checks_them() {
    let file = VectorFile::read("tickets.toml");
    let accepted = file.accepted.iter();
    for vector in accepted.filter(|one| one.kind == "signed_ticket") {
        let verdict = verify(&vector.bytes(), &vector.given());
        assert_eq!(verdict, Ok(()), "{}", vector.name);
    }
    let rejected = file.rejected.iter();
    for vector in rejected.filter(|one| one.kind == "signed_ticket") {
        let verdict = verify(&vector.bytes(), &vector.given());
        assert_eq!(verdict, Err(vector.error.as_str()), "{}", vector.name);
    }
}
