//! Listening sockets, the rules on where to listen, and what every TCP connection is set to.
//!
//! - A taken port is noticed: sockets are made without SO_REUSEPORT, with which two daemons
//!   would share a port and each get half of the connections.
//! - [`Exposure`] holds the two rules: who listens on every address must say under which one it
//!   is reached (`--advertise`), and who listens beyond loopback must have been given the
//!   cluster's key (`--key-file`), since the key that a master makes by itself is found only by
//!   programs of the same user on the same machine.
//!
//! Left out on purpose: TCP_USER_TIMEOUT. The kernel counts it while a receiver keeps its window
//! closed, so a replica with a slow disk would lose its connection; silence is judged by the
//! protocol's own deadlines instead.

use std::io;
use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use thiserror::Error;

use crate::address::{Host, HostPort};
use crate::exit::{Exit, Explain};

/// Connections that may wait to be accepted; the kernel cuts it to `net.core.somaxconn`.
const BACKLOG: i32 = 1024;

/// Bytes that a sender may be ahead on a data-plane connection within one machine; the kernel
/// takes it twice, for what it adds of its own.
const LOCAL_SEND_BUFFER_LEN: usize = 256 * 1024;

/// Silence after which the kernel asks whether the peer's machine is still there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);

/// Time between two such questions.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// Unanswered questions after which the connection counts as lost.
const KEEPALIVE_RETRIES: u32 = 3;

/// Why an address is not listened on. `flag` is the option that named it, as `--listen`.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ListenError {
    /// Every address was to be listened on, and none was named to be reached under.
    #[error("{flag} {address} is every address of this machine: --advertise must name one")]
    AdvertiseMissing {
        /// The option.
        flag: &'static str,
        /// The address.
        address: SocketAddr,
    },
    /// The address under which peers are to reach this server can't be dialled.
    #[error("--advertise {host} can't be dialled: it stands for every address")]
    AdvertiseUnspecified {
        /// What was given.
        host: String,
    },
    /// An address beyond loopback was to be listened on without a key file.
    #[error("{flag} {address} can be reached from other machines: --key-file is needed")]
    KeyFileMissing {
        /// The option.
        flag: &'static str,
        /// The address.
        address: SocketAddr,
    },
    /// The name to listen on was not resolved.
    #[error("{flag} {address} can't be resolved")]
    Unresolved {
        /// The option.
        flag: &'static str,
        /// The name and port.
        address: HostPort,
        /// What the resolver said.
        source: io::Error,
    },
    /// Another process listens there.
    #[error("{flag} {address} is taken by another process")]
    Taken {
        /// The option.
        flag: &'static str,
        /// The address.
        address: SocketAddr,
    },
    /// The kernel refused for another reason.
    #[error("{flag} {address} can't be listened on")]
    Refused {
        /// The option.
        flag: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
}

impl Explain for ListenError {
    fn exit(&self) -> Exit {
        match self {
            Self::AdvertiseMissing { .. }
            | Self::AdvertiseUnspecified { .. }
            | Self::KeyFileMissing { .. } => Exit::Usage,
            Self::Unresolved { .. } | Self::Taken { .. } | Self::Refused { .. } => Exit::Failed,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::AdvertiseMissing { .. } | Self::AdvertiseUnspecified { .. } => {
                "give the name or address that other machines dial: --advertise HOST".to_owned()
            }
            Self::KeyFileMissing { .. } => {
                "make a key with `sarsen keygen FILE`, copy it to every machine of the cluster, \
                 and start each program with --key-file FILE"
                    .to_owned()
            }
            Self::Taken { flag, .. } => {
                format!(
                    "end that process, or give another port with {flag}; port 0 takes a free one"
                )
            }
            Self::Refused { flag, source, .. }
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                format!("give a port from 1024 on with {flag}: lower ones are kept for root")
            }
            Self::Unresolved { flag, .. } | Self::Refused { flag, .. } => {
                format!("give an address of this machine with {flag}")
            }
        })
    }
}

/// What a daemon was told about being reached from elsewhere.
#[derive(Clone, Debug, Default)]
pub struct Exposure {
    /// The host under which peers reach this server, where it isn't the one listened on.
    pub advertise: Option<Host>,
    /// Whether the cluster's key was given as a file.
    pub has_key_file: bool,
}

