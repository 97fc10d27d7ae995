//! Changes and questions of clients.

use super::*;
use crate::core::command::FolderMade;

#[test]
fn a_first_start_makes_the_cluster_before_it_serves() {
    let mut rig = Rig::unstarted(config());
    let entry = |index, command| {
        Action::Append(Entry {
            term: 1,
            index,
            time_ms: 1_000_000,
            request: None,
            command,
        })
    };
    let epoch = Epoch {
        number: 1,
        incarnation: 7,
    };
    let expected = [
        entry(1, genesis().into()),
        entry(2, EpochRaised { epoch }.into()),
    ];
    assert_eq!(rig.actions(), expected);
    rig.machine.handle_connected(CLIENT, Role::Client);
    assert!(!rig.machine.is_serving());
    let to = rig.send(CLIENT, stat("/"));
    let failure = Failure::from(Status::Overloaded).retry_after(1000);
    assert_eq!(
        rig.actions(),
        [Action::Reply {
            to,
            reply: Err(failure)
        }]
    );

    rig.machine.handle_flushed(2, rig.now);
    assert!(rig.machine.is_serving());
    assert!(
        !rig.machine.is_safe_mode(),
        "an empty cluster has nothing to wait for"
    );
    assert_eq!(rig.actions(), []);
}

#[test]
fn a_change_is_answered_when_it_is_durable() {
    let mut rig = Rig::new();
    let request = rig.make_folder("/a");
    let to = rig.send(CLIENT, request.clone());
    let index = rig.log.len() as u64 + 1;
    let command = FolderMade {
        parents: false,
        path: crate::core::scripted::path("/a"),
    };
    let entry = Entry {
        term: 1,
        index,
        time_ms: rig.now.unix_ms,
        request: Some(request.request),
        command: command.into(),
    };
    assert_eq!(rig.actions(), [Action::Append(entry)]);
    let read = rig.send(CLIENT, stat("/a"));
    let reply = Err(Status::NotFound.into());
    let seen = rig.actions();
    assert_eq!(
        seen,
        [Action::Reply { to: read, reply }],
        "nobody sees what a crash could undo"
    );
    rig.machine.handle_flushed(index, rig.now);
    let made = sarsen_protocol::message::FolderMade { file_id: FileId(2) };
    assert_eq!(
        rig.actions(),
        [Action::Reply {
            to,
            reply: Ok(made.into())
        }]
    );
}

#[test]
fn many_changes_share_a_flush_and_are_answered_in_order() {
    let mut rig = Rig::new();
    let parent = rig.make_folder("/a");
    let child = rig.make_folder("/a/b");
    let tokens = [rig.send(CLIENT, parent), rig.send(CLIENT, child)];
    assert_eq!(
        rig.actions().len(),
        2,
        "both are on their way before either is applied"
    );
    rig.machine.handle_flushed(rig.log.len() as u64, rig.now);
    let made = |id| {
        Ok(sarsen_protocol::message::FolderMade {
            file_id: FileId(id),
        }
        .into())
    };
    let expected = [
        Action::Reply {
            to: tokens[0],
            reply: made(2),
        },
        Action::Reply {
            to: tokens[1],
            reply: made(3),
        },
    ];
    assert_eq!(rig.actions(), expected);
}

#[test]
fn a_request_sent_again_is_done_once() {
    let mut rig = Rig::new();
    let request = rig.make_folder("/a");
    let first = rig.send(CLIENT, request.clone());
    let second = rig.send(CLIENT, request.clone());
    assert_eq!(
        rig.actions().len(),
        1,
        "the second waits for the first one's entry"
    );
    rig.machine.handle_flushed(rig.log.len() as u64, rig.now);
    let reply: Result<AnyMessage, Failure> =
        Ok(sarsen_protocol::message::FolderMade { file_id: FileId(2) }.into());
    let expected = [
        Action::Reply {
            to: first,
            reply: reply.clone(),
        },
        Action::Reply {
            to: second,
            reply: reply.clone(),
        },
    ];
    assert_eq!(rig.actions(), expected);

    let third = rig.send(CLIENT, request.clone());
    assert_eq!(
        rig.actions(),
        [Action::Reply {
            to: third,
            reply: reply.clone()
        }]
    );

    let mut restarted = rig.restarted(config());
    assert_eq!(
        restarted.ask(request.clone()),
        reply,
        "also by the next master"
    );

    let other = Remove {
        request: request.request,
        path: "/a".to_owned(),
        recursive: true,
        purge: true,
    };
    assert_eq!(
        restarted.status(other),
        Status::InvalidArgument,
        "an id has one request"
    );
}

