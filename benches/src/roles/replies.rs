//! The parties of a bare round trip: requests of a few bytes, and replies.
//!
//! The plain server has a thread a connection and blocks in its calls: what the kernel can do. The
//! one on tokio has a runtime of its own on each core, as a chunkserver's data plane has.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use sarsen_edge::listen::tune;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::runtime::{Builder, Runtime};
use tokio::task::{JoinSet, LocalSet};

use super::{Done, Started, listener_on_stdin};
use crate::measure::median_time;

/// Bytes of a request.
const REQUEST_LEN: usize = 64;

/// Answers requests until it is ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Replies {
    /// Bytes of a reply.
    pub reply_len: usize,
    /// Whether on tokio.
    pub on_tokio: bool,
}

impl Replies {
    pub(super) fn play(&self) -> anyhow::Result<Done> {
        let listener = listener_on_stdin()?;
        if !self.on_tokio {
            let _started = Started::serving()?;
            loop {
                let (stream, _) = listener.accept()?;
                tune(&stream)?;
                let reply = vec![1; self.reply_len];
                thread::spawn(move || answer(stream, &reply));
            }
        }
        listener.set_nonblocking(true)?;
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let mut threads = Vec::new();
        for _ in 0..cores {
            let (listener, reply_len) = (listener.try_clone()?, self.reply_len);
            threads.push(thread::spawn(move || answer_on_tokio(listener, reply_len)));
        }
        let _started = Started::serving()?;
        for thread in threads {
            thread
                .join()
                .map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        }
        anyhow::bail!("nobody is served any more")
    }
}

/// Ends with the connection.
fn answer(mut stream: TcpStream, reply: &[u8]) {
    let mut request = [0; REQUEST_LEN];
    while stream.read_exact(&mut request).is_ok() && stream.write_all(reply).is_ok() {}
}

fn answer_on_tokio(listener: TcpListener, reply_len: usize) -> anyhow::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async move {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loop {
            let (mut stream, _) = listener.accept().await?;
            tune(&stream)?;
            let reply = vec![1; reply_len];
            tokio::task::spawn_local(async move {
                let mut request = [0; REQUEST_LEN];
                while stream.read_exact(&mut request).await.is_ok()
                    && stream.write_all(&reply).await.is_ok()
                {}
            });
        }
    })
}

/// Makes requests and times them.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Asker {
    /// The server.
    pub of: SocketAddr,
    /// Bytes of a reply.
    pub reply_len: usize,
    /// Connections, each with one request at a time.
    pub in_flight: usize,
    /// Requests in all.
    pub count: u64,
    /// Whether on tokio.
    pub on_tokio: bool,
    /// Whether the CRC of each reply is computed; on tokio only.
    pub crc: bool,
}

impl Asker {
    pub(super) fn play(&self) -> anyhow::Result<Done> {
        match self.on_tokio {
            false => self.ask_plainly(),
            true => {
                let runtime = Runtime::new()?;
                runtime.block_on(self.ask_on_tokio())
            }
        }
    }

    fn ask_plainly(&self) -> anyhow::Result<Done> {
        anyhow::ensure!(
            self.in_flight == 1,
            "the plain asker has one request at a time"
        );
        let mut stream = TcpStream::connect(self.of)?;
        tune(&stream)?;
        let mut reply = vec![0; self.reply_len];
        let started = Started::go()?;
        let began = Instant::now();
        let mut times = Vec::new();
        for _ in 0..self.count {
            let asked = Instant::now();
            stream.write_all(&[0; REQUEST_LEN])?;
            stream.read_exact(&mut reply)?;
            times.push(asked.elapsed());
        }
        Ok(timed(&started, began.elapsed(), times))
    }

    async fn ask_on_tokio(&self) -> anyhow::Result<Done> {
        let mut streams = Vec::new();
        for _ in 0..self.in_flight {
            let stream = tokio::net::TcpStream::connect(self.of).await?;
            tune(&stream)?;
            streams.push(stream);
        }
        let started = Started::go()?;
        let began = Instant::now();
        let left = Arc::new(AtomicU64::new(self.count));
        let mut asking = JoinSet::new();
        for mut stream in streams {
            let (left, reply_len, crc) = (Arc::clone(&left), self.reply_len, self.crc);
            asking.spawn(async move {
                let mut reply = vec![0; reply_len];
                let mut times = Vec::new();
                while take_one(&left) {
                    let asked = Instant::now();
                    stream.write_all(&[0; REQUEST_LEN]).await?;
                    stream.read_exact(&mut reply).await?;
                    if crc {
                        std::hint::black_box(crc32fast::hash(&reply));
                    }
                    times.push(asked.elapsed());
                }
                anyhow::Ok(times)
            });
        }
        let mut times = Vec::new();
        while let Some(asked) = asking.join_next().await {
            times.extend(asked??);
        }
        Ok(timed(&started, began.elapsed(), times))
    }
}

/// Whether one was left.
pub(super) fn take_one(left: &AtomicU64) -> bool {
    let less = |left: u64| left.checked_sub(1);
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
        .is_ok()
}

/// What there is to tell of operations that were timed one by one.
pub(super) fn timed(started: &Started, elapsed: Duration, times: Vec<Duration>) -> Done {
    Done {
        elapsed: Some(elapsed),
        ..started.done(times.len() as u64)
    }
    .with_p50(times)
}

impl Done {
    fn with_p50(self, times: Vec<Duration>) -> Self {
        Self {
            p50: median_time(times),
            ..self
        }
    }
}
