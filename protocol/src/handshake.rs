//! The hello: versions, and the mutual proof of the cluster key (`spec/wire.md` section 8).
//!
//! Two state machines without a socket. The driver sends what they return and feeds what arrives:
//!
//! ```text
//! Dialer::new ── Hello ──► Listener::handle_hello ── HelloReply ──► Dialer::handle_reply
//!                                                                         │ HelloProof
//! Dialer::handle_done ◄── HelloDone ── Listener::handle_proof ◄───────────┘
//! ```
//!
//! The listener proves itself first, so whoever does not hold the key learns nothing from a dialer.

use thiserror::Error;

use crate::deframe::{Frame, error_frame, frame};
use crate::error::FrameError;
use crate::id::ClusterId;
use crate::key::SecretKey;
use crate::message::{
    ErrorBody, HELLO_REPLY_PROOF_AT, Hello, HelloDone, HelloProof, HelloReply, Kind, Message,
    Plane, Role, Start,
};
use crate::status::Status;
use crate::version::{FEATURES, VERSION, VERSION_MIN};

const LISTENER_LABEL: &[u8] = b"sarsen hello listener 1";
const DIALER_LABEL: &[u8] = b"sarsen hello dialer 1";

/// What one side says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// What it is.
    pub role: Role,
    /// Its cluster, if it knows.
    pub cluster_id: ClusterId,
    /// A chunkserver's directory and start.
    pub start: Start,
}

/// What one side knows of the other once the hello is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Who it is.
    pub identity: Identity,
    /// The protocol version that both use.
    pub version: u16,
    /// The features that both have.
    pub features: u64,
}

/// Why a hello failed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The bytes break the protocol.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The peer does not hold the same key.
    #[error("the other side does not hold the same cluster key")]
    WrongKey,
    /// The peer refused, and says why.
    #[error("refused: {text}")]
    Refused {
        /// Its status.
        status: Status,
        /// Its words.
        text: String,
    },
    /// The peer belongs to another cluster.
    #[error("the other side belongs to cluster {theirs}, this one to {ours}")]
    WrongCluster {
        /// What was asked for.
        ours: ClusterId,
        /// What was found.
        theirs: ClusterId,
    },
    /// No protocol version in common.
    #[error("no protocol version in common: the other side speaks {theirs_min} to {theirs_max}")]
    UnsupportedVersion {
        /// The lowest that the peer speaks.
        theirs_min: u16,
        /// The highest that the peer speaks.
        theirs_max: u16,
    },
    /// The port serves the other plane.
    #[error("this port serves the other plane")]
    WrongPlane,
}

impl HandshakeError {
    /// The status that tells the peer, or the user, what went wrong.
    #[must_use]
    pub const fn status(&self) -> Status {
        match self {
            Self::Frame(_) => Status::ProtocolError,
            Self::WrongKey => Status::WrongKey,
            Self::Refused { status, .. } => *status,
            Self::WrongCluster { .. } => Status::WrongCluster,
            Self::UnsupportedVersion { .. } => Status::UnsupportedVersion,
            Self::WrongPlane => Status::WrongPlane,
        }
    }
}

/// The side that opened the connection.
#[derive(Debug)]
pub struct Dialer {
    key: SecretKey,
    hello: Hello,
    hello_body: Vec<u8>,
    peer: Option<Peer>,
}

impl Dialer {
    /// Begins a hello; the second value is the frame to send.
    #[must_use]
    pub fn new(
        identity: Identity,
        plane: Plane,
        key: SecretKey,
        nonce: [u8; 32],
    ) -> (Self, Vec<u8>) {
        let hello = Hello {
            version_min: VERSION_MIN,
            version_max: VERSION,
            role: identity.role,
            plane,
            features: FEATURES,
            cluster_id: identity.cluster_id,
            start: identity.start,
            nonce,
        };
        let first = frame(&hello, 0);
        (
            Self {
                key,
                hello,
                hello_body: hello.to_body(),
                peer: None,
            },
            first,
        )
    }

    /// Takes the listener's answer; returns the frame to send. Requests may follow right behind.
    ///
    /// # Errors
    /// Why the listener is not to be trusted, or what it refused.
    pub fn handle_reply(&mut self, reply: &Frame) -> Result<Vec<u8>, HandshakeError> {
        let body = refusal_or(reply, Kind::HelloReply)?;
        let message: HelloReply = reply.message()?;
        if message.version < VERSION_MIN || message.version > VERSION {
            return Err(HandshakeError::UnsupportedVersion {
                theirs_min: message.version,
                theirs_max: message.version,
            });
        }
        let signed = without_proof(body);
        if !self
            .key
            .verify(&[LISTENER_LABEL, &self.hello_body, &signed], &message.proof)
        {
            return Err(HandshakeError::WrongKey);
        }
        if message.plane != self.hello.plane {
            return Err(HandshakeError::WrongPlane);
        }
        check_cluster(self.hello.cluster_id, message.cluster_id)?;
        self.peer = Some(Peer {
            identity: Identity {
                role: message.role,
                cluster_id: message.cluster_id,
                start: message.start,
            },
            version: message.version,
            features: message.features,
        });
        let proof = self.key.sign(&[DIALER_LABEL, &self.hello_body, body]);
        Ok(frame(&HelloProof { proof }, 0))
    }

