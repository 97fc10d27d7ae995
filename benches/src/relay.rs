//! The bare relay: bytes from a sender over three hops on loopback, nothing stored or checked.
//!
//! What a replica chain could reach if storing and checking cost nothing. Same shape as the write
//! chain: one TCP connection a hop, a mebibyte at a time, each hop passing on what it received.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;

/// Bytes in one read or write, as in a data frame.
const BUFFER_LEN: usize = 1024 * 1024;

/// Sends `len` bytes over `hops` hops; the time from the first byte sent to the last received.
///
/// # Errors
/// When loopback can't be used.
pub fn run(hops: usize, len: u64) -> anyhow::Result<Duration> {
    let listeners = (0..hops)
        .map(|_| TcpListener::bind("127.0.0.1:0"))
        .collect::<Result<Vec<_>, _>>()
        .context("listening on loopback")?;
    let addresses = listeners
        .iter()
        .map(TcpListener::local_addr)
        .collect::<Result<Vec<_>, _>>()?;
    thread::scope(|scope| {
        let mut hops = Vec::new();
        for (number, listener) in listeners.into_iter().enumerate() {
            let next = addresses.get(number + 1).copied();
            hops.push(scope.spawn(move || -> anyhow::Result<u64> {
                let (mut from, _) = listener.accept()?;
                let mut to = next.map(TcpStream::connect).transpose()?;
                relay(&mut from, to.as_mut())
            }));
        }
        let mut first = TcpStream::connect(addresses[0])?;
        let buffer = vec![0xa5; BUFFER_LEN];
        let began = Instant::now();
        let mut left = len;
        while left > 0 {
            let part = usize::try_from(left).unwrap_or(usize::MAX).min(BUFFER_LEN);
            first.write_all(&buffer[..part])?;
            left -= part as u64;
        }
        drop(first);
        for hop in hops {
            let received = hop
                .join()
                .map_err(|_| anyhow::anyhow!("a hop panicked"))??;
            anyhow::ensure!(received == len, "a hop received {received} of {len} bytes");
        }
        Ok(began.elapsed())
    })
}

fn relay(from: &mut TcpStream, mut to: Option<&mut TcpStream>) -> anyhow::Result<u64> {
    let mut buffer = vec![0; BUFFER_LEN];
    let mut total = 0;
    loop {
        let len = from.read(&mut buffer)?;
        if len == 0 {
            return Ok(total);
        }
        if let Some(to) = &mut to {
            to.write_all(&buffer[..len])?;
        }
        total += len as u64;
    }
}