/// A client that sends to `/f`, and another that makes it.
fn two_sessions() -> (Rig, SessionId) {
    let mut rig = Rig::new();
    rig.servers(2);
    let opened = rig.get(OpenSession {
        nonce: [4; 16],
        name: "another".to_owned(),
    });
    (rig, opened.session)
}

fn truncate(request: RequestId) -> Truncate {
    Truncate {
        request,
        path: "/f".to_owned(),
        size: 5,
    }
}

fn make_in(session: SessionId) -> MakeFile {
    MakeFile {
        request: RequestId {
            session,
            number: 1,
            lowest_outstanding: 1,
        },
        path: "/f".to_owned(),
        replicas: 0,
        parents: false,
    }
}

/// Its duplicate came from a connection that the client had given up, when the client had been told
/// that there was no such file, and another had made one: that was cut.
#[test]
fn a_request_that_was_refused_is_not_done_when_it_comes_again() {
    let (mut rig, another) = two_sessions();
    rig.numbers = 6;
    // Both are outstanding.
    let (first, second) = (rig.request_id(6), rig.request_id(7));
    let second = RequestId {
        lowest_outstanding: 6,
        ..second
    };
    for request in [second, first] {
        assert_eq!(rig.status(truncate(request)), Status::NotFound);
    }
    let made = rig.get(make_in(another)).node;
    let last = rig.log.len();
    for request in [first, second] {
        assert_eq!(rig.status(truncate(request)), Status::NotFound);
    }
    // A later one, refused too, says that the client has its answers.
    rig.numbers = 7;
    let later = Truncate {
        path: "/g".to_owned(),
        ..truncate(rig.request())
    };
    assert_eq!(rig.status(later), Status::NotFound);
    for request in [first, second] {
        assert_eq!(rig.status(truncate(request)), Status::RequestForgotten);
    }
    assert_eq!(rig.log.len(), last);
    let path = "/f".to_owned();
    assert_eq!(rig.get(Stat { path }).node, made);
    let anew = truncate(rig.request());
    assert_eq!(rig.status(anew), Status::Ok, "another request is done");
}

#[test]
fn a_request_that_was_refused_for_now_may_be_sent_again() {
    let (mut rig, another) = two_sessions();
    let (reply, _) = rig.exchange(ConnectionId(2), {
        let mut full = heartbeat(2);
        full.disks[0].disk.free = 1000;
        full
    });
    assert!(reply.is_ok());
    let make = make_in(another);
    assert_eq!(rig.status(make.clone()), Status::NoSpace);
    rig.machine.handle_disconnected(ConnectionId(2), rig.now);
    let other = MakeFile {
        request: rig.request(),
        ..make.clone()
    };
    assert_eq!(rig.status(other.clone()), Status::TooFewServers);
    rig.server(3);
    assert_eq!(rig.status(make), Status::NoSpace, "that was its answer");
    assert_eq!(rig.status(other), Status::Ok);
}

/// A crash between the flush and the reply: the log has the entry, the client no answer.
#[test]
fn an_answer_that_was_lost_with_the_master_is_given_by_the_next() {
    let mut rig = Rig::new();
    let request = rig.make_folder("/a");
    rig.send(CLIENT, request.clone());
    rig.actions();
    let mut restarted = rig.restarted(config());
    let entries = restarted.log.len();
    let made = sarsen_protocol::message::FolderMade { file_id: FileId(2) };
    assert_eq!(restarted.ask(request), Ok(made.into()));
    assert_eq!(restarted.log.len(), entries);
}

