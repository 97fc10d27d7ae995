use super::*;
use sarsen_protocol::id::{ChunkHandle, ChunkVersion, FileId, SessionId};
use sarsen_protocol::key::SecretKey;
use sarsen_protocol::message::Hop;
use sarsen_protocol::ticket::{Claims, Rights, Ticket};

const PATIENCE: Duration = Duration::from_secs(60);

fn upload(streams_max: usize) -> Upload {
    Upload::new(Plan {
        streams_max,
        fewest: 2,
        patience: PATIENCE,
        seed: 1,
    })
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn allocation(index: u32, handle: u64) -> Allocation {
    let claims = Claims {
        rights: Rights::WRITE,
        key_id: 1,
        handle: ChunkHandle(handle),
        version: ChunkVersion(1),
        expiry: 0,
        file_id: FileId(1),
        session: SessionId(1),
        epoch: 1,
        chain_crc: 0,
    };
    Allocation {
        index,
        handle: ChunkHandle(handle),
        version: ChunkVersion(1),
        ticket: Ticket::sign(claims, &SecretKey::new([0; 32])),
        chain: vec![Hop {
            server: ServerId(1),
            data_addr: "a:1".into(),
        }],
    }
}

fn sealed(index: u32, handle: u64) -> SealedChunk {
    SealedChunk {
        index,
        handle: ChunkHandle(handle),
        version: ChunkVersion(1),
        length: 10,
        crc32: 0,
        servers: vec![ServerId(1)],
    }
}

fn allocate(first_index: u32, count: u16, fewest: u8, exclude: &[u64]) -> Action {
    Action::Allocate {
        first_index,
        count,
        fewest,
        exclude: exclude.iter().copied().map(ServerId).collect(),
    }
}

fn begin(index: u32, handle: u64) -> Action {
    Action::Begin(Box::new(allocation(index, handle)))
}

fn actions(upload: &mut Upload, now: Duration) -> Vec<Action> {
    std::iter::from_fn(|| upload.poll(now)).collect()
}

/// A file of one chunk asks for nothing: what it needs came with the pending file.
#[test]
fn chunks_that_were_given_are_not_asked_for() {
    let mut upload = upload(4);
    upload.handle_given(vec![allocation(0, 10), allocation(1, 11)]);
    assert_eq!(
        actions(&mut upload, at(0)),
        [],
        "a pipe has brought nothing"
    );
    upload.handle_source(1, false);
    assert_eq!(actions(&mut upload, at(0)), [begin(0, 10)]);
    upload.handle_source(3, true);
    assert_eq!(
        actions(&mut upload, at(0)),
        [begin(1, 11), allocate(2, 1, 0, &[])]
    );
    // One that failed is asked for, as any other.
    upload.handle_allocated(vec![]);
    upload.handle_failed(at(0), 0, Some(ServerId(1)));
    let asked = actions(&mut upload, at(0));
    assert_eq!(asked, [allocate(0, 1, 0, &[1])]);
}

/// The end of the longest wait that can be asked for ran over at the first failure, and ended the program.
#[test]
fn a_patience_without_an_end_is_one() {
    let mut upload = Upload::new(Plan {
        streams_max: 4,
        fewest: 2,
        patience: Duration::MAX,
        seed: 1,
    });
    upload.handle_given(vec![allocation(0, 10)]);
    upload.handle_source(1, true);
    assert_eq!(actions(&mut upload, at(0)), [begin(0, 10)]);
    upload.handle_failed(at(1), 0, Some(ServerId(1)));
    let asked = actions(&mut upload, at(1));
    assert_eq!(asked, [allocate(0, 1, 0, &[1])]);
}

#[test]
fn an_empty_file_is_published_at_once() {
    let mut upload = upload(4);
    assert_eq!(actions(&mut upload, at(0)), []);
    upload.handle_source(0, true);
    let publish = Action::Publish { chunks: vec![] };
    assert_eq!(actions(&mut upload, at(0)), [publish]);
}

#[test]
fn chunks_go_up_side_by_side_and_are_published_in_order() {
    let mut upload = upload(2);
    upload.handle_source(3, true);
    assert_eq!(actions(&mut upload, at(0)), [allocate(0, 3, 0, &[])]);
    upload.handle_allocated((0..3).map(|i| allocation(i, 10 + u64::from(i))).collect());
    assert_eq!(actions(&mut upload, at(0)), [begin(0, 10), begin(1, 11)]);
    upload.handle_sealed(sealed(1, 11));
    assert_eq!(actions(&mut upload, at(0)), [begin(2, 12)]);
    upload.handle_sealed(sealed(2, 12));
    assert_eq!(actions(&mut upload, at(0)), []);
    upload.handle_sealed(sealed(0, 10));
    let chunks = vec![sealed(0, 10), sealed(1, 11), sealed(2, 12)];
    assert_eq!(actions(&mut upload, at(0)), [Action::Publish { chunks }]);
}

/// In a far cluster a stream waited a round trip and a sync for its seal, and sent nothing.
#[test]
fn while_one_is_sealed_another_is_sent() {
    let mut upload = upload(1);
    upload.handle_source(9, true);
    assert_eq!(actions(&mut upload, at(0)), [allocate(0, 5, 0, &[])]);
    upload.handle_allocated((0..5).map(|i| allocation(i, 10 + u64::from(i))).collect());
    assert_eq!(actions(&mut upload, at(0)), [begin(0, 10)]);
    upload.handle_sent(0, ChunkHandle(10));
    let next = [begin(1, 11), allocate(5, 1, 0, &[])];
    assert_eq!(actions(&mut upload, at(0)), next);
    upload.handle_sent(1, ChunkHandle(11));
    assert_eq!(actions(&mut upload, at(0)), [], "two wait for their seals");
    upload.handle_sealed(sealed(1, 11));
    assert_eq!(actions(&mut upload, at(0)), [begin(2, 12)]);
    // A seal that fails is a stream that fails.
    upload.handle_failed(at(1), 0, Some(ServerId(7)));
    upload.handle_allocated(vec![]);
    assert_eq!(actions(&mut upload, at(1)), [allocate(0, 1, 0, &[7])]);
}

/// What a stream told that failed meanwhile is not of the one that sends the chunk again.
#[test]
fn what_was_sent_under_an_old_handle_counts_no_more() {
    let mut upload = upload(1);
    upload.handle_source(2, true);
    actions(&mut upload, at(0));
    upload.handle_allocated(vec![allocation(0, 10), allocation(1, 11)]);
    assert_eq!(actions(&mut upload, at(0)), [begin(0, 10)]);
    upload.handle_failed(at(0), 0, None);
    assert_eq!(
        actions(&mut upload, at(0)),
        [begin(1, 11), allocate(0, 1, 0, &[])]
    );
    upload.handle_allocated(vec![allocation(0, 20)]);
    upload.handle_sealed(sealed(1, 11));
    assert_eq!(actions(&mut upload, at(0)), [begin(0, 20)]);
    upload.handle_sent(0, ChunkHandle(10));
    upload.handle_sent(1, ChunkHandle(11));
    upload.handle_sent(7, ChunkHandle(17));
    upload.handle_sealed(sealed(0, 20));
    let chunks = vec![sealed(0, 20), sealed(1, 11)];
    assert_eq!(actions(&mut upload, at(0)), [Action::Publish { chunks }]);
}

/// One that is asked for again waits until there is room for it, and is not forgotten.
#[test]
fn chunks_whose_seals_fail_are_all_sent_again() {
    let mut upload = upload(2);
    upload.handle_source(30, true);
    let (mut handle, mut fails, mut sealed_as) = (0, 0, std::collections::BTreeMap::new());
    let mut sealing: Vec<(u32, u64)> = Vec::new();
    'run: for turn in 0.. {
        assert!(turn < 1_000, "it stands still");
        let mut asked = None;
        for action in actions(&mut upload, at(turn)) {
            match action {
                Action::Allocate {
                    first_index, count, ..
                } => asked = Some(first_index..first_index + u32::from(count)),
                Action::Begin(begun) => {
                    upload.handle_sent(begun.index, begun.handle);
                    sealing.push((begun.index, begun.handle.0));
                    assert!(sealing.len() <= 4);
                }
                Action::Publish { chunks } => {
                    assert_eq!(chunks.len(), 30);
                    break 'run;
                }
                Action::GiveUp => panic!("something came further each time"),
            }
        }
        if let Some(asked) = asked {
            let given = asked.map(|index| {
                handle += 1;
                allocation(index, handle)
            });
            upload.handle_allocated(given.collect());
        } else if !sealing.is_empty() {
            // Each chunk's first seal fails.
            let (index, handle) = sealing.remove(0);
            match sealed_as.entry(index) {
                std::collections::btree_map::Entry::Vacant(first) => {
                    first.insert(handle);
                    fails += 1;
                    upload.handle_failed(at(turn), index, None);
                }
                std::collections::btree_map::Entry::Occupied(_) => {
                    upload.handle_sealed(sealed(index, handle));
                }
            }
        }
    }
    assert_eq!(fails, 30);
}

