//! Mutation streams on real servers: orders from here, records from scripted clients, what is left
//! read back from each member.

use std::collections::BTreeSet;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use sarsen_chunkd::core::member::{self, Refusal};
use sarsen_chunkd::core::mutation::{Answer, Order};
use sarsen_chunkd::io::Mode;
use sarsen_chunkd::net::Notice;
use sarsen_chunkd::net::chunkserver::wall_clock;
use sarsen_protocol::crc::crc32;
use sarsen_protocol::deframe::frame;
use sarsen_protocol::header::Header;
use sarsen_protocol::id::{ChunkHandle, ChunkVersion, Epoch, RequestId, Serial, SessionId};
use sarsen_protocol::key::SecretKey;
use sarsen_protocol::message::{
    Append, AppendItem, AppendResult, Appended, BatchRow, Begin, ChainTrouble, ChunkState, Crcs,
    GrantLease, Hop, Kind, Level, Mark, Message as _, MutationKind, NewChunk, Newest, NewestReply,
    Part, Promise, Promised, Read, ReadData, RevokeLease, Want, WriteAck, WriteBatch, WriteData,
    WriteOpen, WriteOpened,
};
use sarsen_protocol::status::Status;
use sarsen_protocol::ticket::{Rights, Ticket};

use crate::cluster::{CHUNK_SIZE, Cluster, FILE, Server, modes, ticket_of};
use crate::peer::{PATIENCE, Peer, bytes, crcs_of};

pub(crate) const HANDLE: ChunkHandle = ChunkHandle(0x51);

pub(crate) const EPOCH: Epoch = Epoch {
    number: 1,
    incarnation: 9,
};

/// Where a chunk that is made begins.
pub(crate) const BEGIN: Serial = Serial(1);

const SUSPECT_AFTER: Duration = Duration::from_secs(2);

pub(crate) fn hour() -> u64 {
    wall_clock() + 3_600_000
}

pub(crate) fn write_ticket(version: ChunkVersion, chain: &[Hop]) -> Ticket {
    ticket_of(Rights::WRITE, (HANDLE, version), chain, hour())
}

/// What a server answers to an order.
pub(crate) fn ask(server: &Server, order: Order) -> Result<Answer, Refusal> {
    let (told, answer) = mpsc::channel();
    let members = &server.chunkserver.members;
    let tell = move |answer| drop(told.send(answer));
    members
        .order(&server.chunkserver, order, tell)
        .expect("the chunk is known");
    answer.recv_timeout(PATIENCE).expect("an answer")
}

pub(crate) fn make(
    server: &Server,
    version: ChunkVersion,
    memory: bool,
) -> Result<Answer, Refusal> {
    let identity = server.directory.identity();
    let begin = Begin {
        epoch: EPOCH,
        handle: HANDLE,
        version,
        serial: BEGIN,
        start_number: identity.start_number,
        directory_id: identity.directory_id,
        memory,
        create: Some(NewChunk {
            file_id: FILE,
            index: 0,
            chunk_size: CHUNK_SIZE,
            clone: None,
        }),
    };
    ask(server, Order::Change(member::Order::Begin(begin)))
}

pub(crate) fn promise(server: &Server, version: ChunkVersion) -> Result<Promised, Refusal> {
    let promise = Promise {
        epoch: EPOCH,
        handle: HANDLE,
        version,
    };
    match ask(server, Order::Change(member::Order::Promise(promise)))? {
        Answer::Change(member::Answer::Promised(promised)) => Ok(promised),
        other => panic!("{other:?} to a promise"),
    }
}

pub(crate) fn begin(
    server: &Server,
    version: ChunkVersion,
    serial: Serial,
) -> Result<Answer, Refusal> {
    let identity = server.directory.identity();
    let begin = Begin {
        epoch: EPOCH,
        handle: HANDLE,
        version,
        serial,
        start_number: identity.start_number,
        directory_id: identity.directory_id,
        memory: true,
        create: None,
    };
    ask(server, Order::Change(member::Order::Begin(begin)))
}

