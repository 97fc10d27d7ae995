//! Uploads, from the pending file to what readers are told.

use sarsen_protocol::key::SecretKey;
use sarsen_protocol::size::ALLOCATED_CHUNKS_MAX;
use sarsen_protocol::ticket::{Rights, Ticket, chain_crc};

use super::*;

fn key() -> SecretKey {
    SecretKey::new([6; 32])
}

#[test]
fn chunks_go_to_distinct_servers_with_tickets_bound_to_their_chain() {
    let mut rig = Rig::new();
    rig.servers(3);
    let file = rig.begin("/f", 3);
    let chunks = rig.allocate(file, 3);
    for (at, chunk) in (0..).zip(&chunks) {
        assert_eq!(chunk.index, at);
        assert_eq!(chunk.handle, ChunkHandle(u64::from(at) + 1));
        let mut servers: Vec<u64> = chunk.chain.iter().map(|hop| hop.server.0).collect();
        servers.sort_unstable();
        assert_eq!(servers, [1, 2, 3]);
        let rights = (chunk.handle, chunk.version, rig.now.unix_ms);
        let claims = chunk
            .ticket
            .verify(&key(), Rights::WRITE, rights.0, rights.1, rights.2);
        let claims = claims.unwrap();
        assert_eq!((claims.file_id, claims.session), (file, rig.session));
        assert_eq!(claims.chain_crc, chain_crc(&chunk.chain));
    }
}

