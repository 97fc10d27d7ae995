use super::*;
use sarsen_protocol::id::{FileId, SessionId};
use sarsen_protocol::key::SecretKey;
use sarsen_protocol::message::ChunkState;
use sarsen_protocol::ticket::{Claims, Rights, Ticket};

const MIB: u32 = 1024 * 1024;
const PATIENCE: Duration = Duration::from_secs(30);

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn plan(range: Range<u64>, streams_max: usize) -> Plan {
    Plan {
        range,
        chunk_size: MIB,
        streams_max,
        rewindable: true,
        patience: PATIENCE,
        seed: 1,
    }
}

/// A download of `chunks` whole chunks.
fn download(chunks: u32, streams_max: usize) -> Download {
    Download::new(plan(0..u64::from(chunks * MIB), streams_max)).unwrap()
}

fn chunk(index: u32, servers: &[u64]) -> LocatedChunk {
    let handle = ChunkHandle(100 + u64::from(index));
    let claims = Claims {
        rights: Rights::READ,
        key_id: 1,
        handle,
        version: ChunkVersion(1),
        expiry: 0,
        file_id: FileId(1),
        session: SessionId::NONE,
        epoch: 1,
        chain_crc: 0,
    };
    LocatedChunk {
        index,
        handle,
        version: ChunkVersion(1),
        length: MIB,
        crc32: 0,
        state: ChunkState::Sealed,
        primary: ServerId::NONE,
        ticket: Ticket::sign(claims, &SecretKey::new([0; 32])),
        replicas: servers
            .iter()
            .map(|&id| Replica {
                server: ServerId(id),
                control_addr: String::new(),
                data_addr: format!("s:{id}"),
            })
            .collect(),
    }
}

fn actions(download: &mut Download, now: Duration) -> Vec<Action> {
    std::iter::from_fn(|| download.poll(now)).collect()
}

fn locate(first_index: u32, count: u32) -> Action {
    Action::Locate { first_index, count }
}

/// The chunk and server of each fetch; panics at anything else.
fn fetches(actions: &[Action]) -> Vec<(u32, u64)> {
    let fetch = |action: &Action| match action {
        Action::Fetch(fetch) => (fetch.chunk.index, fetch.replica.server.0),
        other => panic!("{other:?} is no fetch"),
    };
    actions.iter().map(fetch).collect()
}

/// One chunk on three servers, being read from the first that was chosen, which is returned.
fn one_chunk(servers: &[u64]) -> (Download, u64) {
    let mut download = download(1, 4);
    assert_eq!(actions(&mut download, at(0)), [locate(0, 1)]);
    download.handle_located(0..1, vec![chunk(0, servers)]);
    let first = fetches(&actions(&mut download, at(0)));
    assert_eq!(first.len(), 1);
    (download, first[0].1)
}

fn fail(download: &mut Download, now: Duration, server: u64, fault: Fault) {
    download.handle_failed(now, 0, ServerId(server), begin_at(0), fault);
}

fn report(server: u64, fault: ReplicaFault) -> Action {
    Action::Report {
        handle: ChunkHandle(100),
        version: ChunkVersion(1),
        server: ServerId(server),
        fault,
    }
}

#[test]
fn an_empty_range_is_done_at_once() {
    let mut download = Download::new(plan(5..5, 4)).unwrap();
    assert_eq!(actions(&mut download, at(0)), [Action::Done]);
}

/// The end of the longest wait that can be asked for ran over at the first failure, and ended the program.
#[test]
fn a_patience_without_an_end_is_one() {
    let mut plan = plan(0..u64::from(MIB), 4);
    plan.patience = Duration::MAX;
    let mut download = Download::new(plan).unwrap();
    assert_eq!(actions(&mut download, at(0)), [locate(0, 1)]);
    download.handle_located(0..1, vec![chunk(0, &[1])]);
    assert_eq!(fetches(&actions(&mut download, at(0))), [(0, 1)]);
    fail(&mut download, at(1), 1, Fault::Refused);
    assert_eq!(actions(&mut download, at(9)), [locate(0, 1)]);
}