pub(crate) fn grant(
    server: &Server,
    version: ChunkVersion,
    serial: Serial,
    chain: &[Hop],
    lock_token: u64,
) {
    let grant = GrantLease {
        epoch: EPOCH,
        handle: HANDLE,
        version,
        begin_serial: serial,
        memory: true,
        closed: false,
        lease: 60_000,
        ticket: write_ticket(version, chain),
        chain: chain.to_vec(),
        file_id: FILE,
        index: 0,
        lock_token,
    };
    assert_eq!(
        ask(server, Order::Grant(Box::new(grant))),
        Ok(Answer::Granted)
    );
}

pub(crate) const FIRST: ChunkVersion = ChunkVersion(4);

/// A chunk that all servers have begun, and the first one's lease.
pub(crate) fn opened(mode: Mode, servers: u64, suspect_after: Duration) -> (Cluster, Vec<Hop>) {
    let cluster = Cluster::start_with(mode, servers, suspect_after);
    let chain = cluster.chain();
    for server in &cluster.servers {
        make(server, FIRST, true).expect("made");
    }
    grant(&cluster.servers[0], FIRST, BEGIN, &chain, 0);
    (cluster, chain)
}

/// One client with a stream of its own.
pub(crate) struct Client {
    peer: Peer,
    session: SessionId,
    version: ChunkVersion,
    last: u64,
}

impl Client {
    fn dial(cluster: &Cluster, session: u64, version: ChunkVersion) -> Self {
        Self {
            peer: Peer::dial(cluster.address(0)),
            session: SessionId(session),
            version,
            last: 0,
        }
    }

    pub(crate) fn opened(
        cluster: &Cluster,
        session: u64,
        version: ChunkVersion,
        begin: Serial,
        chain: &[Hop],
    ) -> Self {
        let mut client = Self::dial(cluster, session, version);
        client.open(write_ticket(version, chain), begin, chain);
        let WriteOpened = client.expect();
        client
    }

    fn open(&mut self, ticket: Ticket, begin: Serial, chain: &[Hop]) {
        let open = WriteOpen {
            ticket,
            handle: HANDLE,
            version: self.version,
            file_id: FILE,
            index: 0,
            room: 0,
            begin_serial: begin,
            lock_token: 0,
            level: Level::Disk,
            position: 0,
            chain: chain.to_vec(),
        };
        self.peer.send(&frame(&open, self.peer.request_id));
    }

    fn send(&mut self, kind: Kind, body: &[u8], payload: &[u8]) {
        let len = u32::try_from(payload.len()).expect("small");
        let header = Header::new(kind, Status::Ok, self.peer.request_id, body, len);
        let whole = [&header.encode()[..], body, payload].concat();
        self.peer.send(&whole);
    }

    /// Sends records under the next numbers.
    pub(crate) fn append(&mut self, level: Level, records: &[&[u8]]) {
        let first = self.last + 1;
        self.last += records.len() as u64;
        self.append_as(first, level, records);
    }

    fn append_as(&mut self, first: u64, level: Level, records: &[&[u8]]) {
        let items = (first..).zip(records).map(|(number, record)| AppendItem {
            number,
            length: u32::try_from(record.len()).expect("small"),
        });
        let append = Append {
            handle: HANDLE,
            version: self.version,
            session: self.session,
            lowest_outstanding: 1,
            level,
            part: None,
            items: items.collect(),
            crcs: records
                .iter()
                .flat_map(|record| crcs_of(0, record))
                .collect(),
        };
        self.send(Kind::Append, &append.to_body(), &records.concat());
    }

    pub(crate) fn write(&mut self, serial: u64, number: u64, offset: u32, payload: &[u8]) {
        let write = self.write_of(serial, number, offset, payload);
        self.send(Kind::WriteData, &write.to_body(), payload);
    }

    /// Sends the first write up to `len` bytes of its payload, and leaves it there.
    pub(crate) fn begin_write(&mut self, payload: &[u8], len: usize) {
        let body = self.write_of(1, 1, 0, payload).to_body();
        let payload_len = u32::try_from(payload.len()).expect("small");
        let id = self.peer.request_id;
        let header = Header::new(Kind::WriteData, Status::Ok, id, &body, payload_len);
        let begun = [&header.encode()[..], &body, &payload[..len]].concat();
        self.peer.send(&begun);
    }

