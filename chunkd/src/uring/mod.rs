//! io_uring, behind one folder, so that another ring could take this one's place.
//!
//! [`ops`] are the requests; this module is the runtime. What holds for both:
//!
//! - The kernel learns of requests when the thread parks. Whoever computes for long holds them
//!   up ([`crate::io::begin_now`]).
//! - Dropping a future does not cancel its request: what it needs is kept until the kernel is
//!   done, and a receive may still take bytes. Connections are shut down when they are dropped.
//! - A runtime waits at its end for requests that are still with the kernel, so every connection
//!   has to be dropped first. tokio-uring's own end does not do: it gives back what the requests
//!   need and only then waits for them. So they are counted here ([`outstanding`]), and a runtime
//!   that the kernel does not give back in good time, since a disk hangs, is leaked as it is.

pub mod ops;
mod outstanding;

use std::future::Future;
use std::io;
use std::mem::ManuallyDrop;
use std::time::Duration;

use tokio::time::timeout;

/// Requests that can wait to be submitted together.
const ENTRIES: u32 = 256;

/// How long the end of a runtime waits for the kernel.
const END_MAX: Duration = Duration::from_secs(5);

/// Runs `future`, and what it spawns locally, on this thread; then waits for the requests that are
/// left.
///
/// # Errors
/// When there can be no ring.
pub fn run<F: Future>(future: F) -> io::Result<F::Output> {
    let runtime = runtime()?;
    // Also after a panic nothing may be given back that the kernel has.
    let runtime = ManuallyDrop::new(runtime);
    let (output, is_idle) = runtime.block_on(async {
        let output = future.await;
        let is_idle = timeout(END_MAX, outstanding::none()).await.is_ok();
        (output, is_idle)
    });
    if is_idle {
        drop(ManuallyDrop::into_inner(runtime));
    } else {
        tracing::warn!("requests of io_uring don't end; what they need is left to them");
    }
    Ok(output)
}

/// A runtime with a ring of its own. Where the kernel can, what it has to do for a completion waits
/// until the thread comes to it by itself, which it does all the time: it need not be interrupted.
fn runtime() -> io::Result<tokio_uring::Runtime> {
    let with = |ring: &io_uring::Builder| {
        tokio_uring::Runtime::new(tokio_uring::builder().entries(ENTRIES).uring_builder(ring))
    };
    let plain = tokio_uring::uring_builder();
    let mut cooperative = plain.clone();
    cooperative.setup_coop_taskrun();
    match with(&cooperative) {
        // Linux before 5.19.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => with(&plain),
        made => made,
    }
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