/// What an earlier download brought is read on behind, if it is of this chunk in this version.
#[test]
fn what_was_kept_is_not_read_again() {
    let kept = |handle: u64, version: u64, reached: u32| Kept {
        handle: ChunkHandle(handle),
        version: ChunkVersion(version),
        verified: Verified { reached, crc32: 9 },
    };
    let mut download = download(5, 5);
    download.handle_kept(BTreeMap::from([
        (0, kept(100, 1, MIB / 2)),
        (1, kept(101, 2, MIB / 2)),
        (2, kept(777, 1, MIB / 2)),
        (3, kept(103, 1, 70_000)),
        (4, kept(104, 1, MIB)),
    ]));
    assert_eq!(actions(&mut download, at(0)), [locate(0, 5)]);
    download.handle_located(0..5, (0..5).map(|index| chunk(index, &[1])));
    let begun: Vec<u32> = actions(&mut download, at(0))
        .into_iter()
        .map(|action| match action {
            Action::Fetch(fetch) => fetch.verified.reached,
            other => panic!("{other:?} is no fetch"),
        })
        .collect();
    assert_eq!(begun, [MIB / 2, 0, 0, 0, MIB]);
}

#[test]
fn chunks_come_side_by_side_from_different_servers() {
    let mut download = download(5, 3);
    assert_eq!(actions(&mut download, at(0)), [locate(0, 5)]);
    download.handle_located(0..5, (0..5).map(|i| chunk(i, &[1, 2, 3])));
    let begun = fetches(&actions(&mut download, at(0)));
    let indexes: Vec<_> = begun.iter().map(|it| it.0).collect();
    let mut servers: Vec<_> = begun.iter().map(|it| it.1).collect();
    servers.sort_unstable();
    assert_eq!((indexes, servers), (vec![0, 1, 2], vec![1, 2, 3]));
    download.handle_fetched(1);
    assert_eq!(fetches(&actions(&mut download, at(0)))[0].0, 3);
    for index in [0, 2, 3] {
        download.handle_fetched(index);
    }
    assert_eq!(fetches(&actions(&mut download, at(0)))[0].0, 4);
    download.handle_fetched(4);
    assert_eq!(actions(&mut download, at(0)), [Action::Done]);
}

#[test]
fn the_next_page_is_located_before_it_is_needed() {
    let mut download = download(PAGE_LEN + 1, 2);
    assert_eq!(actions(&mut download, at(0)), [locate(0, PAGE_LEN)]);
    download.handle_located(0..PAGE_LEN, (0..PAGE_LEN).map(|i| chunk(i, &[1])));
    for index in 0..PAGE_LEN - 4 {
        assert!(!fetches(&actions(&mut download, at(0))).is_empty());
        download.handle_fetched(index);
    }
    let acted = actions(&mut download, at(0));
    assert_eq!(acted.last(), Some(&locate(PAGE_LEN, 1)));
    assert_eq!(actions(&mut download, at(0)), [], "asked once");
}

#[test]
fn a_part_of_a_file_and_its_holes() {
    let mib = u64::from(MIB);
    let mut download = Download::new(plan(mib + 70_000..3 * mib + 5, 4)).unwrap();
    assert_eq!(actions(&mut download, at(0)), [locate(1, 3)]);
    download.handle_located(1..4, vec![chunk(1, &[1]), chunk(3, &[1])]);
    let acted = actions(&mut download, at(0));
    let [Action::Fetch(first), hole, Action::Fetch(last)] = &acted[..] else {
        panic!("{acted:?}");
    };
    assert_eq!((first.from, first.to), (70_000, MIB));
    assert_eq!(first.verified, begin_at(70_000));
    assert_eq!(first.verified.reached, 65_536);
    assert_eq!(
        *hole,
        Action::Zeros {
            index: 2,
            from: 0,
            to: MIB
        }
    );
    assert_eq!((last.from, last.to), (0, 5));
}

#[test]
fn the_next_replica_goes_on_where_the_one_before_ended() {
    let (mut download, first) = one_chunk(&[1, 2, 3]);
    let verified = Verified {
        reached: 131_072,
        crc32: 9,
    };
    download.handle_failed(at(1), 0, ServerId(first), verified, Fault::Unreachable);
    let acted = actions(&mut download, at(1));
    let [told, Action::Fetch(fetch)] = &acted[..] else {
        panic!("{acted:?}");
    };
    assert_eq!(*told, report(first, ReplicaFault::Unreachable));
    assert_ne!(fetch.replica.server, ServerId(first));
    assert_eq!(fetch.verified, verified);
}