#[test]
fn a_long_file_is_allocated_a_few_chunks_ahead() {
    let mut upload = upload(2);
    upload.handle_source(1000, true);
    assert_eq!(actions(&mut upload, at(0)), [allocate(0, 6, 0, &[])]);
    upload.handle_allocated((0..6).map(|i| allocation(i, 10)).collect());
    actions(&mut upload, at(0));
    upload.handle_sealed(sealed(0, 10));
    let next = [begin(2, 10), allocate(6, 1, 0, &[])];
    assert_eq!(actions(&mut upload, at(0)), next);
}

#[test]
fn a_pipe_is_allocated_for_as_it_comes() {
    let mut upload = upload(2);
    upload.handle_source(1, false);
    assert_eq!(actions(&mut upload, at(0)), [allocate(0, 1, 0, &[])]);
    upload.handle_allocated(vec![allocation(0, 10)]);
    assert_eq!(actions(&mut upload, at(0)), [begin(0, 10)]);
    upload.handle_sealed(sealed(0, 10));
    assert_eq!(
        actions(&mut upload, at(1000)),
        [],
        "a silent pipe is waited for"
    );
    upload.handle_source(1, true);
    let chunks = vec![sealed(0, 10)];
    assert_eq!(actions(&mut upload, at(1000)), [Action::Publish { chunks }]);
}

