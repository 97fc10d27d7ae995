//! Control connections over loopback: both directions, strangers, and peers that don't read.

use std::time::Duration;

use sarsen_edge::connection::{Arrival, CallError, ConnectError, Connection, Incoming};
use sarsen_edge::random;
use sarsen_protocol::deframe::frame;
use sarsen_protocol::handshake::{HandshakeError, Identity};
use sarsen_protocol::id::{ChunkHandle, ClusterId, Epoch, ServerId};
use sarsen_protocol::key::SecretKey;
use sarsen_protocol::message::{
    AnyMessage, Capacity, CapacityReply, ErrorBody, Finding, Fsck, FsckFinding, FsckReply, Kind,
    Ping, Repairs, Report, ReportReply, Role, ServerReport, ServerState, Start, Stat,
};
use sarsen_protocol::status::Status;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const DEADLINE: Duration = Duration::from_secs(20);

fn identity(role: Role) -> Identity {
    Identity {
        role,
        cluster_id: ClusterId::NONE,
        start: Start::default(),
    }
}

async fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    (listener, addr)
}

async fn pair() -> ((Connection, Incoming), (Connection, Incoming)) {
    let key = SecretKey::new(random());
    let (listener, addr) = listener().await;
    let (accepted, dialled) = tokio::join!(
        async {
            let (stream, _) = listener.accept().await.unwrap();
            Connection::accept(stream, identity(Role::Master), &key)
                .await
                .unwrap()
        },
        Connection::dial(&addr, identity(Role::Client), &key, DEADLINE),
    );
    (accepted, dialled.unwrap())
}

fn capacity(total: u64) -> CapacityReply {
    CapacityReply {
        total,
        free: 0,
        used: 0,
        trash: 0,
    }
}

#[tokio::test]
async fn both_sides_ask_at_once_and_replies_find_their_calls() {
    let ((master, mut asked), (client, mut ordered)) = pair().await;
    assert_eq!(client.peer().identity.role, Role::Master);
    assert_eq!(master.peer().identity.role, Role::Client);
    let master_side = async {
        // Answer in the opposite order.
        let (first, second) = (asked.next().await.unwrap(), asked.next().await.unwrap());
        assert_eq!(first.message, AnyMessage::Capacity(Capacity));
        for (request, total) in [(second, 2), (first, 1)] {
            master.reply(request.id, Kind::Capacity, Ok(capacity(total).into()));
        }
        master.call(&Capacity).await
    };
    let client_side = async {
        let order = ordered.next().await.unwrap();
        let body = ErrorBody::new("no");
        client.reply(order.id, Kind::Capacity, Err((Status::Unsupported, body)));
    };
    let (first, second, pushed, ()) = tokio::join!(
        client.call(&Capacity),
        client.call(&Capacity),
        master_side,
        client_side
    );
    assert_eq!(first.unwrap(), capacity(1));
    assert_eq!(second.unwrap(), capacity(2));
    assert!(matches!(
        pushed,
        Err(CallError::Status {
            status: Status::Unsupported,
            ..
        })
    ));
}

/// Ten thousand paths of four kilobytes do not fit into a frame, and that is no reason to die.
#[tokio::test]
async fn a_reply_that_is_too_long_is_refused_and_the_connection_lives() {
    let ((master, mut asked), (client, _ordered)) = pair().await;
    let finding = FsckFinding {
        finding: Finding::Missing,
        handle: ChunkHandle(1),
        path: "/".repeat(4000),
        want: 3,
        have: 0,
        server: ServerId::NONE,
    };
    let findings = vec![finding; 10_000];
    let page = Fsck {
        path: "/".into(),
        after: ChunkHandle::NONE,
        limit: 10_000,
    };
    let (answer, ()) = tokio::join!(client.call(&page), async {
        let request = asked.next().await.unwrap();
        let next = ChunkHandle(1);
        let reply = FsckReply {
            files: 1,
            chunks: 1,
            findings,
            next,
            more: false,
        };
        master.reply(request.id, Kind::Fsck, Ok(reply.into()));
    });
    assert!(matches!(
        answer,
        Err(CallError::Status {
            status: Status::TooLarge,
            ..
        })
    ));
    let (answer, ()) = tokio::join!(client.call(&Capacity), async {
        let request = asked.next().await.unwrap();
        master.reply(request.id, Kind::Capacity, Ok(capacity(1).into()));
    });
    assert_eq!(answer.unwrap(), capacity(1));
}

/// An answer of another kind was an assertion that failed: what one peer had asked ended the server,
/// with all its peers.
#[tokio::test]
async fn an_answer_of_another_kind_fails_its_request_alone() {
    let ((master, mut asked), (client, _ordered)) = pair().await;
    let (answer, ()) = tokio::join!(client.call(&Capacity), async {
        let request = asked.next().await.unwrap();
        master.reply(request.id, Kind::Capacity, Ok(large_report().into()));
    });
    assert!(matches!(
        answer,
        Err(CallError::Status {
            status: Status::Internal,
            ..
        })
    ));
    let (answer, ()) = tokio::join!(client.call(&Capacity), async {
        let request = asked.next().await.unwrap();
        master.reply(request.id, Kind::Capacity, Ok(capacity(1).into()));
    });
    assert_eq!(answer.unwrap(), capacity(1));
}

