//! The one seam between the data plane and the kernel.
//!
//! [`Mode`] says how bytes are moved: by io_uring, or by readiness (epoll) where io_uring is
//! forbidden, as in many containers. [`Socket`] and [`file::write_at`] do the same on both, and
//! nothing above them knows which it is; [`file::begin_write_back`] is a hint that epoll leaves out.
//! A data-plane thread runs its own single-threaded runtime ([`run`]); all tasks of a connection stay
//! on the thread that accepted it, or that it was handed over to as a whole. Connections of small frames
//! ([`Socket::of_small_frames`]) use readiness in both modes.
//!
//! Bytes of chunks move in [`pool::Buffer`]s, received into once and then shared read-only by
//! the write to disk and the send to the next hop; and on reads from the chunk's mapping or
//! file, in no buffer of ours at all.

pub mod file;
pub mod pool;
pub mod socket;

use std::future::Future;
use std::io;

use sarsen_edge::exit::{Exit, Explain};
use thiserror::Error;

pub use socket::Socket;

use crate::uring;

/// How bytes are moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// By io_uring.
    Uring,
    /// By readiness and plain system calls.
    Epoll,
}

/// What was asked for with `--io`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Choice {
    /// io_uring where it is allowed, else epoll.
    #[default]
    Auto,
    /// io_uring, or fail.
    Uring,
    /// epoll.
    Epoll,
}

/// io_uring was demanded, and the system does not allow it.
#[derive(Debug, Error)]
#[error("--io uring: this system does not allow io_uring")]
pub struct UringForbidden {
    source: io::Error,
}

impl Explain for UringForbidden {
    fn exit(&self) -> Exit {
        Exit::Failed
    }

    fn hint(&self) -> Option<String> {
        Some(
            "start with --io epoll, which works everywhere; containers, kernel.io_uring_disabled \
             and a low `ulimit -l` forbid io_uring"
                .to_owned(),
        )
    }
}

impl Choice {
    /// Finds out what this system allows, and logs what is used and why.
    ///
    /// # Errors
    /// If io_uring was demanded and is forbidden.
    pub fn probe(self) -> Result<Mode, UringForbidden> {
        if self == Self::Epoll {
            tracing::info!(io = "epoll", "the data plane uses epoll, as asked for");
            return Ok(Mode::Epoll);
        }
        match (uring::probe(), self) {
            (Ok(()), _) => {
                tracing::info!(
                    io = "uring",
                    "the data plane uses io_uring: the probe worked"
                );
                Ok(Mode::Uring)
            }
            (Err(source), Self::Uring) => Err(UringForbidden { source }),
            (Err(error), _) => {
                tracing::warn!(
                    io = "epoll",
                    %error,
                    "the data plane uses epoll: io_uring is not allowed here"
                );
                Ok(Mode::Epoll)
            }
        }
    }
}

/// Runs `future`, and what it spawns locally, on this thread.
///
/// # Errors
/// When the thread's runtime can't be made.
pub fn run<F: Future>(mode: Mode, future: F) -> io::Result<F::Output> {
    match mode {
        Mode::Uring => uring::run(future),
        Mode::Epoll => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            Ok(tokio::task::LocalSet::new().block_on(&runtime, future))
        }
    }
}

/// Lets the kernel begin with what was asked of it so far, before this thread computes for long.
///
/// io_uring learns of requests only when the thread parks; with epoll they were made at once.
pub async fn begin_now(mode: Mode) {
    if mode == Mode::Uring {
        uring::ops::no_op().await;
    }
}
