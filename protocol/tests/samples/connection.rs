//! The hello, the end of a connection, sessions (`spec/wire.md` section 8, `spec/messages.md`
//! sections 3 and 4).

use sarsen_protocol::id::{ClusterId, DirectoryId, ServerId, SessionId, StartNonce, StartNumber};
use sarsen_protocol::message::{
    AnyMessage, CloseSession, ErrorBody, Goodbye, Hello, HelloDone, HelloProof, HelloReply,
    KeepSession, OpenSession, Ping, Plane, Pong, Role, SessionClosed, SessionKept, SessionOpened,
    Start,
};

use super::{
    CHUNK_SIZE, SERIAL, SERVER, SESSION, Samples, VERSION, cluster, counting, directory,
    other_directory, put,
};

pub(super) fn add(samples: &mut Samples) {
    hello(samples);
    sessions(samples);
    put(
        samples,
        "Goodbye",
        AnyMessage::Goodbye(Goodbye(ErrorBody {
            text: "this replica is behind: größer".into(),
            server: SERVER,
            version: VERSION,
            serial: SERIAL,
            retry_after: 0x0102_0304,
        })),
    );
    put(samples, "Ping", Ping);
    put(samples, "Pong", Pong);
}

fn hello(samples: &mut Samples) {
    put(
        samples,
        "Hello of a chunkserver",
        Hello {
            version_min: 1,
            version_max: 3,
            role: Role::Chunkserver,
            plane: Plane::Control,
            features: 0x8000_0000_0000_0001,
            cluster_id: cluster(0xc0),
            start: Start {
                server_id: SERVER,
                directory_id: directory(),
                start_number: StartNumber(0x1c),
                start_nonce: StartNonce(0xf1f2_f3f4_f5f6_f7f8),
            },
            nonce: counting(0x80),
        },
    );
    put(
        samples,
        "Hello of a client that knows nothing yet",
        Hello {
            version_min: 1,
            version_max: 1,
            role: Role::Client,
            plane: Plane::Data,
            features: 0,
            cluster_id: ClusterId::NONE,
            start: Start {
                server_id: ServerId::NONE,
                directory_id: DirectoryId::NONE,
                start_number: StartNumber::NONE,
                start_nonce: StartNonce::NONE,
            },
            nonce: counting(0x90),
        },
    );
    put(
        samples,
        "Hello of a client that tells its number",
        Hello {
            version_min: 1,
            version_max: 1,
            role: Role::Client,
            plane: Plane::Data,
            features: 0,
            cluster_id: ClusterId::NONE,
            start: Start {
                server_id: ServerId::NONE,
                directory_id: DirectoryId::NONE,
                start_number: StartNumber::NONE,
                start_nonce: StartNonce(0x0102_0304_0506_0708),
            },
            nonce: counting(0x90),
        },
    );
    put(
        samples,
        "HelloReply",
        HelloReply {
            version: 1,
            role: Role::Master,
            plane: Plane::Data,
            features: 0x4000_0000_0000_0002,
            cluster_id: cluster(0xb0),
            start: Start {
                server_id: ServerId(0x62),
                directory_id: other_directory(),
                start_number: StartNumber(0x1e),
                start_nonce: StartNonce(0xe1e2_e3e4_e5e6_e7e8),
            },
            nonce: counting(0xa0),
            proof: counting(0),
        },
    );
    put(
        samples,
        "HelloProof",
        HelloProof {
            proof: counting(0x60),
        },
    );
    put(samples, "HelloDone", HelloDone);
}

fn sessions(samples: &mut Samples) {
    put(
        samples,
        "OpenSession",
        OpenSession {
            nonce: counting(0x70),
            name: "sarsen on größe".into(),
        },
    );
    put(
        samples,
        "SessionOpened",
        SessionOpened {
            session: SESSION,
            expiry: 60_001,
            chunk_size: CHUNK_SIZE,
            replicas: 3,
            min_replicas: 2,
            lease: 60_002,
            suspect_after: 60_003,
        },
    );
    put(samples, "KeepSession", KeepSession { session: SESSION });
    put(samples, "SessionKept", SessionKept);
    let session = SessionId(SESSION.0 + 1);
    put(samples, "CloseSession", CloseSession { session });
    put(samples, "SessionClosed", SessionClosed);
}
