//! Registration: who is admitted, with which of its directories, and what is logged before it counts.

use super::*;

fn kinds(log: &[Entry]) -> Vec<&'static str> {
    log.iter().map(|entry| entry.command.name()).collect()
}

fn verdicts(reply: Result<AnyMessage, Failure>) -> Vec<u16> {
    let Ok(AnyMessage::Registered(reply)) = reply else {
        panic!("{reply:?}")
    };
    reply
        .directories
        .iter()
        .map(|verdict| verdict.status)
        .collect()
}

#[test]
fn a_new_server_and_its_directories_are_logged_before_it_counts() {
    let mut rig = Rig::new();
    let connection = ConnectionId(1);
    rig.machine.handle_connected(connection, Role::Chunkserver);
    let to = rig.send(connection, register(1));
    assert_eq!(kinds(&rig.log[3..]), [] as [&str; 0]);
    rig.actions();
    assert_eq!(kinds(&rig.log[3..]), ["server_registered"]);
    rig.machine.handle_flushed(4, rig.now);
    rig.actions();
    assert_eq!(kinds(&rig.log[4..]), ["directory_started"]);
    rig.machine.handle_flushed(5, rig.now);
    let reply = Registered {
        server_id: ServerId(1),
        epoch: Epoch {
            number: 1,
            incarnation: 7,
        },
        chunk_size: MIB,
        heartbeat: 1000,
        suspect_after: 3000,
        dead_after: 10_000,
        lease: 60_000,
        ticket_keys: vec![TicketKey {
            key_id: 5,
            key: [6; 32],
        }],
        directories: vec![Verdict {
            directory_id: DirectoryId([1; 16]),
            status: 0,
        }],
        repair_streams: 4,
    };
    assert_eq!(
        rig.actions(),
        [Action::Reply {
            to,
            reply: Ok(reply.into())
        }]
    );
}

#[test]
fn a_reconnect_logs_nothing_and_takes_over() {
    let mut rig = Rig::new();
    rig.server(1);
    let entries = rig.log.len();
    let second = ConnectionId(50);
    rig.machine.handle_connected(second, Role::Chunkserver);
    let (reply, others) = rig.exchange(
        second,
        Register {
            server_id: ServerId(1),
            ..register(1)
        },
    );
    assert_eq!(verdicts(reply), [0]);
    assert_eq!(rig.log.len(), entries);
    assert!(
        matches!(&others[..], [Action::Close { connection, .. }] if *connection == ConnectionId(1))
    );
    let (late, _) = rig.exchange(ConnectionId(1), heartbeat(1));
    assert_eq!(
        late.unwrap_err().status,
        Status::StaleEpoch,
        "the old one's word is void"
    );
    let (again, _) = rig.exchange(second, register(1));
    assert_eq!(again.unwrap_err().status, Status::InvalidArgument);
}

/// The answer to a first registration is lost with the connection; the server asks without an id.
#[test]
fn a_server_whose_first_answer_was_lost_gets_the_same_id() {
    let mut rig = Rig::new();
    rig.server(1);
    rig.machine.handle_disconnected(ConnectionId(1), rig.now);
    assert_eq!(rig.registered(1), ConnectionId(1));
    assert_eq!(rig.machine.state().servers.servers.len(), 1);
}

#[test]
fn a_copied_directory_changes_nothing() {
    let mut rig = Rig::new();
    rig.server(1);
    let mut copy = Register {
        server_id: ServerId(1),
        ..register(1)
    };
    copy.control_addr = "127.0.0.1:9".to_owned();
    copy.directories[0].start_nonce = StartNonce(99);
    let second = ConnectionId(50);
    rig.machine.handle_connected(second, Role::Chunkserver);
    let entries = rig.log.len();
    let (reply, others) = rig.exchange(second, copy);
    assert_eq!(verdicts(reply), [Status::StaleStart.number()]);
    assert_eq!((others, rig.log.len()), (vec![], entries));
    rig.beat(1);
    let (refused, _) = rig.exchange(second, heartbeat(1));
    assert_eq!(refused.unwrap_err().status, Status::StaleEpoch);
}

#[test]
fn one_stale_directory_does_not_spoil_the_others() {
    let mut rig = Rig::new();
    rig.server(1);
    let mut both = Register {
        server_id: ServerId(1),
        ..register(1)
    };
    both.directories[0].start_nonce = StartNonce(99);
    both.directories.push(register(2).directories.remove(0));
    let second = ConnectionId(50);
    rig.machine.handle_connected(second, Role::Chunkserver);
    let (reply, _) = rig.exchange(second, both);
    assert_eq!(verdicts(reply), [Status::StaleStart.number(), 0]);
}