    /// Waits until its stream is closed; whether it is, before a test has no patience any more.
    pub(crate) fn is_closed_soon(&mut self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        while self.peer.recv().is_some() {
            if Instant::now() > deadline {
                return false;
            }
        }
        true
    }

    fn write_of(&self, serial: u64, number: u64, offset: u32, payload: &[u8]) -> WriteData {
        WriteData {
            handle: HANDLE,
            version: self.version,
            serial: Serial(serial),
            commit_mark: Serial::NONE,
            request: Some(RequestId {
                session: self.session,
                number,
                lowest_outstanding: 1,
            }),
            offset,
            level: Level::Memory,
            crcs: Crcs::new(&crcs_of(offset, payload)).expect("few pieces"),
        }
    }

    /// The next frame that is no keep-alive.
    pub(crate) fn expect<M: sarsen_protocol::message::Message>(&mut self) -> M {
        loop {
            let frame = self.peer.recv().expect("a frame");
            let status = frame.header.status;
            assert!(status.is_ok(), "{status:?}: {:?}", frame.error());
            if frame.header.kind == Kind::WriteAck && M::KIND != Kind::WriteAck {
                continue;
            }
            return frame.message().expect("the message that is due");
        }
    }

    /// The results of so many records, by their numbers.
    pub(crate) fn results(&mut self, count: usize) -> Vec<AppendResult> {
        let mut results = Vec::new();
        while results.len() < count {
            let appended: Appended = self.expect();
            assert_eq!(appended.version, self.version);
            results.extend(appended.results);
        }
        results.sort_unstable_by_key(|result| result.number);
        results
    }
}

/// All bytes of the chunk, as a member reads them to who has seen this state.
fn read(
    cluster: &Cluster,
    index: usize,
    (version, serial): (ChunkVersion, Serial),
) -> Result<(ReadData, Vec<u8>), Status> {
    read_as(cluster, index, (version, serial), Want::Plain)
}

pub(crate) fn read_as(
    cluster: &Cluster,
    index: usize,
    (version, serial): (ChunkVersion, Serial),
    want: Want,
) -> Result<(ReadData, Vec<u8>), Status> {
    let mut peer = Peer::dial(cluster.address(index));
    let read = Read {
        ticket: ticket_of(Rights::READ, (HANDLE, version), &[], hour()),
        handle: HANDLE,
        version,
        serial,
        want,
        offset: 0,
        length: CHUNK_SIZE,
    };
    peer.send(&frame(&read, peer.request_id));
    let mut bytes = Vec::new();
    let mut first: Option<ReadData> = None;
    loop {
        let frame = peer.recv().expect("an answer");
        if !frame.header.status.is_ok() {
            return Err(frame.header.status);
        }
        let data: ReadData = frame.message().expect("data");
        assert_eq!(data.crcs.as_slice(), crcs_of(data.offset, &frame.payload));
        assert_eq!(data.offset as usize, bytes.len());
        bytes.extend_from_slice(&frame.payload);
        let is_last = data.last;
        let first = first.get_or_insert(data);
        if is_last {
            return Ok((*first, bytes));
        }
    }
}

/// As [`read`], for as long as the commit mark is on its way.
fn read_soon(
    cluster: &Cluster,
    index: usize,
    at_least: (ChunkVersion, Serial),
) -> (ReadData, Vec<u8>) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match read(cluster, index, at_least) {
            Ok(read) => return read,
            Err(Status::Behind) => assert!(Instant::now() < deadline, "it never comes so far"),
            Err(status) => panic!("{status}"),
        }
        std::thread::yield_now();
    }
}

/// Records of many lengths, over block edges too.
pub(crate) fn records(seed: usize, count: usize) -> Vec<Vec<u8>> {
    let all = bytes(200_000);
    (0..count)
        .map(|n| {
            let len = [1, 100, 1024, 5000, 40_000, 70_000][(n + seed) % 6];
            all[seed * 1000 + n..][..len].to_vec()
        })
        .collect()
}

pub(crate) fn slices(records: &[Vec<u8>]) -> Vec<&[u8]> {
    records.iter().map(Vec::as_slice).collect()
}

