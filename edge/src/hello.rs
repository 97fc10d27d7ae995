//! Drives the hello of `protocol::handshake` over a stream, on either side and plane.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use sarsen_protocol::deframe::{Deframer, Frame};
use sarsen_protocol::error::FrameError;
use sarsen_protocol::handshake::{Dialer, HandshakeError, Identity, Listener, Peer, refusal};
use sarsen_protocol::key::SecretKey;
use sarsen_protocol::message::{Kind, Plane};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::exit::{Exit, Explain};
use crate::{listen, random};

/// How long a listener waits for the whole hello (`spec/wire.md` section 2).
pub const HELLO_TIME_MAX: Duration = Duration::from_secs(10);

/// Why there is no connection. Its text says the cause too.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The system could not connect, or the connection broke during the hello.
    #[error("no connection to {addr}: {cause}")]
    Io {
        /// Whom to.
        addr: String,
        /// What the system said.
        cause: io::Error,
    },
    /// The peer is not to be trusted, or does not trust us.
    #[error("{addr}: {cause}")]
    Handshake {
        /// Whom to.
        addr: String,
        /// What went wrong.
        cause: HandshakeError,
    },
    /// The peer took too long.
    #[error("{addr} did not answer in time")]
    Timeout {
        /// Whom to.
        addr: String,
    },
}

impl ConnectError {
    /// Whether the peer has another key.
    #[must_use]
    pub fn is_wrong_key(&self) -> bool {
        use sarsen_protocol::status::Status;
        matches!(self, Self::Handshake { cause, .. } if cause.status() == Status::WrongKey)
    }

    /// Whether another try could end otherwise: a wrong key or cluster stays wrong.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        use sarsen_protocol::status::Retry;
        match self {
            Self::Io { .. } | Self::Timeout { .. } => true,
            Self::Handshake { cause, .. } => cause.status().retry() != Retry::Never,
        }
    }
}

impl Explain for ConnectError {
    fn exit(&self) -> Exit {
        Exit::Failed
    }

    fn hint(&self) -> Option<String> {
        use sarsen_protocol::status::Status;
        let Self::Handshake { cause, .. } = self else {
            return Some("check that it runs, and its address".into());
        };
        let hint = match cause.status() {
            Status::WrongKey => "give the key of that cluster with --key-file",
            Status::WrongCluster => "check the address of the master, and the --dir",
            Status::WrongPlane => "check the port: each server has one for control, one for data",
            Status::UnsupportedVersion => "update the older of the two programs",
            Status::ProtocolError => "check the address: something else may listen there",
            _ => return None,
        };
        Some(hint.into())
    }
}

/// Opens a data-plane connection and says hello on it.
///
/// # Errors
/// Why there is none, see [`ConnectError`].
pub async fn dial_data(
    addr: &str,
    identity: Identity,
    key: &SecretKey,
    deadline: Duration,
) -> Result<(TcpStream, Peer), ConnectError> {
    let (stream, peer, deframer) = dial(addr, identity, Plane::Data, key, deadline).await?;
    match deframer.is_mid_frame() {
        false => Ok((stream, peer)),
        // A listener has nothing to say on the data plane before it is asked.
        true => Err(ConnectError::Handshake {
            addr: addr.to_owned(),
            cause: FrameError::OutOfTurn {
                kind: Kind::HelloDone,
            }
            .into(),
        }),
    }
}

/// Takes the hello of a data-plane connection that was accepted; the bytes are what the dialer
/// sent right behind its proof, as it may.
///
/// # Errors
/// Why the peer is not to be trusted; it was told, as far as it can understand.
pub async fn accept_data(
    stream: &mut TcpStream,
    identity: Identity,
    key: &SecretKey,
) -> Result<(Peer, BytesMut), ConnectError> {
    let addr = stream
        .peer_addr()
        .map_or_else(|_| "a peer".into(), |addr| addr.to_string());
    listen::tune_bulk(stream).map_err(|cause| ConnectError::Io {
        addr: addr.clone(),
        cause,
    })?;
    let (peer, mut deframer) = accept(stream, &addr, identity, Plane::Data, key).await?;
    Ok((peer, std::mem::take(deframer.buffer())))
}