/// The registration of server 1 at a start of its directory that knows of the starts `offered`.
pub(super) fn start(number: u64, nonce: u64, offered: &[u64]) -> Register {
    let mut register = register(1);
    register.server_id = ServerId(1);
    let report = &mut register.directories[0];
    (report.start_number, report.start_nonce) = (StartNumber(number), StartNonce(nonce));
    report.offered = offered.iter().copied().map(StartNonce).collect();
    report.offered.push(StartNonce(nonce));
    register
}

impl Rig {
    /// Registers over a connection: the verdict on the directory, or why there is none.
    pub(super) fn verdict(&mut self, connection: u64, register: Register) -> Status {
        let connection = ConnectionId(connection);
        self.machine.handle_connected(connection, Role::Chunkserver);
        match self.exchange(connection, register).0 {
            Ok(AnyMessage::Registered(reply)) => Status::from_number(reply.directories[0].status),
            Ok(other) => panic!("{other:?}"),
            Err(failure) => failure.status,
        }
    }

    pub(super) fn hang_up(&mut self, connection: u64) {
        self.machine
            .handle_disconnected(ConnectionId(connection), self.now);
    }
}

/// `spec/messages.md` section 9. A copy of a directory was found out at its first start. The second
/// had a higher number than the log and was admitted, and the original was the stale one then.
#[test]
fn a_copy_is_found_out_however_often_it_starts() {
    let mut rig = Rig::new();
    rig.servers(1);
    rig.hang_up(1);
    for number in 1..9 {
        // Copied before the start that the log has; it remembers its own starts only.
        let offered = Vec::from_iter((1..number).map(|number| 100 + number));
        let copy = start(number, 100 + number, &offered);
        assert_eq!(rig.verdict(50, copy), Status::StaleStart, "start {number}");
        rig.hang_up(50);
    }
    assert_eq!(rig.verdict(51, start(1, 1, &[])), Status::Ok);
}

/// A start whose registration was logged without an answer is not a stranger's.
#[test]
fn a_start_knows_the_one_before_by_its_registration_or_by_its_offer() {
    let mut rig = Rig::new();
    rig.servers(1);
    rig.hang_up(1);
    assert_eq!(rig.verdict(2, start(2, 77, &[1])), Status::Ok);
    rig.hang_up(2);
    let mut next = start(3, 78, &[]);
    next.directories[0].registered_number = StartNumber(2);
    next.directories[0].registered_nonce = StartNonce(77);
    assert_eq!(rig.verdict(3, next), Status::Ok);
}

/// A copy made while the original runs knows all that the original knows. It was let in, and the
/// original was turned away for good.
#[test]
fn a_copy_waits_while_the_original_lives() {
    let mut rig = Rig::new();
    rig.servers(1);
    let copy = start(2, 77, &[1]);
    assert_eq!(rig.verdict(50, copy.clone()), Status::Overloaded);
    rig.beat(1);
    assert_eq!(rig.verdict(50, copy.clone()), Status::Overloaded);
    // The server's machine is gone without a word, and this is its next start.
    rig.now.elapsed += config().dead_after;
    assert_eq!(rig.verdict(50, copy), Status::Ok);
}

/// A connection was lost while the entry of its new server was on its way to the disk. The next one
/// got a second id, and its directories could be logged under the first.
#[test]
fn a_registration_waits_for_the_one_before_it() {
    let mut rig = Rig::new();
    for connection in [1, 2] {
        rig.machine
            .handle_connected(ConnectionId(connection), Role::Chunkserver);
    }
    rig.send(ConnectionId(1), register(1));
    rig.hang_up(1);
    assert_eq!(rig.verdict(2, register(1)), Status::Overloaded);
    assert_eq!(rig.verdict(2, register(1)), Status::Ok);
    assert_eq!(rig.get(Report).servers.len(), 1);
}

/// A start without a number, or of a directory without an id, can't be read back from the log:
/// one such entry, and the master never started again.
#[test]
fn a_directory_without_id_or_start_is_refused() {
    let mut rig = Rig::new();
    let spoil: [fn(&mut DirectoryReport); 2] = [
        |report| report.start_number = StartNumber(0),
        |report| {
            report.directory_id = DirectoryId::NONE;
            report.disk.directory_id = DirectoryId::NONE;
        },
    ];
    for (connection, spoil) in (50..).map(ConnectionId).zip(spoil) {
        rig.machine.handle_connected(connection, Role::Chunkserver);
        let mut request = register(1);
        spoil(&mut request.directories[0]);
        let (reply, _) = rig.exchange(connection, request);
        assert_eq!(reply.unwrap_err().status, Status::InvalidArgument);
    }
    assert!(!kinds(&rig.log).contains(&"server_registered"));
}