#[test]
fn refusals_have_their_status() {
    let mut rig = Rig::new();
    let request = rig.make_folder("/a");
    rig.get(request);
    for (path, status) in [
        ("/a", Status::AlreadyExists),
        ("/x/y", Status::NotFound),
        ("/a/../b", Status::NameInvalid),
        ("a", Status::NameInvalid),
        ("/a\0", Status::NameInvalid),
        ("/", Status::AlreadyExists),
    ] {
        let request = rig.make_folder(path);
        assert_eq!(rig.status(request), status, "{path:?}");
    }
    let stranger = RequestId {
        session: SessionId(99),
        number: 1,
        lowest_outstanding: 1,
    };
    let request = MakeFolder {
        request: stranger,
        path: "/b".to_owned(),
        parents: false,
    };
    assert_eq!(rig.status(request), Status::SessionUnknown);
    assert_eq!(
        rig.status(KeepSession {
            session: SessionId(99)
        }),
        Status::SessionUnknown
    );
    let old = RequestId {
        session: rig.session,
        number: 1,
        lowest_outstanding: 1,
    };
    let request = MakeFolder {
        request: old,
        path: "/b".to_owned(),
        parents: false,
    };
    assert_eq!(rig.status(request), Status::RequestForgotten);
    let far = RequestId {
        session: rig.session,
        number: 100_000,
        lowest_outstanding: 10,
    };
    let request = MakeFolder {
        request: far,
        path: "/b".to_owned(),
        parents: false,
    };
    assert_eq!(rig.status(request), Status::TooLarge);
}

#[test]
fn a_session_lives_by_its_nonce_until_it_is_closed() {
    let mut rig = Rig::new();
    let open = OpenSession {
        nonce: [3; 16],
        name: "again".to_owned(),
    };
    let opened = rig.get(open.clone());
    assert_eq!(opened.session, rig.session);
    assert_eq!((opened.expiry, opened.chunk_size), (3_600_000, MIB));
    rig.get(CloseSession {
        session: rig.session,
    });
    rig.get(CloseSession {
        session: rig.session,
    });
    let request = rig.make_folder("/a");
    assert_eq!(rig.status(request), Status::SessionUnknown);
    assert_ne!(rig.get(open).session, rig.session);
}

#[test]
fn folders_are_listed_in_pages() {
    let mut rig = Rig::new();
    for name in ["b", "a", "c"] {
        let request = rig.make_folder(&format!("/{name}"));
        rig.get(request);
    }
    let list = |path: &str, after: &str, limit| List {
        path: path.to_owned(),
        after: after.to_owned(),
        limit,
    };
    let mut page = |after: &str, limit| {
        let reply = rig.get(list("/", after, limit));
        let names: Vec<String> = reply.entries.into_iter().map(|entry| entry.name).collect();
        (names.join(""), reply.more)
    };
    assert_eq!(page("", 2), ("ab".to_owned(), true));
    assert_eq!(page("b", 2), ("c".to_owned(), false));
    assert_eq!(page("c", 2), (String::new(), false));
    assert_eq!(rig.status(list("/nope", "", 1)), Status::NotFound);
}

#[test]
fn trash_is_listed_restored_and_emptied() {
    let mut rig = Rig::new();
    for path in ["/a", "/b", "/c"] {
        let request = rig.make_folder(path);
        rig.get(request);
        let request = rig.remove(path, false);
        assert_eq!(rig.get(request), Removed { files: 0, bytes: 0 });
    }
    let listed = rig.get(ListTrash { after: 0, limit: 2 });
    let rows: Vec<(u64, &str)> = listed
        .entries
        .iter()
        .map(|entry| (entry.entry, entry.path.as_str()))
        .collect();
    assert_eq!((rows, listed.more), (vec![(2, "/a"), (3, "/b")], true));
    let request = RestoreTrash {
        request: rig.request(),
        entry: 3,
        target: String::new(),
    };
    assert_eq!(rig.get(request).path, "/b");
    let request = EmptyTrash {
        request: rig.request(),
        entry: 0,
    };
    assert_eq!(
        rig.get(request),
        TrashEmptied {
            entries: 2,
            bytes: 0
        }
    );
    assert_eq!(rig.get(ListTrash { after: 0, limit: 2 }).entries, []);
}

/// A client that asked the master what only a chunkserver answers lost its connection, although
/// `spec/wire.md` section 5 lets each receiver answer `unsupported`.
#[test]
fn what_a_role_does_not_answer_is_unsupported() {
    let mut rig = Rig::new();
    let server = ConnectionId(5);
    rig.machine.handle_connected(server, Role::Chunkserver);
    let first = rig.send(CLIENT, heartbeat(1));
    let second = rig.send(server, stat("/"));
    let refused = |action| match action {
        Action::Reply {
            to,
            reply: Err(failure),
        } => (to, failure.status),
        other => panic!("{other:?}"),
    };
    let refused: Vec<(Token, Status)> = rig.actions().into_iter().map(refused).collect();
    let unsupported = Status::Unsupported;
    assert_eq!(refused, [(first, unsupported), (second, unsupported)]);
}