impl Exposure {
    /// Listens on `address`, which the option `flag` named, if the rules allow it.
    ///
    /// Of a name's several addresses the first is taken that works. The socket doesn't block,
    /// as the runtimes want it.
    ///
    /// # Errors
    ///
    /// As [`ListenError`] tells.
    pub fn open(&self, flag: &'static str, address: &HostPort) -> Result<TcpListener, ListenError> {
        let unresolved = |source| ListenError::Unresolved {
            flag,
            address: address.clone(),
            source,
        };
        let mut failed = None;
        for candidate in address.resolve().map_err(unresolved)? {
            self.check(flag, candidate)?;
            match bind(flag, candidate) {
                Ok(listener) => return Ok(listener),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        Err(failed.unwrap_or_else(|| unresolved(io::Error::from(io::ErrorKind::NotFound))))
    }

    /// The address to tell peers for a socket that is bound to `bound`.
    #[must_use]
    pub fn announced(&self, bound: SocketAddr) -> HostPort {
        match &self.advertise {
            Some(host) => HostPort {
                host: host.clone(),
                port: bound.port(),
            },
            None => bound.into(),
        }
    }

    fn check(&self, flag: &'static str, address: SocketAddr) -> Result<(), ListenError> {
        if let Some(host) = self.advertise.as_ref().filter(|host| host.is_unspecified()) {
            return Err(ListenError::AdvertiseUnspecified {
                host: host.as_str().to_owned(),
            });
        }
        let ip = address.ip().to_canonical();
        if ip.is_unspecified() && self.advertise.is_none() {
            return Err(ListenError::AdvertiseMissing { flag, address });
        }
        if !ip.is_loopback() && !self.has_key_file {
            return Err(ListenError::KeyFileMissing { flag, address });
        }
        Ok(())
    }
}

fn bind(flag: &'static str, address: SocketAddr) -> Result<TcpListener, ListenError> {
    let listen = || -> io::Result<TcpListener> {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        // A restart need not wait for the connections of the last run to time out. On Linux
        // this does not hide a port that somebody listens on.
        socket.set_reuse_address(true)?;
        if address.ip() == Ipv6Addr::UNSPECIFIED {
            // [::] is every address, IPv4 too, whatever the system's default says.
            socket.set_only_v6(false)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    listen().map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => ListenError::Taken { flag, address },
        _ => ListenError::Refused {
            flag,
            address,
            source,
        },
    })
}

/// Sets what every connection has, accepted or dialled, control or data.
///
/// No delay, since frames are written whole; keepalive, so that a peer whose machine is gone is
/// noticed within half a minute also by a side that only waits.
///
/// # Errors
///
/// When the kernel refuses, as it does for a connection that is already lost.
pub fn tune(stream: &impl AsFd) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(KEEPALIVE_IDLE)
            .with_interval(KEEPALIVE_INTERVAL)
            .with_retries(KEEPALIVE_RETRIES),
    )
}

