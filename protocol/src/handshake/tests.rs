//! A dialer and a listener without a socket between them.

use super::*;
use crate::deframe::Deframer;

const KEY: SecretKey = SecretKey::new([3; 32]);

fn client() -> Identity {
    Identity {
        role: Role::Client,
        cluster_id: ClusterId::NONE,
        start: Start::default(),
    }
}

fn master() -> Identity {
    Identity {
        role: Role::Master,
        cluster_id: ClusterId([9; 16]),
        start: Start::default(),
    }
}

fn parse(bytes: &[u8]) -> Frame {
    let mut deframer = Deframer::new(Plane::Control);
    deframer.buffer().extend_from_slice(bytes);
    deframer.next_frame().unwrap().unwrap()
}

/// Runs a hello to its end; each side's outcome.
fn run(
    dialer_key: SecretKey,
    dialer_identity: Identity,
    plane: Plane,
) -> (
    Result<Peer, HandshakeError>,
    Option<Result<Peer, HandshakeError>>,
) {
    let (mut dialer, hello) = Dialer::new(dialer_identity, plane, dialer_key, [1; 32]);
    let mut listener = Listener::new(master(), Plane::Control, KEY, [2; 32]);
    let reply = match listener.handle_hello(&parse(&hello)) {
        Ok(reply) => reply,
        Err(error) => {
            let told = parse(&refusal(Some(Kind::Hello), &error).unwrap());
            return (
                dialer.handle_reply(&told).map(|_| unreachable!()),
                Some(Err(error)),
            );
        }
    };
    let proof = match dialer.handle_reply(&parse(&reply)) {
        Ok(proof) => proof,
        Err(error) => return (Err(error), None),
    };
    let (peer, done) = listener.handle_proof(&parse(&proof)).unwrap();
    (dialer.handle_done(&parse(&done)), Some(Ok(peer)))
}

#[test]
fn both_sides_learn_who_the_other_is() {
    let (dialer, listener) = run(KEY, client(), Plane::Control);
    assert_eq!(dialer.unwrap().identity, master());
    assert_eq!(listener.unwrap().unwrap().identity, client());
}

#[test]
fn a_dialer_with_another_key_stops_before_it_proves_anything() {
    let (dialer, listener) = run(SecretKey::new([4; 32]), client(), Plane::Control);
    assert_eq!(dialer, Err(HandshakeError::WrongKey));
    assert_eq!(listener, None);
}

#[test]
fn a_dialer_that_only_claims_the_key_is_refused() {
    let (_, hello) = Dialer::new(client(), Plane::Control, KEY, [1; 32]);
    let mut listener = Listener::new(master(), Plane::Control, KEY, [2; 32]);
    listener.handle_hello(&parse(&hello)).unwrap();
    let proof = frame(&HelloProof { proof: [0; 32] }, 0);
    assert_eq!(
        listener.handle_proof(&parse(&proof)),
        Err(HandshakeError::WrongKey)
    );
    // One try a connection.
    assert!(matches!(
        listener.handle_proof(&parse(&proof)),
        Err(HandshakeError::Frame(_))
    ));
}

#[test]
fn a_listeners_proof_is_no_dialers_proof() {
    let (_, hello) = Dialer::new(client(), Plane::Control, KEY, [1; 32]);
    let mut listener = Listener::new(master(), Plane::Control, KEY, [2; 32]);
    let reply: HelloReply = parse(&listener.handle_hello(&parse(&hello)).unwrap())
        .message()
        .unwrap();
    let reflected = frame(&HelloProof { proof: reply.proof }, 0);
    assert_eq!(
        listener.handle_proof(&parse(&reflected)),
        Err(HandshakeError::WrongKey)
    );
}

#[test]
fn other_clusters_and_planes_are_refused_by_name() {
    let stranger = Identity {
        cluster_id: ClusterId([8; 16]),
        ..client()
    };
    let (dialer, _) = run(KEY, stranger, Plane::Control);
    assert!(matches!(
        dialer,
        Err(HandshakeError::Refused {
            status: Status::WrongCluster,
            ..
        })
    ));
    let (dialer, _) = run(KEY, client(), Plane::Data);
    assert!(matches!(
        dialer,
        Err(HandshakeError::Refused {
            status: Status::WrongPlane,
            ..
        })
    ));
}