#[test]
fn a_failed_chunk_goes_elsewhere_under_a_new_handle() {
    let mut upload = upload(1);
    upload.handle_source(2, true);
    actions(&mut upload, at(0));
    upload.handle_allocated(vec![allocation(0, 10), allocation(1, 11)]);
    assert_eq!(actions(&mut upload, at(0)), [begin(0, 10)]);
    upload.handle_failed(at(1), 0, Some(ServerId(7)));
    let next = [begin(1, 11), allocate(0, 1, 0, &[7])];
    assert_eq!(actions(&mut upload, at(1)), next);
    upload.handle_sealed(sealed(1, 11));
    upload.handle_allocated(vec![allocation(0, 20)]);
    assert_eq!(actions(&mut upload, at(1)), [begin(0, 20)]);
    upload.handle_failed(at(2), 0, None);
    assert_eq!(
        actions(&mut upload, at(2) + BLAME_TIME),
        [allocate(0, 1, 0, &[])],
        "a server is blamed for a while only"
    );
}

#[test]
fn with_too_few_servers_less_is_asked_for_step_by_step() {
    let mut upload = upload(1);
    upload.handle_source(1, true);
    actions(&mut upload, at(0));
    upload.handle_allocated(vec![allocation(0, 10)]);
    actions(&mut upload, at(0));
    upload.handle_failed(at(0), 0, Some(ServerId(7)));
    assert_eq!(actions(&mut upload, at(0)), [allocate(0, 1, 0, &[7])]);
    upload.handle_too_few_servers(at(0), Duration::ZERO);
    assert_eq!(actions(&mut upload, at(0)), [allocate(0, 1, 2, &[7])]);
    upload.handle_too_few_servers(at(0), Duration::ZERO);
    assert_eq!(actions(&mut upload, at(0)), [allocate(0, 1, 2, &[])]);
    upload.handle_too_few_servers(at(0), at(3));
    assert_eq!(actions(&mut upload, at(0)), []);
    assert_eq!(upload.wake_at(at(0)), Some(at(3)));
    assert_eq!(actions(&mut upload, at(3)), [allocate(0, 1, 0, &[])]);
}

