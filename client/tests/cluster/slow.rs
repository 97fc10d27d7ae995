//! A replica behind a slow way: its chunkserver is as quick as the others, what it sends comes in drops.
//! Seen by counters, not by times.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crate::harness::{Cluster, noise};

const MIB: usize = 1024 * 1024;

/// Where the proxy listens, on the port of its chunkserver: that listens on another loopback address.
const PROXY: &str = "127.0.0.2";

/// What comes through at a time: a mebibyte takes three seconds, and no pause is as long as a silence
/// for which a server is given up.
const DROP_LEN: usize = 16 * 1024;
const DROP_PAUSE: Duration = Duration::from_millis(50);

/// Passes connections on to a data port, and what comes back in drops once it is told to be slow.
struct Proxy {
    addr: String,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    is_slow: AtomicBool,
    is_over: AtomicBool,
    /// Bytes that went to those who dialled, while it was slow.
    dripped: AtomicU64,
}

impl Proxy {
    /// In front of the data port of the chunkserver that listens at `data_addr`.
    fn start(data_addr: &str) -> Self {
        let (_, port) = data_addr.rsplit_once(':').expect("host and port");
        let addr = format!("{PROXY}:{port}");
        let server = format!("127.0.0.1:{port}");
        let listener = TcpListener::bind(&addr).expect("nobody else is there");
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming() {
                if shared.is_over.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(client) = client else { continue };
                let Ok(server) = TcpStream::connect(&server) else {
                    continue;
                };
                let both = (client.try_clone().unwrap(), server.try_clone().unwrap());
                thread::spawn(move || pass_on(both.0, both.1));
                let state = Arc::clone(&shared);
                thread::spawn(move || state.drip(server, client));
            }
        });
        Self { addr, state }
    }

    fn be_slow(&self) {
        self.state.is_slow.store(true, Ordering::Relaxed);
    }

    fn dripped(&self) -> u64 {
        self.state.dripped.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.is_over.store(true, Ordering::Relaxed);
        // Has its listener look.
        let _ = TcpStream::connect(&self.addr);
    }
}

impl State {
    fn drip(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut bytes = vec![0; DROP_LEN];
        while let Ok(len @ 1..) = from.read(&mut bytes) {
            if self.is_slow.load(Ordering::Relaxed) {
                self.dripped.fetch_add(len as u64, Ordering::Relaxed);
                thread::sleep(DROP_PAUSE);
            }
            if to.write_all(&bytes[..len]).is_err() {
                break;
            }
        }
        hang_up(&from, &to);
    }
}

fn pass_on(mut from: TcpStream, mut to: TcpStream) {
    let _ = io::copy(&mut from, &mut to);
    hang_up(&from, &to);
}

fn hang_up(one: &TcpStream, other: &TcpStream) {
    let _ = one.shutdown(Shutdown::Both);
    let _ = other.shutdown(Shutdown::Both);
}

#[test]
fn a_download_leaves_a_replica_that_is_slow() {
    let mut cluster = Cluster::start(2);
    cluster.chunkservers.push(None);
    cluster.start_chunkserver_with(2, &["--advertise", PROXY]);
    let data = cluster.chunkservers[2]
        .as_ref()
        .and_then(|it| it.data.clone());
    let proxy = Proxy::start(&data.expect("a data port"));
    cluster.wait(3);
    let bytes = noise(48 * MIB, 1);
    cluster.put(&bytes, "/file");
    cluster.until_healthy();
    assert_eq!(
        cluster.chunk_files(2).len(),
        48,
        "each server has each chunk"
    );

    proxy.be_slow();
    let target = cluster.path("target");
    let done = cluster.sarsen(&["--json", "-v", "get", "/file", target.to_str().unwrap()]);
    assert_eq!(done.json()["bytes"], bytes.len());
    assert!(fs::read(&target).unwrap() == bytes);
    // Who does not leave it has a third of the chunks from it, 16 MiB.
    let dripped = proxy.dripped();
    assert!(
        dripped < 6 * MIB as u64,
        "{dripped} bytes came through: {}",
        done.stderr
    );
    // It was asked, be it that nothing had come through yet when it was left.
    assert!(done.stderr.contains("another replica"), "{}", done.stderr);
    // To be slow is no fault: nobody is told of a bad replica.
    assert_eq!(
        done.json()["bad_replicas"].as_array().map(Vec::len),
        Some(0)
    );
}
