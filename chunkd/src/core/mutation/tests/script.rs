//! One replica, asked step by step: what it wants done, exactly.

use std::time::Duration;

use bytes::Bytes;
use sarsen_protocol::crc::crc32;
use sarsen_protocol::id::{
    ChunkVersion, DirectoryId, FileId, Serial, ServerId, SessionId, StartNumber,
};
use sarsen_protocol::message::{
    Append, AppendItem, AppendResult, Appended, BatchRow, Begin, ChainTrouble, GrantLease, Level,
    Mark, MutationKind, Promise, ReportChain, RevokeLease, WriteAck, WriteBatch, WriteOpen,
};
use sarsen_protocol::status::Status;

use super::super::super::member::{self, Done, Member};
use super::super::{Action, Answer, Frame, Mutations, Order, Replica, Reply, StreamId};
use super::harness::{CHUNK, EPOCH, HANDLE, client_open, config, hop, me, request, ticket};
use super::toy::{BASE, Toy};

pub(super) const NOW: Duration = Duration::from_secs(10);
pub(super) const V: ChunkVersion = ChunkVersion(2);
pub(super) const BEGIN: Serial = Serial(BASE);
pub(super) const UP: StreamId = StreamId(77);
pub(super) const LEASE: u32 = 60_000;

pub(super) fn actions(replica: &mut Replica) -> Vec<Action> {
    turn_at(replica, NOW)
}

/// Takes a turn with an empty table.
pub(super) fn turn_at(replica: &mut Replica, now: Duration) -> Vec<Action> {
    replica.take_turn(now, &());
    std::iter::from_fn(|| replica.poll_action()).collect()
}

pub(super) fn promise(version: u64) -> Order {
    Order::Change(member::Order::Promise(Promise {
        epoch: EPOCH,
        handle: HANDLE,
        version: ChunkVersion(version),
    }))
}

fn begin(memory: bool) -> Order {
    begin_at(V, BEGIN, memory)
}

pub(super) fn begin_at(version: ChunkVersion, serial: Serial, memory: bool) -> Order {
    Order::Change(member::Order::Begin(Begin {
        epoch: EPOCH,
        handle: HANDLE,
        version,
        serial,
        start_number: StartNumber(1),
        directory_id: DirectoryId([7; 16]),
        memory,
        create: None,
    }))
}

pub(super) fn grant(members: usize, memory: bool) -> Order {
    Order::Grant(Box::new(GrantLease {
        epoch: EPOCH,
        handle: HANDLE,
        version: V,
        begin_serial: BEGIN,
        memory,
        closed: false,
        lease: LEASE,
        ticket: ticket(),
        chain: (0..members).map(hop).collect(),
        file_id: FileId(8),
        index: 2,
        lock_token: 0,
    }))
}

pub(super) fn revoke() -> Order {
    Order::Revoke(RevokeLease {
        epoch: EPOCH,
        handle: HANDLE,
        version: V,
    })
}

/// A member of version 2, begun.
pub(super) fn begun(server: usize, memory: bool) -> Replica {
    let member = Member::recovered(HANDLE, me(server, 1), &Toy::new().found());
    let mut replica = Replica::new(member, config());
    replica.handle_order(NOW, 1, promise(2));
    replica.handle_done(NOW, Done::PromiseKept { length: 0, ids: 0 });
    replica.handle_order(NOW, 1, begin(memory));
    replica.handle_done(NOW, Done::Begun { length: 0 });
    let _ = actions(&mut replica);
    replica
}

/// A primary whose chain is open, with room for a megabyte, and one client's stream 1.
pub(super) fn primary(members: usize, memory: bool) -> Replica {
    let mut replica = begun(0, memory);
    replica.handle_order(NOW, 1, grant(members, memory));
    replica.handle_next_opened(NOW, V);
    let _ = actions(&mut replica);
    replica.handle_reserved(NOW, CHUNK);
    open_client(&mut replica, 1);
    replica
}

pub(super) fn open_client(replica: &mut Replica, stream: u64) {
    replica.handle_open(NOW, StreamId(stream), client_open(2, vec![hop(0)]));
    let opened = Action::Send {
        stream: StreamId(stream),
        reply: Reply::Opened,
    };
    assert_eq!(actions(replica), [opened]);
}

pub(super) fn chain_open(position: u8, members: usize, memory: bool) -> WriteOpen {
    WriteOpen {
        position,
        begin_serial: BEGIN,
        level: if memory { Level::Memory } else { Level::Disk },
        chain: (0..members).map(hop).collect(),
        ..client_open(2, vec![])
    }
}

/// The second of three, its chain open.
pub(super) fn middle(memory: bool) -> Replica {
    let mut replica = begun(1, memory);
    replica.handle_open(NOW, UP, chain_open(1, 3, memory));
    let dial = Action::DialNext {
        hop: hop(2),
        open: Box::new(chain_open(2, 3, memory)),
    };
    assert_eq!(actions(&mut replica), [dial]);
    replica.handle_next_opened(NOW, V);
    let opened = Action::Send {
        stream: UP,
        reply: Reply::Opened,
    };
    assert_eq!(actions(&mut replica), [opened]);
    replica
}