#[test]
fn what_two_clients_append_is_on_all_members_in_one_order() {
    for mode in modes() {
        let (cluster, chain) = opened(mode, 3, PATIENCE);
        let mut clients = [1, 2].map(|n| Client::opened(&cluster, n, FIRST, BEGIN, &chain));
        let records = [records(1, 30), records(2, 30)];
        for round in 0..3 {
            for (client, records) in clients.iter_mut().zip(&records) {
                let level = [Level::Memory, Level::Disk, Level::Memory][round];
                client.append(level, &slices(&records[round * 10..][..10]));
            }
        }
        let mut last = Serial::NONE;
        let mut expected: Vec<(u32, &[u8])> = Vec::new();
        for (client, records) in clients.iter_mut().zip(&records) {
            let results = client.results(30);
            for (n, (result, record)) in results.iter().zip(records).enumerate() {
                assert_eq!((result.status, result.copies), (0, 3));
                assert_eq!(
                    (result.number, result.length as usize),
                    (n as u64 + 1, record.len())
                );
                last = last.max(result.serial);
                expected.push((result.offset, record));
            }
        }
        expected.sort_unstable();
        let whole: Vec<u8> = expected
            .iter()
            .flat_map(|(_, record)| *record)
            .copied()
            .collect();
        let offsets: BTreeSet<u32> = expected.iter().map(|(offset, _)| *offset).collect();
        assert_eq!(offsets.len(), 60);
        for index in 0..3 {
            let (data, bytes) = read_soon(&cluster, index, (FIRST, last));
            assert_eq!((data.state, data.version), (ChunkState::Open, FIRST));
            assert_eq!(crc32(&bytes), crc32(&whole), "member {index}");
            assert_eq!(bytes, whole);
        }
        let (data, bytes) = read_as(&cluster, 0, (FIRST, BEGIN), Want::Newest).expect("read");
        assert_eq!((data.serial, bytes.len()), (last, whole.len()));
        let newest = newest(&cluster.servers[0], FIRST);
        assert_eq!((newest.serial, newest.length as usize), (last, whole.len()));
    }
}

fn newest(server: &Server, version: ChunkVersion) -> NewestReply {
    let newest = Newest {
        ticket: ticket_of(Rights::READ, (HANDLE, version), &[], hour()),
        handle: HANDLE,
        version,
    };
    let (told, answer) = mpsc::channel();
    let tell = move |answer| drop(told.send(answer));
    let members = &server.chunkserver.members;
    members
        .newest(&server.chunkserver, newest, tell)
        .expect("known");
    match answer.recv_timeout(PATIENCE).expect("an answer") {
        Ok(Answer::Newest(reply)) => reply,
        other => panic!("{other:?}"),
    }
}

#[test]
fn writes_over_one_another_go_in_the_order_sent() {
    for mode in modes() {
        let (cluster, chain) = opened(mode, 2, PATIENCE);
        let mut client = Client::opened(&cluster, 1, FIRST, BEGIN, &chain);
        let mut model = vec![0; 300_000];
        let source = bytes(400_000);
        for n in 1..=40_usize {
            let (offset, len) = (n * 7919 % 200_000, [100, 70_000, 4096][n % 3]);
            let payload = &source[n * 1000..][..len];
            model[offset..][..len].copy_from_slice(payload);
            client.write(n as u64, n as u64, offset as u32, payload);
        }
        let acked = loop {
            let ack: WriteAck = client.expect();
            if ack.serial == Serial(40) {
                break ack.commit_mark;
            }
        };
        for index in 0..2 {
            let (data, bytes) = read_soon(&cluster, index, (FIRST, acked));
            assert_eq!(bytes, model[..data.chunk_length as usize], "member {index}");
        }
    }
}