/// Opens a connection and says hello; the deframer holds what came behind the hello.
pub(crate) async fn dial(
    addr: &str,
    identity: Identity,
    plane: Plane,
    key: &SecretKey,
    deadline: Duration,
) -> Result<(TcpStream, Peer, Deframer), ConnectError> {
    let dialled = async {
        let mut stream = TcpStream::connect(addr).await?;
        match plane {
            Plane::Data => listen::tune_bulk(&stream)?,
            Plane::Control => listen::tune(&stream)?,
        }
        let mut deframer = Deframer::new(plane);
        let (mut dialer, hello) = Dialer::new(identity, plane, key.clone(), random());
        stream.write_all(&hello).await?;
        let reply = next(&mut stream, &mut deframer).await?;
        stream.write_all(&dialer.handle_reply(&reply)?).await?;
        let done = next(&mut stream, &mut deframer).await?;
        let peer = dialer.handle_done(&done)?;
        deframer.hello_is_done();
        Ok::<_, HelloError>((stream, peer, deframer))
    };
    match timeout(deadline, dialled).await {
        Ok(Ok(connected)) => Ok(connected),
        Ok(Err(error)) => Err(error.at(addr)),
        Err(_) => Err(ConnectError::Timeout {
            addr: addr.to_owned(),
        }),
    }
}

/// Takes the hello of a connection that was accepted.
pub(crate) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    addr: &str,
    identity: Identity,
    plane: Plane,
    key: &SecretKey,
) -> Result<(Peer, Deframer), ConnectError> {
    let mut deframer = Deframer::new(plane);
    let mut answering = None;
    let hello = async {
        let mut listener = Listener::new(identity, plane, key.clone(), random());
        let first = next(stream, &mut deframer).await?;
        answering = Some(Kind::Hello);
        stream.write_all(&listener.handle_hello(&first)?).await?;
        let second = next(stream, &mut deframer).await?;
        answering = Some(Kind::HelloProof);
        let (peer, done) = listener.handle_proof(&second)?;
        stream.write_all(&done).await?;
        Ok::<_, HelloError>(peer)
    };
    match timeout(HELLO_TIME_MAX, hello).await {
        Ok(Ok(peer)) => {
            deframer.hello_is_done();
            Ok((peer, deframer))
        }
        Ok(Err(error)) => {
            if let HelloError::Handshake(cause) = &error
                && let Some(farewell) = refusal(answering, cause)
            {
                // The connection ends here whether or not the peer still listens.
                let _ = stream.write_all(&farewell).await;
                let _ = stream.shutdown().await;
            }
            Err(error.at(addr))
        }
        Err(_) => Err(ConnectError::Timeout {
            addr: addr.to_owned(),
        }),
    }
}

/// What can go wrong on one connection, before it is known whose it was.
#[derive(Debug, Error)]
enum HelloError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
}

impl HelloError {
    fn at(self, addr: &str) -> ConnectError {
        let addr = addr.to_owned();
        match self {
            Self::Io(cause) => ConnectError::Io { addr, cause },
            Self::Handshake(cause) => ConnectError::Handshake { addr, cause },
        }
    }
}

/// Reads until a frame is whole.
async fn next<S: AsyncRead + Unpin>(
    stream: &mut S,
    deframer: &mut Deframer,
) -> Result<Frame, HelloError> {
    loop {
        match deframer.next_frame() {
            Ok(Some(frame)) => return Ok(frame),
            Ok(None) => {}
            Err(error) => return Err(HandshakeError::from(error).into()),
        }
        if stream.read_buf(deframer.buffer()).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
    }
}