/// An append of records of one session.
pub(super) fn append(level: Level, lowest: u64, records: &[(u64, &[u8])]) -> (Append, Bytes) {
    let append = Append {
        handle: HANDLE,
        version: V,
        session: SessionId(5),
        lowest_outstanding: lowest,
        level,
        part: None,
        items: records
            .iter()
            .map(|(number, bytes)| AppendItem {
                number: *number,
                length: u32::try_from(bytes.len()).unwrap(),
            })
            .collect(),
        crcs: records
            .iter()
            .flat_map(|(_, bytes)| bytes.chunks(65_536))
            .map(crc32)
            .collect(),
    };
    let bytes: Vec<u8> = records
        .iter()
        .flat_map(|(_, bytes)| *bytes)
        .copied()
        .collect();
    (append, Bytes::from(bytes))
}

pub(super) fn ask(replica: &mut Replica, level: Level, records: &[(u64, &[u8])]) {
    let (append, payload) = append(level, 1, records);
    replica.handle_append(NOW, StreamId(1), append, payload);
}

pub(super) fn row(number: u64, offset: u32, length: u32) -> BatchRow {
    BatchRow {
        request: request(5, number, 1),
        kind: MutationKind::Append,
        offset,
        length,
    }
}

/// Records of three bytes, from the number and place on.
pub(super) fn batch(first: u64, mark: u64, level: Level, numbers: &[u64]) -> WriteBatch {
    let before = u32::try_from(first - BASE - 1).unwrap();
    let rows: Vec<BatchRow> = numbers
        .iter()
        .zip(before..)
        .map(|(number, at)| row(*number, 3 * at, 3))
        .collect();
    WriteBatch {
        handle: HANDLE,
        version: V,
        first_serial: Serial(first),
        commit_mark: Serial(mark),
        part: None,
        level,
        crcs: vec![crc32(b"abc"); rows.len()],
        rows,
    }
}

pub(super) fn payload(rows: usize) -> Bytes {
    Bytes::from(b"abc".repeat(rows))
}

pub(super) fn applied_of(batch: &WriteBatch) -> Action {
    Action::Apply(Mutations {
        version: V,
        first: batch.first_serial,
        rows: batch.rows.clone(),
        crcs: batch.crcs.clone(),
        payload: vec![payload(batch.rows.len())],
    })
}

pub(super) fn sent_on(batch: &WriteBatch) -> Action {
    let payload = vec![payload(batch.rows.len())];
    Action::SendNext(Frame::Batch(batch.clone(), payload))
}

pub(super) fn ack(serial: u64, mark: u64, level: Level, copies: u8) -> WriteAck {
    WriteAck {
        serial: Serial(serial),
        commit_mark: Serial(mark),
        level,
        copies,
    }
}

pub(super) fn answered(stream: u64, results: &[AppendResult]) -> Action {
    Action::Send {
        stream: StreamId(stream),
        reply: Reply::Appended(Appended {
            version: V,
            results: results.to_vec(),
        }),
    }
}

pub(super) fn done(number: u64, serial: u64, level: Level, copies: u8) -> AppendResult {
    AppendResult {
        number,
        status: 0,
        level,
        copies,
        offset: 3 * u32::try_from(serial - BASE - 1).unwrap(),
        length: 3,
        serial: Serial(serial),
    }
}

pub(super) fn refused(number: u64, status: Status, level: Level) -> AppendResult {
    AppendResult {
        number,
        status: status.number(),
        level,
        copies: 0,
        offset: 0,
        length: 0,
        serial: Serial(0),
    }
}

pub(super) fn report(replica: &Replica, what: ChainTrouble, blamed: u64, status: Status) -> Action {
    Action::Report(ReportChain {
        handle: HANDLE,
        version: V,
        serial: replica.member().has().1,
        what,
        blamed: ServerId(blamed),
        status: status.number(),
    })
}

/// How streams that failed ended: each with its status.
pub(super) fn failures(actions: &[Action]) -> Vec<(StreamId, Status)> {
    let failed = |action: &Action| match action {
        Action::Send {
            stream,
            reply: Reply::Failed { status, .. },
        } => Some((*stream, *status)),
        _ => None,
    };
    actions.iter().filter_map(failed).collect()
}

pub(super) fn answers(actions: &[Action]) -> Vec<(u64, Result<Answer, Status>)> {
    let answer = |action: &Action| match action {
        Action::Answer { to, answer } => {
            Some((*to, (**answer).clone().map_err(|(status, _)| status)))
        }
        _ => None,
    };
    actions.iter().filter_map(answer).collect()
}

pub(super) fn mark(mark: u64, number: u64) -> Mark {
    Mark {
        handle: HANDLE,
        version: V,
        commit_mark: Serial(mark),
        number,
    }
}