#[test]
fn it_gives_up_when_nothing_comes_further() {
    let mut upload = upload(1);
    upload.handle_source(1, true);
    actions(&mut upload, at(0));
    for second in 0..59 {
        upload.handle_allocated(vec![allocation(0, 10 + second)]);
        let acted = actions(&mut upload, at(second));
        assert_eq!(acted, [begin(0, 10 + second)], "after {second} s");
        // Only the first try comes this far: the others repeat it.
        upload.handle_acked(0, 5);
        upload.handle_failed(at(second), 0, None);
        actions(&mut upload, at(second + 1));
    }
    upload.handle_allocated(vec![allocation(0, 99)]);
    assert_eq!(actions(&mut upload, at(60)), [Action::GiveUp]);
    assert_eq!(actions(&mut upload, at(61)), []);
}

#[test]
fn coming_further_than_ever_before_is_progress() {
    let mut upload = upload(1);
    upload.handle_source(1, true);
    actions(&mut upload, at(0));
    for try_number in 0..50 {
        upload.handle_allocated(vec![allocation(0, 10)]);
        let now = at(20 * try_number);
        assert_eq!(
            actions(&mut upload, now),
            [begin(0, 10)],
            "try {try_number}"
        );
        upload.handle_acked(0, u32::try_from(try_number).unwrap() + 1);
        upload.handle_failed(now, 0, None);
        actions(&mut upload, now + at(1));
    }
}