/// Sets what a data-plane connection has beyond [`tune`].
///
/// Within one machine the bytes that a sender is ahead of its receiver fill no wire: they only
/// grow cold in memory. With a short send buffer the receiver finds them in the processor's cache,
/// and a copy costs half (`benches/README.md`). To another machine the kernel finds the length.
///
/// # Errors
///
/// As [`tune`].
pub fn tune_bulk(stream: &impl AsFd) -> io::Result<()> {
    tune(stream)?;
    let socket = SockRef::from(stream);
    let (here, there) = (socket.local_addr()?, socket.peer_addr()?);
    let ip_of = |address: &socket2::SockAddr| address.as_socket().map(|address| address.ip());
    if ip_of(&here) == ip_of(&there) {
        socket.set_send_buffer_size(LOCAL_SEND_BUFFER_LEN)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;

    fn address(text: &str) -> HostPort {
        text.parse().expect("an address")
    }

    fn exposure(advertise: Option<&str>, has_key_file: bool) -> Exposure {
        let advertise = advertise.map(|host| host.parse().expect("a host"));
        Exposure {
            advertise,
            has_key_file,
        }
    }

    #[test]
    fn a_taken_port_is_noticed_and_named() {
        let exposure = Exposure::default();
        let first = exposure
            .open("--listen", &address("127.0.0.1:0"))
            .expect("a free port");
        let bound = first.local_addr().expect("bound");
        assert_ne!(bound.port(), 0);
        let error = exposure.open("--http", &bound.into()).expect_err("taken");
        assert!(
            matches!(error, ListenError::Taken { flag: "--http", .. }),
            "{error:?}"
        );
        assert_eq!(
            error.to_string(),
            format!("--http {bound} is taken by another process")
        );
        assert_eq!(error.exit(), Exit::Failed);
    }

    #[test]
    fn a_port_serves_again_at_once_after_its_connections_were_closed_by_us() {
        let exposure = Exposure::default();
        let first = exposure
            .open("--listen", &address("127.0.0.1:0"))
            .expect("a free port");
        first.set_nonblocking(false).expect("blocking");
        let bound = first.local_addr().expect("bound");
        let dialled = TcpStream::connect(bound).expect("connects");
        // Closing first leaves our side in TIME_WAIT.
        drop(first.accept().expect("accepts"));
        drop((dialled, first));
        exposure
            .open("--listen", &bound.into())
            .expect("free again");
    }

    #[test]
    fn an_address_that_is_not_ours_is_refused() {
        // 192.0.2.0/24 is kept for documentation: no machine has it.
        let error = exposure(None, true).open("--listen", &address("192.0.2.1:0"));
        assert!(
            matches!(error, Err(ListenError::Refused { .. })),
            "{error:?}"
        );
    }

    #[test]
    fn every_address_needs_advertise_and_beyond_loopback_needs_a_key() {
        let check = |text: &str, advertise, key| {
            let result = exposure(advertise, key).check("--listen", text.parse().expect("one"));
            match result {
                Ok(()) => "fine",
                Err(error) => {
                    assert_eq!(error.exit(), Exit::Usage);
                    match error {
                        ListenError::AdvertiseMissing { .. } => "advertise",
                        ListenError::AdvertiseUnspecified { .. } => "unspecified",
                        ListenError::KeyFileMissing { .. } => "key",
                        other => panic!("{other}"),
                    }
                }
            }
        };
        for (text, advertise, key, expected) in [
            ("127.0.0.1:1", None, false, "fine"),
            ("127.8.8.8:1", None, false, "fine"),
            ("[::1]:1", None, false, "fine"),
            ("[::ffff:127.0.0.1]:1", None, false, "fine"),
            ("0.0.0.0:1", None, true, "advertise"),
            ("[::]:1", None, true, "advertise"),
            ("[::ffff:0.0.0.0]:1", None, true, "advertise"),
            ("0.0.0.0:1", Some("node7"), false, "key"),
            ("0.0.0.0:1", Some("node7"), true, "fine"),
            ("0.0.0.0:1", Some("0.0.0.0"), true, "unspecified"),
            ("127.0.0.1:1", Some("[::]"), true, "unspecified"),
            ("192.0.2.1:1", None, false, "key"),
            ("192.0.2.1:1", None, true, "fine"),
        ] {
            assert_eq!(
                check(text, advertise, key),
                expected,
                "{text} {advertise:?} {key}"
            );
        }
    }

    #[test]
    fn peers_are_told_the_advertised_host_and_the_bound_port() {
        let bound = "[::1]:7401".parse().expect("an address");
        assert_eq!(
            exposure(None, false).announced(bound).to_string(),
            "[::1]:7401"
        );
        assert_eq!(
            exposure(Some("node7"), true).announced(bound).to_string(),
            "node7:7401"
        );
    }

    #[test]
    fn a_tuned_connection_has_no_delay_and_is_kept_alive() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let stream = TcpStream::connect(listener.local_addr().expect("bound")).expect("connects");
        tune(&stream).expect("tunes");
        let socket = SockRef::from(&stream);
        assert!(socket.tcp_nodelay().expect("known") && socket.keepalive().expect("known"));
        assert_eq!(socket.tcp_keepalive_time().expect("known"), KEEPALIVE_IDLE);
    }
}