#[test]
fn a_corrupt_replica_is_reported_and_not_asked_again() {
    let (mut download, first) = one_chunk(&[1, 2]);
    let other = 3 - first;
    fail(&mut download, at(0), first, Fault::Corrupt);
    let acted = actions(&mut download, at(0));
    assert_eq!(acted[0], report(first, ReplicaFault::CrcMismatch));
    assert_eq!(fetches(&acted[1..]), [(0, other)]);
    fail(&mut download, at(0), other, Fault::Unreachable);
    assert_eq!(
        actions(&mut download, at(0)),
        [report(other, ReplicaFault::Unreachable)]
    );
    let wake = download.wake_at().unwrap();
    assert_eq!(actions(&mut download, wake), [locate(0, 1)]);
    download.handle_located(0..1, vec![chunk(0, &[1, 2])]);
    assert_eq!(fetches(&actions(&mut download, wake)), [(0, other)]);
    download.handle_fetched(0);
    assert_eq!(actions(&mut download, wake), [Action::Done]);
}

#[test]
fn corrupt_everywhere_is_given_up_as_corrupt() {
    let (mut download, first) = one_chunk(&[1, 2]);
    fail(&mut download, at(0), first, Fault::Corrupt);
    actions(&mut download, at(0));
    fail(&mut download, at(0), 3 - first, Fault::Corrupt);
    actions(&mut download, at(0));
    let wake = download.wake_at().unwrap();
    assert_eq!(actions(&mut download, wake), [locate(0, 1)]);
    download.handle_located(0..1, vec![chunk(0, &[])]);
    let corrupt = GiveUp::Corrupt {
        index: 0,
        handle: ChunkHandle(100),
    };
    assert_eq!(actions(&mut download, wake), [Action::GiveUp(corrupt)]);
    assert_eq!(actions(&mut download, wake), []);
}