#[tokio::test]
async fn a_call_ends_with_its_connection() {
    let ((master, mut asked), (client, _ordered)) = pair().await;
    let (call, ()) = tokio::join!(client.call(&Capacity), async {
        asked.next().await.unwrap();
        master.close();
    });
    assert!(matches!(call, Err(CallError::Closed)));
    assert!(matches!(
        client.call(&Capacity).await,
        Err(CallError::Closed)
    ));
    assert!(client.is_closed());
}

#[tokio::test]
async fn a_call_given_up_leaves_the_connection_good() {
    let ((master, mut asked), (client, _ordered)) = pair().await;
    let request = tokio::select! {
        _ = client.call(&Capacity) => panic!("nobody answered"),
        request = asked.next() => request.unwrap(),
    };
    master.reply(request.id, Kind::Capacity, Ok(capacity(1).into()));
    let (call, ()) = tokio::join!(client.call(&Capacity), async {
        let request = asked.next().await.unwrap();
        master.reply(request.id, Kind::Capacity, Ok(capacity(2).into()));
    });
    assert_eq!(call.unwrap(), capacity(2));
}

#[tokio::test]
async fn another_key_is_refused_on_both_sides() {
    let (listener, addr) = listener().await;
    let other_key = SecretKey::new([2; 32]);
    let (accepted, dialled) = tokio::join!(
        async {
            let (stream, _) = listener.accept().await.unwrap();
            Connection::accept(stream, identity(Role::Master), &SecretKey::new([1; 32])).await
        },
        Connection::dial(&addr, identity(Role::Client), &other_key, DEADLINE),
    );
    let error = dialled.unwrap_err();
    assert!(!error.is_passing());
    assert!(matches!(
        error,
        ConnectError::Handshake {
            cause: HandshakeError::WrongKey,
            ..
        }
    ));
    // The listener only sees the dialer go: it was told nothing.
    assert!(accepted.is_err());
}

/// What a listener sends to somebody who speaks something else.
async fn answer_to(bytes: &[u8]) -> Vec<u8> {
    let (listener, addr) = listener().await;
    let (accepted, answer) = tokio::join!(
        async {
            let (stream, _) = listener.accept().await.unwrap();
            Connection::accept(stream, identity(Role::Master), &SecretKey::new([1; 32])).await
        },
        async {
            let mut stream = TcpStream::connect(&addr).await.unwrap();
            stream.write_all(bytes).await.unwrap();
            let mut answer = Vec::new();
            // A reset is as good an end as a close.
            let _ = stream.read_to_end(&mut answer).await;
            answer
        },
    );
    assert!(accepted.is_err());
    answer
}

#[tokio::test]
async fn strangers_are_shown_out() {
    let mut tls = vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    tls.resize(517, 0);
    assert_eq!(answer_to(&tls).await, b"", "a TLS hello");
    assert_eq!(answer_to(&[0xa5; 4096]).await, b"", "noise");
    // A good frame before the hello: told what is wrong.
    let answer = answer_to(&frame(&Ping, 1)).await;
    assert!(String::from_utf8_lossy(&answer).contains("out of turn"));
}

#[tokio::test]
async fn calls_beyond_the_limit_wait_their_turn() {
    let ((master, mut asked), (client, mut ordered)) = pair().await;
    let path = "/".repeat(4000);
    let calls: Vec<_> = (0..3000)
        .map(|_| {
            let (client, path) = (client.clone(), path.clone());
            tokio::spawn(async move { client.call(&Stat { path }).await.map(|_| ()) })
        })
        .collect();
    // Nothing is answered: no more than the limit is ever handed out.
    let mut taken = Vec::new();
    while taken.len() < 1024 {
        taken.push(asked.next().await.unwrap().id);
    }
    // A question the other way comes back behind whatever the client had sent by then.
    let (answer, ()) = tokio::join!(master.call(&Capacity), async {
        let order = ordered.next().await.unwrap();
        client.reply(order.id, Kind::Capacity, Ok(capacity(1).into()));
    });
    answer.unwrap();
    let more = tokio::time::timeout(Duration::ZERO, asked.next()).await;
    assert!(more.is_err(), "a request beyond the limit");
    // Once answered, the others come.
    let mut answered = 0;
    while answered < 3000 {
        let id = match taken.pop() {
            Some(id) => id,
            None => asked.next().await.unwrap().id,
        };
        let error = ErrorBody::new("nothing here");
        master.reply(id, Kind::Stat, Err((Status::NotFound, error)));
        answered += 1;
    }
    for call in calls {
        let answer = call.await.unwrap();
        assert!(matches!(
            answer,
            Err(CallError::Status {
                status: Status::NotFound,
                ..
            })
        ));
    }
}