/// A version ends in mid-stream; what was acknowledged is in the next one, once.
#[test]
fn a_promise_in_mid_stream_loses_and_doubles_nothing() {
    for mode in modes() {
        let (cluster, chain) = opened(mode, 3, PATIENCE);
        let mut client = Client::opened(&cluster, 1, FIRST, BEGIN, &chain);
        let records = records(3, 24);
        client.append(Level::Memory, &slices(&records[..12]));
        let before = client.results(12);
        client.append(Level::Memory, &slices(&records[12..18]));
        let next = ChunkVersion(5);
        let promised: Vec<Promised> = cluster
            .servers
            .iter()
            .map(|server| promise(server, next).expect("promised"))
            .collect();
        let lowest = promised.iter().map(|it| it.serial).min().expect("three");
        assert!(before.iter().all(|result| result.serial <= lowest));
        let refused = promise(&cluster.servers[1], FIRST).expect_err("older");
        assert_eq!(refused.0, Status::PromiseRefused);
        for server in &cluster.servers {
            begin(server, next, lowest).expect("begun");
        }
        grant(&cluster.servers[0], next, lowest, &chain, 0);
        // The same client, with what it has no answer for and one that it has.
        let mut again = Client::opened(&cluster, 1, next, lowest, &chain);
        again.append_as(12, Level::Disk, &slices(&records[11..24]));
        let results = again.results(13);
        assert_eq!(results[0].offset, before[11].offset, "it was done already");
        let answers = before[..11].iter().chain(&results);
        let mut end = 0;
        for (result, record) in answers.zip(&records) {
            assert_eq!((result.status, result.offset), (0, end));
            end += record.len() as u32;
        }
        let last = results
            .iter()
            .map(|result| result.serial)
            .max()
            .expect("some");
        for index in 0..3 {
            let (data, bytes) = read_soon(&cluster, index, (next, last));
            assert_eq!(data.chunk_length, end);
            assert_eq!(bytes, records.concat(), "member {index}");
        }
    }
}

/// The chain breaks: the client hears of it, the master too, and the others go on.
#[test]
fn a_hop_that_goes_is_reported_and_the_rest_go_on() {
    for mode in modes() {
        let (mut cluster, chain) = opened(mode, 3, SUSPECT_AFTER);
        let mut client = Client::opened(&cluster, 1, FIRST, BEGIN, &chain);
        let records = records(4, 12);
        client.append(Level::Memory, &slices(&records[..6]));
        let before = client.results(6);
        cluster.servers[2].kill();
        client.append(Level::Memory, &slices(&records[6..]));
        let (_, status, _) = client.peer.expect_failure();
        assert_eq!(status, Status::ChainBroken);
        client.peer.expect_closed();
        loop {
            if let Notice::ChainTrouble(report) = cluster.servers[1].notice() {
                assert_eq!(report.what, ChainTrouble::HopFailed);
                assert_eq!(
                    (report.version, report.blamed),
                    (FIRST, cluster.servers[2].id)
                );
                break;
            }
        }
        let (next, chain) = (ChunkVersion(6), &chain[..2]);
        let rest = &cluster.servers[..2];
        let promised = rest
            .iter()
            .map(|server| promise(server, next).expect("promised"));
        let lowest = promised.map(|it| it.serial).min().expect("two");
        assert!(before.iter().all(|result| result.serial <= lowest));
        for server in rest {
            begin(server, next, lowest).expect("begun");
        }
        grant(&rest[0], next, lowest, chain, 0);
        let mut again = Client::opened(&cluster, 1, next, lowest, chain);
        again.append_as(7, Level::Disk, &slices(&records[6..]));
        let results = again.results(6);
        let last = results
            .iter()
            .map(|result| result.serial)
            .max()
            .expect("some");
        assert!(results.iter().all(|result| result.copies == 2));
        for index in 0..2 {
            let (_, bytes) = read_soon(&cluster, index, (next, last));
            assert_eq!(bytes, records.concat(), "member {index}");
        }
    }
}