/// Whatever fails and in whatever order, no more streams than allowed run at a time, no chunk is
/// sent twice at once, and what is published is what was sealed last, in order.
#[test]
fn random_failures_end_in_a_whole_file() {
    for seed in 0..300 {
        let mut random = seed;
        let mut draw = |below: u64| {
            random = super::super::retry::split_mix(random);
            random % below
        };
        let (chunks, streams_max) = (draw(20), 1 + draw(4));
        let mut upload = upload(usize::try_from(streams_max).unwrap());
        upload.handle_source(u32::try_from(chunks).unwrap(), true);
        let (mut now, mut handle) = (at(0), 0);
        let mut asked: Option<std::ops::Range<u32>> = None;
        let mut writing: Vec<(u32, u64)> = Vec::new();
        let mut sending: Vec<(u32, u64)> = Vec::new();
        let mut sealed_as = std::collections::BTreeMap::new();
        let published = 'run: loop {
            for action in actions(&mut upload, now) {
                match action {
                    Action::Allocate {
                        first_index, count, ..
                    } => {
                        assert!(asked.is_none(), "one request at a time");
                        asked = Some(first_index..first_index + u32::from(count));
                    }
                    Action::Begin(begun) => {
                        assert!(writing.iter().all(|it| it.0 != begun.index));
                        writing.push((begun.index, begun.handle.0));
                        sending.push((begun.index, begun.handle.0));
                        assert!(sending.len() as u64 <= streams_max);
                        assert!(writing.len() as u64 <= 2 * streams_max);
                    }
                    Action::Publish { chunks } => break 'run chunks,
                    Action::GiveUp => panic!("seed {seed}: it never stood still for long"),
                }
            }
            if let Some(range) = asked.take_if(|_| draw(2) == 0) {
                // The master gives some of what was asked for.
                let given = range.filter(|_| draw(4) > 0).map(|index| {
                    handle += 1;
                    allocation(index, handle)
                });
                upload.handle_allocated(given.collect());
            } else if !sending.is_empty() && draw(2) == 0 {
                let place = usize::try_from(draw(sending.len() as u64)).unwrap();
                let (index, handle) = sending.swap_remove(place);
                upload.handle_sent(index, ChunkHandle(handle));
            } else if !writing.is_empty() {
                let place = usize::try_from(draw(writing.len() as u64)).unwrap();
                let (index, handle) = writing.swap_remove(place);
                sending.retain(|it| it.0 != index);
                match draw(3) {
                    0 => upload.handle_failed(now, index, Some(ServerId(draw(5)))),
                    _ => {
                        upload.handle_sealed(sealed(index, handle));
                        assert_eq!(sealed_as.insert(index, handle), None, "sealed twice");
                    }
                }
            } else {
                now = upload.wake_at(now).unwrap_or(now);
            }
        };
        let published = published.iter().map(|it| (it.index, it.handle.0));
        assert!(published.eq(sealed_as), "seed {seed}");
        assert!(writing.is_empty(), "seed {seed}");
    }
}

/// The chunks that were allocated ahead were sent over the server that hangs one after the other,
/// each for as long as it takes to find that out.
#[test]
fn what_was_allocated_before_a_server_was_blamed_is_asked_for_again() {
    let mut upload = upload(1);
    upload.handle_source(3, true);
    assert_eq!(actions(&mut upload, at(0)), [allocate(0, 3, 0, &[])]);
    let elsewhere = || {
        let mut elsewhere = allocation(2, 12);
        elsewhere.chain[0].server = ServerId(7);
        elsewhere
    };
    upload.handle_allocated(vec![allocation(0, 10), allocation(1, 11), elsewhere()]);
    assert_eq!(actions(&mut upload, at(1)), [begin(0, 10)]);
    upload.handle_failed(at(4), 0, Some(ServerId(1)));
    let third = Action::Begin(Box::new(elsewhere()));
    assert_eq!(
        actions(&mut upload, at(4)),
        [third, allocate(0, 2, 0, &[1])]
    );
    // An answer that was on its way is no better, and one to a question asked since is the
    // master's last word.
    upload.handle_failed(at(5), 2, Some(ServerId(7)));
    let mut outdated = allocation(1, 13);
    outdated.chain[0].server = ServerId(7);
    upload.handle_allocated(vec![allocation(0, 14), outdated]);
    let next = actions(&mut upload, at(10));
    assert_eq!(next, [begin(0, 14), allocate(1, 2, 0, &[1, 7])]);
    // Some servers of a later answer were blamed before it was asked for: so few are left.
    upload.handle_allocated(vec![allocation(1, 15), allocation(2, 16)]);
    upload.handle_sealed(sealed(0, 14));
    assert_eq!(actions(&mut upload, at(10)), [begin(1, 15)]);
}

/// Each file of a tree waited for a server that hangs until the master took it for dead.
#[test]
fn what_another_upload_found_out_counts_from_the_beginning() {
    let mut upload = upload(1);
    upload.handle_suspect(ServerId(1), at(9));
    upload.handle_source(1, true);
    upload.handle_given(vec![allocation(0, 10)]);
    assert_eq!(actions(&mut upload, at(0)), [allocate(0, 1, 0, &[1])]);
    upload.handle_allocated(vec![]);
    let later = actions(&mut upload, at(9));
    assert_eq!(later, [allocate(0, 1, 0, &[])], "not for ever");
}