/// The peer's answers went another way than its requests, and were acted on before requests that had
/// come ahead of them.
#[tokio::test]
async fn answers_to_orders_keep_their_place_among_requests() {
    let ((master, mut incoming), (server, mut orders)) = pair().await;
    for order in 0..100 {
        master.order(order, &Capacity.into());
    }
    let mut calls = Vec::new();
    for total in 0..100 {
        let order = orders.next().await.unwrap();
        calls.push(server.begin_now(&Capacity));
        let answer = match total % 2 {
            0 => Ok(capacity(total).into()),
            _ => Err((Status::NotFound, ErrorBody::new("none"))),
        };
        server.reply(order.id, Kind::Capacity, answer);
    }
    for total in 0..100 {
        let Some(Arrival::Request(request)) = incoming.next_arrival().await else {
            panic!("the request was sent first");
        };
        assert_eq!(request.message, Capacity.into());
        let Some(Arrival::Answer(answer)) = incoming.next_arrival().await else {
            panic!("the answer was sent behind it");
        };
        assert_eq!(answer.order, total);
        match total % 2 {
            0 => assert_eq!(answer.answer, Ok(capacity(total).into())),
            _ => assert_eq!(answer.answer.unwrap_err().0, Status::NotFound),
        }
    }
}

/// What is in line goes out in order as others are answered, without those that were given up; what
/// must keep its place among replies does not wait in line.
#[tokio::test]
async fn a_call_that_was_given_up_in_line_is_not_sent() {
    let ((master, mut asked), (client, _ordered)) = pair().await;
    let stat = |number: usize| Stat {
        path: format!("/{number}"),
    };
    let mut calls: Vec<_> = (0..1027)
        .map(|number| client.begin(&stat(number)))
        .collect();
    drop(calls.remove(1025));
    let _now = client.begin_now(&stat(2000));
    let order = (0..1024).chain([2000, 1024, 1026]);
    for number in order {
        let request = asked.next().await.unwrap();
        assert_eq!(request.message, stat(number).into());
        let error = ErrorBody::new("nothing here");
        master.reply(request.id, Kind::Stat, Err((Status::NotFound, error)));
    }
}

/// The number of a call that is in line is none that the peer can know.
#[tokio::test]
async fn a_reply_to_what_was_not_sent_ends_the_connection() {
    let ((master, _asked), (client, _ordered)) = pair().await;
    let calls: Vec<_> = (0..1025).map(|_| client.begin(&Capacity)).collect();
    master.reply(1025, Kind::Capacity, Ok(capacity(1).into()));
    client.closed().await;
    for call in calls {
        assert!(matches!(call.answer().await, Err(CallError::Closed)));
    }
}

/// A peer that asked for a thousand large answers and read none of them made the server hold all
/// of them.
#[tokio::test]
async fn large_answers_wait_for_a_peer_that_reads() {
    const ANSWERS: usize = 200;
    let ((master, mut asked), (client, _ordered)) = pair().await;
    let calls: Vec<_> = (0..ANSWERS)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.call(&Report).await })
        })
        .collect();
    let mut taken = Vec::new();
    while taken.len() < ANSWERS {
        taken.push(asked.next().await.unwrap().id);
    }
    // All at once, before the connection's own task can send any: 200 times a mebibyte.
    for id in taken {
        master.reply(id, Kind::Report, Ok(large_report().into()));
    }
    let (mut given, mut refused) = (0, 0);
    for call in calls {
        match call.await.unwrap() {
            Ok(report) => {
                assert_eq!(report, large_report());
                given += 1;
            }
            Err(CallError::Status { status, .. }) => {
                assert_eq!(status, Status::Overloaded);
                refused += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(given + refused, ANSWERS);
    assert!((1..=8).contains(&given), "{given} were held");
    // Who has read gets the next one.
    let (answer, ()) = tokio::join!(client.call(&Report), async {
        let id = asked.next().await.unwrap().id;
        master.reply(id, Kind::Report, Ok(large_report().into()));
    });
    assert_eq!(answer.unwrap(), large_report());
}

/// About a mebibyte of servers.
fn large_report() -> ReportReply {
    let server = |id| ServerReport {
        id: ServerId(id),
        control_addr: "a".repeat(250),
        data_addr: "b".repeat(250),
        http_addr: "c".repeat(250),
        rack: "d".repeat(250),
        state: ServerState::Live,
        last_heartbeat: 1,
        disks: Vec::new(),
    };
    ReportReply {
        epoch: Epoch::default(),
        safe_mode: false,
        read_only: false,
        servers: (0..1024).map(server).collect(),
        repairs: Repairs::default(),
    }
}
