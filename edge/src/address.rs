//! `HOST:PORT` as people write it: on command lines, in the `ready` line, in a registration.
//!
//! A host is a name or an IP address; an IPv6 address stands in brackets wherever a port
//! follows. Parsing looks nothing up; [`HostPort::resolve`] does, and blocks while it does.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, ToSocketAddrs as _};
use std::str::FromStr;

use thiserror::Error;

/// Why a text is not an address.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AddressError {
    /// The text has no port.
    #[error("`{text}` has no port: an address is HOST:PORT, as in 127.0.0.1:7400")]
    NoPort {
        /// What was given.
        text: String,
    },
    /// The port is not a number that a port can have.
    #[error("`{text}`: a port is a number from 0 to 65535")]
    PortInvalid {
        /// What was given.
        text: String,
    },
    /// The host is empty, or has characters that no host has.
    #[error("`{text}`: a host is a name or an IP address, IPv6 in brackets, as in [::1]:7400")]
    HostInvalid {
        /// What was given.
        text: String,
    },
}

/// A name or an IP address, without brackets.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Host(String);

impl Host {
    /// The name or address, without brackets.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is `0.0.0.0` or `::`, which can be listened on but not dialled.
    #[must_use]
    pub fn is_unspecified(&self) -> bool {
        self.0.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified())
    }
}

impl From<IpAddr> for Host {
    fn from(ip: IpAddr) -> Self {
        Self(ip.to_string())
    }
}

impl FromStr for Host {
    type Err = AddressError;

    /// Takes an IPv6 address with or without brackets.
    fn from_str(text: &str) -> Result<Self, AddressError> {
        let invalid = || AddressError::HostInvalid {
            text: text.to_owned(),
        };
        if let Some(inner) = text.strip_prefix('[') {
            let inner = inner.strip_suffix(']').ok_or_else(invalid)?;
            return is_ipv6(inner)
                .then(|| Self(inner.to_owned()))
                .ok_or_else(invalid);
        }
        if text.contains(':') {
            return is_ipv6(text)
                .then(|| Self(text.to_owned()))
                .ok_or_else(invalid);
        }
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        let valid = !text.is_empty() && text.len() <= 253 && text.chars().all(fits);
        valid.then(|| Self(text.to_owned())).ok_or_else(invalid)
    }
}

/// Whether `text` is an IPv6 address, its zone (as in `fe80::1%eth0`) not looked at.
fn is_ipv6(text: &str) -> bool {
    let (address, zone) = text.split_once('%').unwrap_or((text, "any"));
    let zone_fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    address.parse::<Ipv6Addr>().is_ok() && !zone.is_empty() && zone.chars().all(zone_fits)
}

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// The name or IP address.
    pub host: Host,
    /// The port; 0 only where a free one is to be taken.
    pub port: u16,
}

impl HostPort {
    /// The socket addresses that this stands for, best first; looks a name up, and blocks.
    ///
    /// # Errors
    ///
    /// When the name is not known, or the resolver can't be asked.
    pub fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        Ok((self.host.as_str(), self.port).to_socket_addrs()?.collect())
    }
}

impl From<SocketAddr> for HostPort {
    fn from(address: SocketAddr) -> Self {
        Self {
            host: address.ip().into(),
            port: address.port(),
        }
    }
}

impl FromStr for HostPort {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let owned = || text.to_owned();
        // A whole IPv6 address, whose last group would be taken for a port.
        if is_ipv6(text) || text.ends_with(']') {
            return Err(AddressError::NoPort { text: owned() });
        }
        let (host, port) = text
            .rsplit_once(':')
            .ok_or_else(|| AddressError::NoPort { text: owned() })?;
        if host.contains(':') && !host.starts_with('[') {
            return Err(AddressError::HostInvalid { text: owned() });
        }
        let digits = port.bytes().all(|b| b.is_ascii_digit());
        let port = digits.then(|| port.parse().ok()).flatten();
        let port = port.ok_or_else(|| AddressError::PortInvalid { text: owned() })?;
        let host = host
            .parse()
            .map_err(|_| AddressError::HostInvalid { text: owned() })?;
        Ok(Self { host, port })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = self.host.as_str();
        if host.contains(':') {
            write!(f, "[{host}]:{}", self.port)
        } else {
            write!(f, "{host}:{}", self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_written_the_same() {
        for text in [
            "127.0.0.1:7400",
            "[::1]:0",
            "rack-1.example:65535",
            "[fe80::1%eth0]:80",
        ] {
            let address: HostPort = text.parse().expect(text);
            assert_eq!(address.to_string(), text);
        }
    }

    #[test]
    fn a_wrong_address_is_told_apart() {
        type Make = fn(String) -> AddressError;
        let no_port: Make = |text| AddressError::NoPort { text };
        let port: Make = |text| AddressError::PortInvalid { text };
        let host: Make = |text| AddressError::HostInvalid { text };
        for (text, error) in [
            ("", no_port),
            ("localhost", no_port),
            ("::1", no_port),
            ("[::1]", no_port),
            ("localhost:", port),
            ("localhost:+80", port),
            ("localhost:65536", port),
            ("localhost:http", port),
            (":80", host),
            ("a b:80", host),
            ("http://a:80", host),
            ("a/b:80", host),
            ("[localhost]:80", host),
            ("[::1:80", host),
            ("1:2:3:80", host),
        ] {
            assert_eq!(
                text.parse::<HostPort>(),
                Err(error(text.to_owned())),
                "{text}"
            );
        }
    }

    #[test]
    fn a_host_takes_ipv6_with_or_without_brackets() {
        for text in ["::", "[::]"] {
            let host: Host = text.parse().expect(text);
            assert_eq!((host.as_str(), host.is_unspecified()), ("::", true));
        }
        assert!(!"node7".parse::<Host>().expect("a name").is_unspecified());
    }

    #[test]
    fn an_ip_address_needs_no_resolver() {
        let address: HostPort = "[::1]:7400".parse().expect("an address");
        assert_eq!(
            address.resolve().expect("no look-up"),
            ["[::1]:7400".parse().expect("same")]
        );
    }
}
