//! The program `chunkd`: starting, serving, draining.
//!
//! - [`start`]: from the command line to ports and directories that are ready;
//! - [`control`]: the loop around the core's machine: the connection to the master;
//! - [`master_link`]: what the loop has to do over that connection;
//! - [`keep`]: what a registration asks to be kept durably, in each directory;
//! - [`leases`]: what open chunks want of the master, and what it orders their members;
//! - [`orders`], [`copies`]: what the master ordered, done on the disks;
//! - [`pull`]: a chunk's bytes from another chunkserver, for a copy;
//! - [`inventory`]: what the store holds, as the master is told;
//! - [`disk`]: a directory's own threads: is it alive, and what is to be done in the background;
//! - [`questions`]: the control port, where clients and other chunkservers ask.
//!
//! One thread runs the control plane, the HTTP port and the questions; the data plane has threads
//! of its own ([`crate::net`]), and whatever waits for a disk is on blocking threads, but for brief appends
//! ([`crate::core::brief_work`]). A hung disk holds up its own threads and at most one of the data
//! plane's, never all of them.

mod control;
pub mod copies;
mod disk;
pub mod inventory;
mod keep;
pub mod leases;
mod master_link;
pub mod orders;
mod pull;
pub mod questions;
mod start;

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use sarsen_edge::args::{Parsed, parse};
use sarsen_edge::exit::report;

use crate::config::Options;

pub use disk::told_of_disk;
pub use keep::keep_durably;
pub use start::StartError;

/// What the program is called in its messages.
const PROGRAM: &str = "chunkd";

/// Runs `chunkd` with this command line, whose first word is the program's name, until it is told
/// to end. Takes over the process's signals and its log.
#[must_use]
pub fn run(line: impl IntoIterator<Item = OsString>) -> ExitCode {
    match parse::<Options>(PROGRAM, line) {
        Ok(Parsed::Run(options)) => match serve(&options) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => report(PROGRAM, &error),
        },
        Ok(Parsed::Show(text)) => {
            // Whoever closed stdout does not want to read it.
            let _ = std::io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(error) => report(PROGRAM, &error),
    }
}

fn serve(options: &Options) -> Result<(), StartError> {
    let (server, drain) = start::start(options)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| StartError::System {
            what: "a runtime",
            source,
        })?;
    let result = runtime.block_on(control::run(server, drain));
    // A disk that hangs must not keep the program from ending.
    runtime.shutdown_background();
    result
}
