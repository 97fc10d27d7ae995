//! Connections to a port that asks nobody who he is, as the HTTP port: few, and none for long.
//!
//! A [`Guest`] ends by itself when its time is over, or when it is the oldest of too many
//! ([`Strangers`]): a peer that sends a byte a second, or never reads, holds its place until
//! somebody else wants it.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use crate::strangers::Strangers;

/// Guests at a time on one port.
const GUESTS_MAX: usize = 64;

/// How long one may stay: a scraper that keeps its connection dials again then.
const STAY_MAX: Duration = Duration::from_secs(60);

/// How long one may stay at least.
const STAY_MIN: Duration = Duration::from_secs(1);

/// How long accepting rests when the system has no descriptor to give.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A port and its guests.
#[derive(Debug)]
pub struct Guests {
    listener: TcpListener,
    present: Arc<Strangers>,
}

impl Guests {
    /// Guests of `listener`.
    #[must_use]
    pub fn new(listener: TcpListener) -> Self {
        Self {
            listener,
            present: Strangers::new(GUESTS_MAX),
        }
    }

    /// The next one; errors of accepting pass, and are waited out.
    pub async fn accept(&self) -> (Guest, SocketAddr) {
        loop {
            self.present.until_room(STAY_MIN).await;
            match self.listener.accept().await {
                Ok((stream, addr)) => return (Guest::new(stream, &self.present), addr),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Where it listens.
    ///
    /// # Errors
    /// What the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that ends with its time.
pub struct Guest {
    stream: TcpStream,
    leaving: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl fmt::Debug for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Guest").field(&self.stream).finish()
    }
}

impl Guest {
    fn new(stream: TcpStream, present: &Arc<Strangers>) -> Self {
        let place = present.enter();
        let leaving = async move {
            tokio::select! {
                () = place.ousted() => {}
                () = sleep(STAY_MAX) => {}
            }
        };
        Self {
            stream,
            leaving: Box::pin(leaving),
        }
    }

    /// Fails once its time is over, and wakes whoever waits for anything when it is.
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.leaving.as_mut().poll(context) {
            Poll::Ready(()) => {
                // Asked again, it must be as over as it is now.
                self.leaving = Box::pin(std::future::ready(()));
                Err(io::ErrorKind::TimedOut.into())
            }
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Guest {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Guest {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    #[tokio::test]
    async fn a_guest_too_many_makes_the_oldest_leave() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let guests = Guests::new(listener);
        let addr = guests.local_addr().unwrap();
        let mut dialled = Vec::new();
        let mut accepted = Vec::new();
        for _ in 0..GUESTS_MAX {
            dialled.push(TcpStream::connect(addr).await.unwrap());
            accepted.push(guests.accept().await.0);
        }
        // It is waited for when the next one comes, and woken by that.
        let mut oldest = accepted.remove(0);
        let (left, _) = tokio::join!(oldest.read_u8(), async {
            dialled.push(TcpStream::connect(addr).await.unwrap());
            accepted.push(guests.accept().await.0);
        });
        assert_eq!(left.unwrap_err().kind(), io::ErrorKind::TimedOut);
        let again = oldest.read_u8().await.unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::TimedOut);
    }
}