/// `spec/messages.md` section 14: the form is known, the answer is that nobody serves it.
#[test]
fn what_a_master_does_not_serve_to_a_role_is_unsupported() {
    let mut rig = Rig::new();
    let server = ConnectionId(5);
    rig.machine.handle_connected(server, Role::Chunkserver);
    let seal = SealFile { path: "/".into() };
    // Each is of the other's role.
    let beat = heartbeat(5);
    let asked = [rig.send(server, seal), rig.send(CLIENT, beat)];
    let actions = rig.actions();
    assert_eq!(actions.len(), asked.len());
    for (action, asked) in actions.iter().zip(asked) {
        let Action::Reply {
            to,
            reply: Err(failure),
        } = action
        else {
            panic!("{action:?}");
        };
        assert_eq!((*to, failure.status), (asked, Status::Unsupported));
    }
}

#[test]
fn a_reply_that_nobody_asked_for_ends_the_connection() {
    let mut rig = Rig::new();
    rig.send(CLIENT, SessionKept);
    let actions = rig.actions();
    let [
        Action::Close {
            connection,
            failure,
        },
    ] = &actions[..]
    else {
        panic!("{actions:?}")
    };
    assert_eq!(
        (*connection, failure.status),
        (CLIENT, Status::ProtocolError)
    );
}

#[test]
fn a_checkpoint_is_asked_for_every_so_many_entries() {
    let mut rig = Rig::with(Config {
        checkpoint_entries: 5,
        ..config()
    });
    assert_eq!(rig.log.len(), 3);
    let requests = [
        rig.make_folder("/a"),
        rig.make_folder("/b"),
        rig.make_folder("/c"),
    ];
    for request in requests {
        rig.send(CLIENT, request);
    }
    let actions = rig.settle();
    let Some(Action::TakeCheckpoint { index: 6, body }) = actions.last() else {
        panic!("{actions:?}")
    };
    assert_eq!(checkpoint::decode(body).unwrap(), *rig.machine.state());
    let request = rig.make_folder("/d");
    assert!(rig.ask(request).is_ok(), "and not again at once");
}

/// A master that was started again more often than it took checkpoints never took one: each start
/// counted its entries anew, and the log grew without end.
#[test]
fn entries_of_earlier_starts_count_towards_a_checkpoint() {
    let config = Config {
        checkpoint_entries: 5,
        ..config()
    };
    let rig = Rig::with(config.clone());
    assert_eq!(rig.log.len(), 3);
    let mut rig = rig.restarted(config.clone());
    assert_eq!(rig.log.len(), 4, "an epoch");
    let mut third = Rig::on_log(config, rig.log.split_off(0));
    let actions = third.settle();
    assert!(
        matches!(actions[..], [Action::TakeCheckpoint { index: 5, .. }]),
        "{actions:?}"
    );
}

/// Long paths: a page of as many rows as were asked for would not fit a frame.
#[test]
fn trash_ends_a_page_before_it_is_too_long() {
    let mut rig = Rig::new();
    let path = long_path();
    for _ in 0..2500 {
        let made = MakeFolder {
            parents: true,
            ..rig.make_folder(&path)
        };
        rig.get(made);
        let removed = rig.remove(&path, false);
        rig.get(removed);
    }
    let (mut after, mut pages) = (0, Vec::new());
    loop {
        let page = rig.get(ListTrash {
            after,
            limit: 10_000,
        });
        assert!(page.to_body().len() < 9 * MIB as usize);
        pages.push(page.entries.len());
        after = page.entries.last().unwrap().entry;
        if !page.more {
            break;
        }
    }
    assert_eq!((pages.len(), pages.iter().sum()), (2, 2500));
}

/// `spec/messages.md` section 7: a download of more chunks than a page has is asking on when its file
/// is replaced. The page that describes it said `not_found`, which would have ended it.
#[test]
fn a_file_in_the_trash_is_located_by_its_id() {
    let mut rig = Rig::new();
    rig.servers(2);
    let (file, chunk) = rig.upload("/f", 2);
    let remove = rig.remove("/f", false);
    rig.get(remove);
    let by_id = Locate {
        path: String::new(),
        file_id: file,
        ..locate("/f")
    };
    assert_eq!(rig.get(by_id.clone()).chunks[0].handle, chunk.handle);
    assert_eq!(rig.status(locate("/f")), Status::NotFound);
    let file_id = rig.begin("/g", 2);
    assert_eq!(rig.status(Locate { file_id, ..by_id }), Status::NotFound);
}