/// What was acknowledged at `disk` is there after a start, under the same serials, and the version
/// that it was in takes nothing more.
#[test]
fn a_start_finds_what_was_acknowledged_at_disk() {
    for mode in modes() {
        let (mut cluster, chain) = opened(mode, 2, PATIENCE);
        let mut client = Client::opened(&cluster, 1, FIRST, BEGIN, &chain);
        let records = records(5, 20);
        client.append(Level::Disk, &slices(&records));
        let results = client.results(20);
        let last = results
            .iter()
            .map(|result| result.serial)
            .max()
            .expect("some");
        drop(client);
        let servers = std::mem::take(&mut cluster.servers);
        let servers = servers
            .into_iter()
            .map(|server| server.restart(mode, PATIENCE));
        cluster.servers = servers.collect();
        let chain = cluster.chain();
        let held = cluster.servers[1].directory.told(HANDLE).expect("held");
        assert_eq!(
            (held.state, held.version, held.serial),
            (ChunkState::Open, FIRST, last)
        );
        let mut late = Client::dial(&cluster, 1, FIRST);
        late.open(write_ticket(FIRST, &chain), BEGIN, &chain);
        let (kind, status, _) = late.peer.expect_failure();
        assert_eq!(kind, Kind::WriteOpened);
        assert!(
            matches!(status, Status::NotPrimary | Status::PromiseRefused),
            "{status}"
        );
        assert_eq!(read(&cluster, 0, (FIRST, last)).err(), Some(Status::Behind));
        let next = ChunkVersion(5);
        for server in &cluster.servers {
            let promised = promise(server, next).expect("promised");
            assert_eq!((promised.version, promised.serial), (FIRST, last));
        }
        for server in &cluster.servers {
            begin(server, next, last).expect("begun");
        }
        grant(&cluster.servers[0], next, last, &chain, 0);
        let mut again = Client::opened(&cluster, 1, next, last, &chain);
        again.append_as(20, Level::Memory, &[&records[19], b"more"]);
        let after = again.results(2);
        assert_eq!(after[0].offset, results[19].offset, "it was done already");
        let (_, bytes) = read_soon(&cluster, 1, (next, after[1].serial));
        assert_eq!(bytes, [records.concat(), b"more".to_vec()].concat());
    }
}

#[test]
fn who_has_no_right_or_names_another_version_is_refused() {
    for mode in modes() {
        let (cluster, chain) = opened(mode, 2, PATIENCE);
        let refused = |version, ticket, begin| {
            let mut client = Client::dial(&cluster, 1, version);
            client.open(ticket, begin, &chain);
            let (kind, status, server) = client.peer.expect_failure();
            client.peer.expect_closed();
            assert_eq!((kind, server), (Kind::WriteOpened, 1));
            status
        };
        let pair = (HANDLE, FIRST);
        let expired = ticket_of(Rights::WRITE, pair, &chain, wall_clock() - 1);
        assert_eq!(refused(FIRST, expired, BEGIN), Status::TicketExpired);
        let claims = *write_ticket(FIRST, &chain).unverified_claims();
        let forged = Ticket::sign(claims, &SecretKey::new([77; 32]));
        assert_eq!(refused(FIRST, forged, BEGIN), Status::TicketInvalid);
        let of_reader = ticket_of(Rights::READ, pair, &chain, hour());
        assert_eq!(refused(FIRST, of_reader, BEGIN), Status::TicketInvalid);
        let of_other_chain = ticket_of(Rights::WRITE, pair, &chain[..1], hour());
        assert_eq!(refused(FIRST, of_other_chain, BEGIN), Status::TicketInvalid);
        let old = ChunkVersion(2);
        let status = refused(old, write_ticket(old, &chain), BEGIN);
        assert!(
            matches!(
                status,
                Status::PromiseRefused | Status::Moved | Status::NotPrimary
            ),
            "{status}"
        );
        // Nothing of that harmed anybody.
        let mut client = Client::opened(&cluster, 1, FIRST, BEGIN, &chain);
        client.append(Level::Memory, &[b"fine"]);
        assert_eq!(client.results(1)[0].status, 0);
    }
}

#[test]
fn a_chunk_that_is_not_here_takes_no_mutations() {
    for mode in modes() {
        let cluster = Cluster::start(mode, 1);
        let chain = cluster.chain();
        let mut client = Client::dial(&cluster, 1, FIRST);
        client.open(write_ticket(FIRST, &chain), BEGIN, &chain);
        let (kind, status, _) = client.peer.expect_failure();
        assert_eq!((kind, status), (Kind::WriteOpened, Status::ChunkUnknown));
        assert_eq!(cluster.servers[0].directory.chunk_count(), 0);
    }
}