    /// Takes the end of the hello.
    ///
    /// # Errors
    /// What the listener refused; [`FrameError::OutOfTurn`] before [`Self::handle_reply`].
    pub fn handle_done(&mut self, done: &Frame) -> Result<Peer, HandshakeError> {
        refusal_or(done, Kind::HelloDone)?;
        let HelloDone = done.message()?;
        self.peer.ok_or_else(|| {
            FrameError::OutOfTurn {
                kind: Kind::HelloDone,
            }
            .into()
        })
    }
}

/// The side that accepted the connection.
#[derive(Debug)]
pub struct Listener {
    identity: Identity,
    plane: Plane,
    key: SecretKey,
    nonce: [u8; 32],
    /// The dialer, and the bytes that its proof is over, once its hello was answered.
    answered: Option<(Peer, Vec<u8>, Vec<u8>)>,
}

impl Listener {
    /// Waits for a hello on a port of `plane`.
    #[must_use]
    pub const fn new(identity: Identity, plane: Plane, key: SecretKey, nonce: [u8; 32]) -> Self {
        Self {
            identity,
            plane,
            key,
            nonce,
            answered: None,
        }
    }

    /// Takes the dialer's first frame; returns the frame to send.
    ///
    /// # Errors
    /// Why it is refused; [`refusal`] makes the frame that says so.
    pub fn handle_hello(&mut self, frame_in: &Frame) -> Result<Vec<u8>, HandshakeError> {
        if self.answered.is_some() {
            return Err(FrameError::OutOfTurn {
                kind: frame_in.header.kind,
            }
            .into());
        }
        let hello: Hello = frame_in.message()?;
        if hello.version_min > VERSION || hello.version_max < VERSION_MIN {
            return Err(HandshakeError::UnsupportedVersion {
                theirs_min: hello.version_min,
                theirs_max: hello.version_max,
            });
        }
        if hello.plane != self.plane {
            return Err(HandshakeError::WrongPlane);
        }
        check_cluster(self.identity.cluster_id, hello.cluster_id)?;
        let mut reply = HelloReply {
            version: hello.version_max.min(VERSION),
            role: self.identity.role,
            plane: self.plane,
            features: hello.features & FEATURES,
            cluster_id: self.identity.cluster_id,
            start: self.identity.start,
            nonce: self.nonce,
            proof: [0; 32],
        };
        reply.proof = self
            .key
            .sign(&[LISTENER_LABEL, &frame_in.body, &reply.to_body()]);
        let peer = Peer {
            identity: Identity {
                role: hello.role,
                cluster_id: hello.cluster_id,
                start: hello.start,
            },
            version: reply.version,
            features: reply.features,
        };
        self.answered = Some((peer, frame_in.body.to_vec(), reply.to_body()));
        Ok(frame(&reply, 0))
    }

    /// Takes the dialer's proof; returns the peer and the frame to send.
    ///
    /// # Errors
    /// [`HandshakeError::WrongKey`], or what breaks the protocol.
    pub fn handle_proof(&mut self, frame_in: &Frame) -> Result<(Peer, Vec<u8>), HandshakeError> {
        let proof: HelloProof = frame_in.message()?;
        let Some((peer, hello, reply)) = self.answered.take() else {
            return Err(FrameError::OutOfTurn {
                kind: Kind::HelloProof,
            }
            .into());
        };
        match self
            .key
            .verify(&[DIALER_LABEL, &hello, &reply], &proof.proof)
        {
            true => Ok((peer, frame(&HelloDone, 0))),
            false => Err(HandshakeError::WrongKey),
        }
    }
}

/// The frame by which a listener tells a dialer that the hello failed; `None` for a peer that
/// speaks something else altogether.
#[must_use]
pub fn refusal(answering: Option<Kind>, error: &HandshakeError) -> Option<Vec<u8>> {
    let body = ErrorBody::new(error.to_string());
    let kind = match (error, answering) {
        (HandshakeError::Frame(FrameError::BadMagic), _) => return None,
        (HandshakeError::Frame(_), _) => Kind::Goodbye,
        (_, Some(Kind::HelloProof)) => Kind::HelloDone,
        _ => Kind::HelloReply,
    };
    Some(error_frame(kind, 0, error.status(), &body))
}

/// The frame's body if it is a good reply of this kind; else what the peer refused.
fn refusal_or(reply: &Frame, kind: Kind) -> Result<&[u8], HandshakeError> {
    if !reply.header.status.is_ok() {
        let text = reply.error()?.text;
        return Err(HandshakeError::Refused {
            status: reply.header.status,
            text,
        });
    }
    match reply.header.kind == kind {
        true => Ok(&reply.body),
        false => Err(FrameError::OutOfTurn {
            kind: reply.header.kind,
        }
        .into()),
    }
}

/// Clusters differ only if both sides know theirs.
fn check_cluster(ours: ClusterId, theirs: ClusterId) -> Result<(), HandshakeError> {
    match ours == theirs || !ours.is_some() || !theirs.is_some() {
        true => Ok(()),
        false => Err(HandshakeError::WrongCluster { ours, theirs }),
    }
}

/// A reply's body as it was when it was signed: its proof still zero.
fn without_proof(body: &[u8]) -> Vec<u8> {
    let mut body = body.to_vec();
    if let Some(proof) = body.get_mut(HELLO_REPLY_PROOF_AT..HELLO_REPLY_PROOF_AT + 32) {
        proof.fill(0);
    }
    body
}

#[cfg(test)]
mod tests;