/// A small file takes two requests: its chunks come with the pending file.
#[test]
fn the_first_chunks_come_with_the_pending_file() {
    let mut rig = Rig::new();
    rig.servers(2);
    let create = CreatePending {
        replicas: 2,
        count: 2,
        ..create(rig.request(), "/f")
    };
    let begun = rig.get(create.clone());
    let indexes: Vec<u32> = begun.chunks.iter().map(|chunk| chunk.index).collect();
    assert_eq!(indexes, [0, 1]);
    let again = rig.get(create);
    assert_eq!(again.file_id, begun.file_id, "done once");
    assert!(
        again.chunks[0].handle > begun.chunks[1].handle,
        "drawn anew"
    );
    let chunks: Vec<&Allocation> = again.chunks.iter().take(1).collect();
    let publish = publish(rig.request(), begun.file_id, "/f", &chunks);
    assert_eq!(rig.status(publish), Status::Ok);

    // What can't be given now is no failure of the file.
    rig.machine.handle_disconnected(ConnectionId(2), rig.now);
    let create = CreatePending {
        replicas: 2,
        count: 1,
        ..self::create(rig.request(), "/g")
    };
    let request = create.request;
    match rig.ask(create) {
        Ok(AnyMessage::PendingCreated(begun)) => assert!(begun.chunks.is_empty()),
        Err(refused) => assert_eq!(refused.status, Status::TooFewServers, "{request:?}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_published_file_is_read_from_who_acknowledged_it_until_they_report() {
    let mut rig = Rig::new();
    rig.servers(2);
    let (file, chunk) = rig.upload("/f", 2);
    let located = |rig: &mut Rig| rig.get(locate("/f")).chunks.remove(0);
    let first = located(&mut rig);
    assert_eq!(
        (first.handle, first.version, first.length),
        (chunk.handle, chunk.version, 10)
    );
    assert_eq!(
        (first.crc32, first.state),
        (chunk.crc32, ChunkState::Sealed)
    );
    assert_eq!(first.replicas.len(), 2);
    let now = rig.now.unix_ms;
    let check = |ticket: &Ticket, at| {
        ticket
            .verify(&key(), Rights::READ, chunk.handle, chunk.version, at)
            .is_ok()
    };
    assert!(check(&first.ticket, now + 120_000) && !check(&first.ticket, now + 120_001));

    rig.hold(1, 2, &[chunk]);
    rig.wait(seconds(9));
    rig.beat(1);
    rig.beat(2);
    assert_eq!(located(&mut rig).replicas.len(), 2);
    rig.wait(seconds(1));
    let servers: Vec<u64> = located(&mut rig)
        .replicas
        .iter()
        .map(|one| one.server.0)
        .collect();
    assert_eq!(servers, [1], "server 2 never told of it itself");

    let by_id = Locate {
        path: String::new(),
        file_id: file,
        ..locate("/")
    };
    let reply = rig.get(by_id);
    assert_eq!((reply.slots, reply.node.crc32), (1, chunk.crc32));
    assert_eq!(rig.status(locate("/")), Status::IsAFolder);
    assert_eq!(rig.status(locate("/nope")), Status::NotFound);
}

fn make_file(request: RequestId, path: &str, parents: bool) -> MakeFile {
    MakeFile {
        request,
        path: path.to_owned(),
        replicas: 0,
        parents,
    }
}

/// An empty file was an upload of nothing: an entry for the pending file, and one for the file.
#[test]
fn an_empty_file_is_made_by_one_entry_however_often_it_is_asked_for() {
    let mut rig = Rig::new();
    rig.servers(2);
    let last = rig.log.len();
    let make = make_file(rig.request(), "/a/f", true);
    rig.send(CLIENT, make.clone());
    let again = rig.exchange(CLIENT, make.clone());
    let made = rig.get(make.clone());
    assert_eq!(again.0, Ok(made.into()));
    let names: Vec<_> = rig.log[last..].iter().map(|it| it.command.name()).collect();
    assert_eq!(names, ["file_made"]);
    assert_eq!((made.node.size, made.node.replicas), (0, 2));
    let path = "/a/f".to_owned();
    assert_eq!(rig.get(Stat { path }).node, made.node);

    let mut restarted = rig.restarted(config());
    let last = restarted.log.len();
    assert_eq!(restarted.get(make), made, "also by the next master");
    assert_eq!(restarted.log.len(), last);
}

#[test]
fn an_empty_file_is_made_where_an_upload_could_begin() {
    let mut rig = Rig::new();
    rig.servers(1);
    let last = rig.log.len();
    let make = make_file(rig.request(), "/a/f", true);
    assert_eq!(rig.status(make.clone()), Status::TooFewServers);
    assert_eq!(rig.log.len(), last, "nothing is logged");
    rig.server(2);
    assert_eq!(rig.status(make), Status::Ok, "it may be asked again");
    for (path, parents, status) in [
        ("/a/f", true, Status::AlreadyExists),
        ("/a", true, Status::IsAFolder),
        ("/", true, Status::IsAFolder),
        ("/b/f", false, Status::NotFound),
        ("/a/f/g", true, Status::NotAFolder),
        ("/a/", true, Status::NameInvalid),
    ] {
        let make = make_file(rig.request(), path, parents);
        assert_eq!(rig.status(make), status, "{path}");
    }
}

#[test]
fn too_few_servers_and_too_little_room_are_told_apart() {
    let mut rig = Rig::new();
    rig.servers(1);
    let request = create(rig.request(), "/f");
    assert_eq!(rig.status(request.clone()), Status::TooFewServers);
    assert_eq!(
        rig.log.last().unwrap().command.name(),
        "directory_started",
        "nothing is logged"
    );
    rig.server(2);
    assert_eq!(
        rig.status(request),
        Status::Ok,
        "the same request, when there are enough"
    );
    let mut full = heartbeat(2);
    full.disks[0].disk.free = 1000;
    let (reply, _) = rig.exchange(ConnectionId(2), full);
    assert!(reply.is_ok());
    let request = create(rig.request(), "/g");
    assert_eq!(rig.status(request), Status::NoSpace);
    rig.machine.handle_disconnected(ConnectionId(2), rig.now);
    let request = create(rig.request(), "/g");
    assert_eq!(rig.status(request), Status::TooFewServers);
}

/// Under a load of many small files a disk once took longer to answer than `dead_after`, and the
/// upload was refused for good, since there were enough servers and too few with room.
#[test]
fn a_disk_that_does_not_answer_is_no_full_one() {
    let mut rig = Rig::new();
    rig.servers(2);
    let mut slow = heartbeat(2);
    slow.disks[0].beat_age = 11_000;
    rig.wait(seconds(11));
    rig.beat(1);
    let (reply, _) = rig.exchange(ConnectionId(2), slow);
    assert!(reply.is_ok());
    let request = create(rig.request(), "/f");
    assert_eq!(rig.status(request.clone()), Status::TooFewServers);
    rig.beat(2);
    assert_eq!(rig.status(request), Status::Ok, "it may be asked again");
}

/// A reader that has a file open goes on by its id, also when it was replaced meanwhile.
#[test]
fn a_file_in_the_trash_is_located_by_its_id() {
    let mut rig = Rig::new();
    rig.servers(2);
    let (file, chunk) = rig.upload("/f", 2);
    let mut by_id = locate("/f");
    by_id.path = String::new();
    by_id.file_id = file;
    let removed = rig.remove("/f", false);
    assert_eq!(rig.status(removed), Status::Ok);
    assert_eq!(rig.status(locate("/f")), Status::NotFound);
    let located = rig.get(by_id.clone()).chunks.remove(0);
    assert_eq!((located.handle, located.replicas.len()), (chunk.handle, 2));
    let request = rig.request();
    let empty = EmptyTrash { request, entry: 0 };
    assert_eq!(rig.status(empty), Status::Ok);
    assert_eq!(rig.status(by_id), Status::NotFound);
}

/// With one of three servers dead no file of three copies could be begun any more, although two
/// copies will do until it is back.
#[test]
fn a_file_is_begun_while_servers_are_away_that_were_there() {
    let mut rig = Rig::new();
    rig.servers(2);
    let mut request = create(rig.request(), "/f");
    request.replicas = 3;
    assert_eq!(
        rig.status(request),
        Status::TooFewServers,
        "there were never three"
    );
    rig.server(3);
    rig.machine.handle_disconnected(ConnectionId(3), rig.now);
    let file = rig.begin("/f", 3);
    let mut chunks = allocate_chunks(rig.session, file, 1);
    assert_eq!(rig.status(chunks.clone()), Status::TooFewServers);
    chunks.fewest = 2;
    assert_eq!(rig.get(chunks).chunks.remove(0).chain.len(), 2);
}

/// A server that hangs was given chunks until it was dead.
#[test]
fn a_suspect_is_given_chunks_only_if_the_others_are_too_few() {
    let mut rig = Rig::new();
    rig.servers(3);
    let file = rig.begin("/f", 2);
    rig.wait(seconds(4));
    rig.beat(1);
    rig.beat(3);
    for _ in 0..20 {
        let chunks = allocate_chunks(rig.session, file, 1);
        let chain = rig.get(chunks).chunks.remove(0).chain;
        assert!(chain.iter().all(|hop| hop.server != ServerId(2)));
    }
    let file = rig.begin("/g", 3);
    let chunks = allocate_chunks(rig.session, file, 1);
    assert_eq!(rig.get(chunks).chunks.remove(0).chain.len(), 3);
}

#[test]
fn a_client_that_lost_servers_takes_fewer_but_not_below_the_minimum() {
    let mut rig = Rig::new();
    rig.servers(3);
    let file = rig.begin("/f", 3);
    let mut request = allocate_chunks(rig.session, file, 1);
    request.exclude = vec![ServerId(2)];
    assert_eq!(rig.status(request.clone()), Status::TooFewServers);
    request.fewest = 1;
    let chain = rig.get(request.clone()).chunks.remove(0).chain;
    let mut servers: Vec<u64> = chain.iter().map(|hop| hop.server.0).collect();
    servers.sort_unstable();
    assert_eq!(servers, [1, 3]);
    request.exclude.push(ServerId(3));
    assert_eq!(
        rig.status(request),
        Status::TooFewServers,
        "min_replicas is 2"
    );
}

#[test]
fn chunks_are_given_to_the_session_of_the_pending_file_only() {
    let mut rig = Rig::new();
    rig.servers(2);
    let file = rig.begin("/f", 2);
    let unknown = allocate_chunks(rig.session, FileId(99), 1);
    assert_eq!(rig.status(unknown), Status::PendingUnknown);
    let nobody = allocate_chunks(SessionId(99), file, 1);
    assert_eq!(rig.status(nobody), Status::SessionUnknown);
    let beyond = AllocateChunks {
        first_index: 262_144,
        ..allocate_chunks(rig.session, file, 1)
    };
    assert_eq!(rig.status(beyond), Status::TooLarge);
    let other = rig
        .get(OpenSession {
            nonce: [8; 16],
            name: String::new(),
        })
        .session;
    assert_eq!(
        rig.status(allocate_chunks(other, file, 1)),
        Status::PendingUnknown
    );
}

#[test]
fn only_what_was_given_out_for_a_file_is_published() {
    let mut rig = Rig::new();
    rig.servers(2);
    let (file, other) = (rig.begin("/f", 2), rig.begin("/g", 2));
    let (mine, theirs) = (
        rig.allocate(file, 1).remove(0),
        rig.allocate(other, 1).remove(0),
    );
    let stolen = publish(rig.request(), file, "/f", &[&theirs]);
    assert_eq!(rig.status(stolen), Status::InvalidArgument);
    let never = Allocation {
        handle: ChunkHandle(60_000),
        ..mine.clone()
    };
    let never = publish(rig.request(), file, "/f", &[&never]);
    assert_eq!(rig.status(never), Status::InvalidArgument);
    let mut single = publish(rig.request(), file, "/f", &[&mine]);
    single.chunks[0].servers.truncate(1);
    assert_eq!(
        rig.status(single),
        Status::InvalidArgument,
        "min_replicas is 2"
    );
    let sound = publish(rig.request(), file, "/f", &[&mine]);
    let node = rig.get(sound.clone()).node;
    assert_eq!(
        (node.size, node.sealed, node.crc32),
        (10, true, crc_of(mine.handle.0))
    );
    assert_eq!(rig.get(sound).node, node, "sent again");
    let anew = publish(rig.request(), file, "/f", &[&mine]);
    assert_eq!(rig.get(anew).node, node, "asked again under another id");
}

#[test]
fn an_upload_goes_on_over_a_restart() {
    let mut rig = Rig::new();
    rig.servers(2);
    let file = rig.begin("/f", 2);
    let before = rig.allocate(file, 1).remove(0);
    let mut rig = rig.restarted(config());
    rig.servers(2);
    let after = rig.allocate(file, 2).remove(1);
    assert!(
        after.handle.0 > 1_024,
        "the rest of the older range is skipped"
    );
    let publish = publish(rig.request(), file, "/f", &[&before, &after]);
    assert_eq!(rig.get(publish).node.size, u64::from(MIB) + 10);
}

#[test]
fn ranges_are_reserved_before_they_run_out() {
    let mut rig = Rig::new();
    rig.servers(2);
    let file = rig.begin("/f", 2);
    let request = allocate_chunks(rig.session, file, 256);
    for _ in 0..5 {
        assert_eq!(rig.get(request.clone()).chunks.len(), 256);
    }
    let ends: Vec<u64> = rig
        .log
        .iter()
        .filter_map(|entry| match &entry.command {
            Command::RangesReserved(body) => Some(body.handles_end),
            _ => None,
        })
        .collect();
    assert_eq!(ends, [1_025, 2_049]);
}

/// A publication that named handle 0, or a chunk of no bytes, went into the log as it came. No
/// reading of the log took it, so the master never started again.
#[test]
fn a_publication_that_no_start_could_read_is_not_logged() {
    let mut rig = Rig::new();
    rig.servers(2);
    let file = rig.begin("/f", 2);
    let chunk = rig.allocate(file, 1).remove(0);
    let spoil: [fn(&mut SealedChunk); 4] = [
        |chunk| chunk.handle = ChunkHandle::NONE,
        |chunk| chunk.version = ChunkVersion::NONE,
        |chunk| chunk.length = 0,
        |chunk| chunk.length = 64 * MIB + 1,
    ];
    let entries = rig.log.len();
    for spoil in spoil {
        let mut request = publish(rig.request(), file, "/f", &[&chunk]);
        spoil(&mut request.chunks[0]);
        request.size = u64::from(request.chunks[0].length);
        assert_eq!(rig.status(request), Status::InvalidArgument);
    }
    assert_eq!(rig.log.len(), entries);
}

/// File ids can be guessed: a publication right behind the entry that makes its pending file met
/// no pending file yet, and its chunks were not asked after. So a file could take handles that the
/// master was yet to give to others.
#[test]
fn a_publication_of_a_guessed_file_is_refused() {
    let mut rig = Rig::new();
    rig.servers(2);
    let file = rig.begin("/other", 2);
    let given = rig.allocate(file, 1).remove(0);
    let guessed = FileId(file.0 + 1);
    let create = CreatePending {
        replicas: 2,
        ..create(rig.request(), "/f")
    };
    let create = rig.send(CLIENT, create);
    let future = Allocation {
        handle: ChunkHandle(given.handle.0 + 1),
        ..given
    };
    let publish = publish(rig.request(), guessed, "/f", &[&future]);
    let publish = rig.send(CLIENT, publish);
    let replies = rig.settle();
    let status = |token: Token| {
        replies.iter().find_map(|one| match one {
            Action::Reply { to, reply } if *to == token => Some(
                reply
                    .as_ref()
                    .map_or_else(|failure| failure.status, |_| Status::Ok),
            ),
            _ => None,
        })
    };
    assert!(rig.machine.state().pending.contains_key(&guessed));
    assert_eq!(status(create), Some(Status::Ok));
    assert_eq!(status(publish), Some(Status::PendingUnknown));
}

/// Counting on from the highest index that a request can name overflowed.
#[test]
fn nothing_is_located_behind_the_end() {
    let mut rig = Rig::new();
    rig.servers(2);
    rig.upload("/f", 2);
    for first_index in [1, u32::MAX] {
        let reply = rig.get(Locate {
            first_index,
            ..locate("/f")
        });
        assert_eq!((reply.chunks, reply.slots), (vec![], 1));
    }
}

/// The servers that a publication names are the client's word. Numbers of its choice, 128 bytes a
/// chunk, went into the log, where a header that is made of them could stand for damage at a start.
#[test]
fn a_publication_names_servers_of_this_cluster() {
    let mut rig = Rig::new();
    rig.servers(2);
    let file = rig.begin("/f", 2);
    let chunk = rig.allocate(file, 1).remove(0);
    let mut request = publish(rig.request(), file, "/f", &[&chunk]);
    request.chunks[0].servers.push(ServerId(0x0001_544e_4553));
    let entries = rig.log.len();
    assert_eq!(rig.status(request), Status::InvalidArgument);
    assert_eq!(rig.log.len(), entries);
}

/// A publication of a file that was there was logged with whatever chunks it named, as none of them
/// was looked at. Four chunks without servers could be the header of an entry, down to its CRC: behind
/// an entry that a crash had torn a start took it for damage, and refused.
#[test]
fn a_publication_of_a_file_that_is_there_brings_no_numbers_into_the_log() {
    let mut rig = Rig::new();
    rig.servers(2);
    let file = rig.begin("/f", 2);
    let chunk = rig.allocate(file, 1).remove(0);
    let sound = publish(rig.request(), file, "/f", &[&chunk]);
    let node = rig.get(sound).node;
    let mut again = publish(rig.request(), file, "/f", &[&chunk]);
    again.chunks = vec![again.chunks.remove(0); 4];
    for chunk in &mut again.chunks {
        chunk.version = ChunkVersion(0x0001_544e_4553);
        chunk.servers.clear();
    }
    let entries = rig.log.len();
    assert_eq!(rig.get(again.clone()).node, node);
    assert_eq!(rig.get(again).node, node, "kept as an answer");
    let logged: Vec<&Command> = rig.log[entries..].iter().map(|one| &one.command).collect();
    let [Command::FilePublished(body)] = logged[..] else {
        panic!("{logged:?}");
    };
    assert_eq!((body.file, &body.chunks), (file, &vec![]));
}

/// What was given out for a pending file is kept in memory until it ends, and nothing bounded it: a
/// client that asked for the same index again and again had the master grow without an end.
#[test]
fn no_upload_is_given_chunks_without_end() {
    let mut rig = Rig::new();
    rig.servers(2);
    let (file, other) = (rig.begin("/f", 2), rig.begin("/g", 2));
    for _ in 1..ALLOCATED_CHUNKS_MAX {
        rig.machine.allocations.draw(file);
    }
    let session = rig.session;
    let mut ask = |file, count| rig.status(allocate_chunks(session, file, count));
    assert_eq!(ask(file, 2), Status::TooLarge);
    // No range is as long as what was drawn here.
    assert_eq!(ask(file, 1), Status::Overloaded);
    assert_eq!(ask(other, 2), Status::Overloaded);
}