#[test]
fn bad_records_are_refused_and_nothing_is_changed() {
    for mode in modes() {
        let (cluster, chain) = opened(mode, 2, PATIENCE);
        let mut client = Client::opened(&cluster, 1, FIRST, BEGIN, &chain);
        // A record that is longer than a quarter of a chunk.
        let whole = bytes(CHUNK_SIZE as usize / 4 + 1);
        for (n, bytes) in whole.chunks(1 << 20).enumerate() {
            let long = Append {
                handle: HANDLE,
                version: FIRST,
                session: SessionId(1),
                lowest_outstanding: 1,
                level: Level::Memory,
                part: Some(Part {
                    offset: (n as u32) << 20,
                    whole_length: whole.len() as u32,
                }),
                items: vec![AppendItem {
                    number: 1,
                    length: bytes.len() as u32,
                }],
                crcs: crcs_of(0, bytes),
            };
            client.send(Kind::Append, &long.to_body(), bytes);
        }
        let result = client.results(1)[0];
        assert_eq!(result.status, Status::RecordTooLarge.number());
        drop(client);
        // Bytes that are not those of their CRC.
        let mut liar = Client::opened(&cluster, 2, FIRST, BEGIN, &chain);
        let append = Append {
            handle: HANDLE,
            version: FIRST,
            session: SessionId(2),
            lowest_outstanding: 1,
            level: Level::Memory,
            part: None,
            items: vec![AppendItem {
                number: 1,
                length: 3,
            }],
            crcs: vec![7],
        };
        liar.send(Kind::Append, &append.to_body(), b"abc");
        let (_, status, _) = liar.peer.expect_failure();
        assert_eq!(status, Status::DamagedInTransit);
        // What only members send, and what is no frame at all.
        let mut forger = Client::opened(&cluster, 3, FIRST, BEGIN, &chain);
        let batch = WriteBatch {
            handle: HANDLE,
            version: FIRST,
            first_serial: Serial(2),
            commit_mark: BEGIN,
            part: None,
            level: Level::Memory,
            rows: vec![BatchRow {
                request: RequestId {
                    session: SessionId(3),
                    number: 1,
                    lowest_outstanding: 1,
                },
                kind: MutationKind::Append,
                offset: 0,
                length: 3,
            }],
            crcs: vec![crc32(b"abc")],
        };
        forger.send(Kind::WriteBatch, &batch.to_body(), b"abc");
        let (kind, status, _) = forger.peer.expect_failure();
        assert_eq!((kind, status), (Kind::Goodbye, Status::ProtocolError));
        let mut noise = Client::opened(&cluster, 4, FIRST, BEGIN, &chain);
        noise.peer.send(&bytes(100_000));
        noise.peer.expect_closed();
        let mut marker = Client::opened(&cluster, 5, FIRST, BEGIN, &chain);
        let mark = Mark {
            handle: HANDLE,
            version: FIRST,
            commit_mark: Serial(99),
            number: 1,
        };
        marker.send(Kind::Mark, &mark.to_body(), &[]);
        assert_eq!(marker.peer.expect_failure().1, Status::ProtocolError);
        let mut client = Client::opened(&cluster, 6, FIRST, BEGIN, &chain);
        client.append(Level::Disk, &[b"fine"]);
        let result = client.results(1)[0];
        assert_eq!((result.status, result.offset), (0, 0), "nothing was there");
    }
}

#[test]
fn a_lease_that_is_revoked_drains_and_never_goes_on() {
    for mode in modes() {
        let (cluster, chain) = opened(mode, 2, PATIENCE);
        let mut client = Client::opened(&cluster, 1, FIRST, BEGIN, &chain);
        client.append(Level::Memory, &[b"one", b"two"]);
        let results = client.results(2);
        let revoke = RevokeLease {
            epoch: EPOCH,
            handle: HANDLE,
            version: FIRST,
        };
        let answer = ask(&cluster.servers[0], Order::Revoke(revoke)).expect("revoked");
        let Answer::Revoked(revoked) = answer else {
            panic!("{answer:?}")
        };
        assert_eq!(revoked.serial, results[1].serial);
        let (_, status, _) = client.peer.expect_failure();
        assert_eq!(status, Status::PromiseRefused);
        let mut late = Client::dial(&cluster, 1, FIRST);
        late.open(write_ticket(FIRST, &chain), BEGIN, &chain);
        let (_, status, _) = late.peer.expect_failure();
        assert!(
            matches!(status, Status::PromiseRefused | Status::NotPrimary),
            "{status}"
        );
    }
}