#[test]
fn without_a_replica_it_waits_and_then_gives_up_as_unreachable() {
    let mut download = download(1, 4);
    actions(&mut download, at(0));
    download.handle_located(0..1, vec![chunk(0, &[])]);
    let mut now = at(0);
    loop {
        match &actions(&mut download, now)[..] {
            [] => now = download.wake_at().unwrap().max(now),
            [Action::Locate { .. }] => download.handle_located(0..1, vec![chunk(0, &[])]),
            [Action::GiveUp(why)] => {
                let handle = ChunkHandle(100);
                assert_eq!(*why, GiveUp::Unreachable { index: 0, handle });
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(now >= PATIENCE && now < PATIENCE + at(2), "{now:?}");
}

#[test]
fn a_ticket_that_is_out_of_date_is_renewed() {
    let (mut download, first) = one_chunk(&[1]);
    fail(&mut download, at(0), first, Fault::OutOfDate);
    assert_eq!(actions(&mut download, at(0)), []);
    let wake = download.wake_at().unwrap();
    assert_eq!(actions(&mut download, wake), [locate(0, 1)]);
    download.handle_located(0..1, vec![chunk(0, &[1])]);
    assert_eq!(fetches(&actions(&mut download, wake)), [(0, 1)]);
}

/// A replica that says so though the master says the same still is asked behind the others.
#[test]
fn who_alone_calls_the_location_old_is_asked_last() {
    let (mut download, first) = one_chunk(&[1, 2, 3]);
    let (mut now, mut server) = (at(0), first);
    let mut asked = Vec::new();
    for _ in 0..7 {
        asked.push(server);
        fail(&mut download, now, server, Fault::OutOfDate);
        now = download.wake_at().unwrap().max(now);
        assert_eq!(actions(&mut download, now), [locate(0, 1)]);
        download.handle_located(0..1, vec![chunk(0, &[1, 2, 3])]);
        server = fetches(&actions(&mut download, now))[0].1;
    }
    let (before, since) = asked.split_at(3);
    assert_eq!(before.iter().sum::<u64>(), 6, "each of 1, 2, 3: {asked:?}");
    assert!(!before[1..].contains(&first), "{asked:?}");
    // By now all of them say so, and are asked in turn.
    assert_eq!(&since[..3], before);
    assert_eq!(since[3], first);
}

/// The chunk after its replica failed when half of it was here, located again as `by_now`.
fn located_again(
    chunk: LocatedChunk,
    fault: Fault,
    by_now: Option<LocatedChunk>,
    rewindable: bool,
) -> Action {
    let plan = Plan {
        rewindable,
        ..plan(0..u64::from(MIB), 4)
    };
    let mut download = Download::new(plan).unwrap();
    actions(&mut download, at(0));
    download.handle_located(0..1, vec![chunk]);
    let first = fetches(&actions(&mut download, at(0)))[0].1;
    let half = Verified {
        reached: MIB / 2,
        crc32: 9,
    };
    download.handle_failed(at(0), 0, ServerId(first), half, fault);
    actions(&mut download, at(0));
    let wake = download.wake_at().unwrap();
    assert_eq!(actions(&mut download, wake), [locate(0, 1)]);
    download.handle_located(0..1, by_now);
    let mut acted = actions(&mut download, wake);
    assert_eq!(acted.len(), 1);
    acted.remove(0)
}

fn of_version(version: u64, state: ChunkState) -> LocatedChunk {
    LocatedChunk {
        version: ChunkVersion(version),
        state,
        ..chunk(0, &[1])
    }
}

/// Where a fetch begins, and up to where what came before counts.
fn begun(action: Action) -> (u32, u32) {
    match action {
        Action::Fetch(fetch) => (fetch.from, fetch.verified.reached),
        other => panic!("{other:?} is no fetch"),
    }
}

/// A pipe has what it has: the rest comes from the newer version.
#[test]
fn a_newer_version_is_begun_with_anew_where_that_can_be() {
    let (open, sealed) = (ChunkState::Open, ChunkState::Sealed);
    for (before, by_now) in [
        (sealed, sealed),
        (sealed, open),
        (open, sealed),
        (open, open),
    ] {
        let (chunk, newer) = (of_version(1, before), of_version(2, by_now));
        let fault = Fault::OutOfDate;
        let again = located_again(chunk.clone(), fault, Some(newer.clone()), true);
        assert_eq!(begun(again), (0, 0), "{before:?}, {by_now:?}");
        let on = located_again(chunk, fault, Some(newer), false);
        assert_eq!(begun(on), (MIB / 2, MIB / 2), "{before:?}, {by_now:?}");
    }
    // The same sealed version goes on, and of an open one another state.
    let same = of_version(1, sealed);
    let on = located_again(same.clone(), Fault::OutOfDate, Some(same), true);
    assert_eq!(begun(on), (0, MIB / 2));
    let same = of_version(1, open);
    let again = located_again(same.clone(), Fault::Behind, Some(same), true);
    assert_eq!(begun(again), (0, 0));
}

#[test]
fn another_chunk_or_a_shorter_one_is_none_of_the_file_that_was_read() {
    let mut other = of_version(2, ChunkState::Sealed);
    other.handle = ChunkHandle(7);
    let mut shorter = of_version(2, ChunkState::Sealed);
    shorter.length -= 1;
    let older = of_version(0, ChunkState::Sealed);
    let changed = Action::GiveUp(GiveUp::Changed { index: 0 });
    for state in [ChunkState::Sealed, ChunkState::Open] {
        for by_now in [Some(&other), Some(&shorter), Some(&older), None] {
            let chunk = of_version(1, state);
            let given_up = located_again(chunk, Fault::OutOfDate, by_now.cloned(), true);
            assert_eq!(given_up, changed, "{state:?}, {by_now:?}");
        }
    }
}

/// How long it is, its members know: what the log has of it is not asked.
#[test]
fn an_open_chunk_is_read_whatever_the_log_says_of_its_length() {
    let mut download = download(1, 4);
    actions(&mut download, at(0));
    let mut open = of_version(1, ChunkState::Open);
    open.length = 0;
    open.replicas = chunk(0, &[1, 2]).replicas;
    download.handle_located(0..1, vec![open]);
    let acted = actions(&mut download, at(0));
    let [Action::Fetch(fetch)] = &acted[..] else {
        panic!("{acted:?}");
    };
    assert_eq!((fetch.from, fetch.to), (0, MIB));
    assert_eq!(fetch.other, None, "two at once could serve two states");
    // Who has not heard of everything is not to blame, and may have heard later.
    let server = fetch.replica.server;
    download.handle_failed(at(0), 0, server, begin_at(0), Fault::Behind);
    assert_eq!(fetches(&actions(&mut download, at(0))), [(0, 3 - server.0)]);
    let other = ServerId(3 - server.0);
    download.handle_failed(at(0), 0, other, begin_at(0), Fault::Shrank);
    let changed = Action::GiveUp(GiveUp::Changed { index: 0 });
    assert_eq!(actions(&mut download, at(0)), [changed]);
}

#[test]
fn what_a_status_says_depends_on_what_was_asked_for() {
    let handle = ChunkHandle(100);
    let version = ChunkVersion(4);
    let sealed = Wanted::Sealed(super::super::read_stream::Sealed {
        handle,
        version,
        length: 1,
        crc32: 0,
    });
    let plain = Wanted::Plain {
        handle,
        at_least: super::super::seen::State {
            version,
            serial: sarsen_protocol::id::Serial(1),
        },
        length: 1,
    };
    let says = |status, version, wanted| Fault::of_status(status, ChunkVersion(version), wanted);
    assert_eq!(says(Status::Moved, 3, &sealed), Fault::WrongVersion);
    assert_eq!(says(Status::Moved, 0, &sealed), Fault::WrongVersion);
    assert_eq!(
        says(Status::Moved, 5, &sealed),
        Fault::OutOfDate,
        "ours is old"
    );
    assert_eq!(
        says(Status::Moved, 5, &plain),
        Fault::OutOfDate,
        "it was sealed"
    );
    assert_eq!(
        says(Status::Moved, 3, &plain),
        Fault::OutOfDate,
        "not begun"
    );
    assert_eq!(says(Status::Behind, 4, &plain), Fault::Behind);
    assert_eq!(says(Status::ChunkOpen, 0, &sealed), Fault::OutOfDate);
}

#[test]
fn what_was_given_to_a_pipe_can_not_be_taken_back() {
    for rewindable in [true, false] {
        let plan = Plan {
            rewindable,
            ..plan(0..u64::from(MIB), 4)
        };
        let mut download = Download::new(plan).unwrap();
        actions(&mut download, at(0));
        download.handle_located(0..1, vec![chunk(0, &[1, 2])]);
        let first = fetches(&actions(&mut download, at(0)))[0].1;
        let whole = Verified {
            reached: MIB,
            crc32: 1,
        };
        download.handle_failed(at(0), 0, ServerId(first), whole, Fault::OtherBytes);
        let acted = actions(&mut download, at(0));
        match &acted[1] {
            Action::Fetch(fetch) if rewindable => assert_eq!(fetch.verified, begin_at(0)),
            Action::GiveUp(GiveUp::Corrupt { .. }) if !rewindable => {}
            other => panic!("{other:?}"),
        }
    }
}

/// Whatever fails and in whatever order: while one replica is good, every chunk is read once to
/// its end, from a replica that is not known to be corrupt, and no more streams than allowed run.
#[test]
fn random_failures_are_read_around() {
    for seed in 0..300 {
        let mut random = seed;
        let mut draw = |below: u64| {
            random = super::super::retry::split_mix(random);
            random % below
        };
        let (chunks, streams_max) = (u32::try_from(draw(20)).unwrap(), 1 + draw(4));
        let mut download = download(chunks, usize::try_from(streams_max).unwrap());
        let mut now = at(0);
        let mut asked: Vec<Range<u32>> = Vec::new();
        let mut reading: Vec<Fetch> = Vec::new();
        let mut corrupt: Vec<(u32, ServerId)> = Vec::new();
        let mut fetched = Vec::new();
        'run: loop {
            for action in actions(&mut download, now) {
                match action {
                    Action::Locate { first_index, count } => {
                        asked.push(first_index..first_index + count);
                    }
                    Action::Fetch(fetch) => {
                        let index = fetch.chunk.index;
                        assert!(reading.iter().all(|it| it.chunk.index != index));
                        assert!(!corrupt.contains(&(index, fetch.replica.server)));
                        reading.push(*fetch);
                        assert!(reading.len() as u64 <= streams_max);
                    }
                    Action::Report { .. } => {}
                    Action::Done => break 'run,
                    other => panic!("seed {seed}: {other:?}"),
                }
            }
            if !asked.is_empty() && draw(2) == 0 {
                let range = asked.swap_remove(0);
                let located = range.clone().map(|index| chunk(index, &[1, 2, 3]));
                download.handle_located(range, located);
            } else if !reading.is_empty() {
                let place = usize::try_from(draw(reading.len() as u64)).unwrap();
                let fetch = reading.swap_remove(place);
                let (index, server) = (fetch.chunk.index, fetch.replica.server);
                // Server 3 is never corrupt, and fails now and then.
                let fault = match draw(5) {
                    0 if server != ServerId(3) => Some(Fault::Corrupt),
                    1 => Some(Fault::Unreachable),
                    2 => Some(Fault::OutOfDate),
                    _ => None,
                };
                match fault {
                    Some(fault) => {
                        if fault == Fault::Corrupt {
                            corrupt.push((index, server));
                        }
                        download.handle_failed(now, index, server, fetch.verified, fault);
                    }
                    None => {
                        download.handle_fetched(index);
                        fetched.push(index);
                    }
                }
            } else if asked.is_empty() {
                now = download.wake_at().map_or(now, |wake| wake.max(now));
            }
        }
        fetched.sort_unstable();
        assert!(fetched.into_iter().eq(0..chunks), "seed {seed}");
    }
}

/// The first server brought half of a chunk, well-formed and wrong, and was gone; the second brought
/// the good rest. Together they were not what was sealed: the second was blamed, and never asked for
/// the whole, which nobody else had.
#[test]
fn a_good_replica_is_not_given_up_for_anothers_half() {
    let (mut download, first) = one_chunk(&[1, 2]);
    let half = Verified {
        reached: MIB / 2,
        crc32: 0xbad,
    };
    download.handle_failed(at(0), 0, ServerId(first), half, Fault::Unreachable);
    let second = 3 - first;
    let mut all = actions(&mut download, at(0));
    all.retain(|one| matches!(one, Action::Fetch(_)));
    assert_eq!(fetches(&all), [(0, second)]);
    fail(&mut download, at(1), second, Fault::OtherBytes);
    let mut asked = Vec::new();
    let mut now = at(1);
    while !asked.contains(&second) {
        for action in actions(&mut download, now) {
            match action {
                Action::Locate { .. } => {
                    download.handle_located(0..1, vec![chunk(0, &[1, 2])]);
                }
                Action::Fetch(fetch) => {
                    let server = fetch.replica.server.0;
                    assert_eq!(fetch.verified.reached, 0, "all of it from one");
                    asked.push(server);
                    if server == first {
                        // It has the beginning again, and no more.
                        download.handle_failed(now, 0, ServerId(first), half, Fault::Unreachable);
                    }
                }
                Action::Report { server, fault, .. } => {
                    assert_eq!((server.0, fault), (first, ReplicaFault::Unreachable));
                }
                other => panic!("{other:?} after {asked:?}"),
            }
        }
        now = download.wake_at().map_or(now, |wake| wake.max(now));
    }
}

#[test]
fn who_is_slow_is_asked_last() {
    let mut download = download(1, 1);
    download.handle_located(0..1, vec![chunk(0, &[1, 2, 3])]);
    download.handle_slow(vec![ServerId(1), ServerId(3)]);
    let fetch = next_fetch(&mut download);
    assert_eq!(fetch.replica.server, ServerId(2));
    let other = fetch.other.map(|other| other.server);
    assert!(other == Some(ServerId(1)) || other == Some(ServerId(3)));
    // Slow ones are better than none, and the last has no other beside it.
    let nothing = Verified::default();
    download.handle_failed(at(0), 0, ServerId(2), nothing, Fault::Slow);
    let second = next_fetch(&mut download);
    download.handle_failed(at(0), 0, second.replica.server, nothing, Fault::Slow);
    let third = next_fetch(&mut download);
    assert_ne!(third.replica.server, second.replica.server);
    assert_eq!(third.other, None);
}

#[test]
fn who_was_left_for_being_slow_is_not_reported_and_the_rest_comes_from_another() {
    let mut download = download(1, 1);
    download.handle_located(0..1, vec![chunk(0, &[1, 2])]);
    let fetch = next_fetch(&mut download);
    let (first, other) = (fetch.replica.server, fetch.other.unwrap().server);
    let verified = Verified {
        reached: 2 * sarsen_protocol::size::BLOCK_LEN,
        crc32: 7,
    };
    download.handle_failed(at(1), 0, first, verified, Fault::Slow);
    let rest = next_fetch(&mut download);
    assert_eq!((rest.replica.server, rest.verified), (other, verified));
    assert_eq!(download.poll(at(1)), None, "no report");
    download.handle_fetched(0);
    assert_eq!(download.poll(at(1)), Some(Action::Done));
}

fn next_fetch(download: &mut Download) -> Fetch {
    match download.poll(at(0)) {
        Some(Action::Fetch(fetch)) => *fetch,
        other => panic!("{other:?}"),
    }
}
