//! io_uring, behind one folder, so that another ring could take this one's place.
//!
//! [`ops`] are the requests; this module is the runtime. What holds for both:
//!
//! - The kernel learns of requests when the thread parks. Whoever computes for long holds them
//!   up ([`crate::io::begin_now`]).
//! - Dropping a future does not cancel its request: what it needs is kept until the kernel is
//!   done, and a receive may still take bytes. Connections are shut down when they are dropped.
//! - A runtime waits at its end for requests that are still with the kernel, so every connection
//!   has to be dropped first.

pub mod ops;

use std::future::Future;
use std::io;

/// Requests that can wait to be submitted together.
const ENTRIES: u32 = 256;

/// Runs `future`, and what it spawns locally, on this thread.
///
/// # Errors
/// When there can be no ring.
pub fn run<F: Future>(future: F) -> io::Result<F::Output> {
    let runtime = tokio_uring::Runtime::new(tokio_uring::builder().entries(ENTRIES))?;
    Ok(runtime.block_on(future))
}

/// Makes a ring as the data plane does, and has it do nothing.
///
/// # Errors
/// What forbids it.
pub fn probe() -> io::Result<()> {
    // A runtime can't be made inside of another one, so on a thread without.
    let probe = || run(tokio_uring::no_op()).and_then(|done| done);
    std::thread::spawn(probe)
        .join()
        .unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
}
