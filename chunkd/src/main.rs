//! The program `chunkd`; all of it is in the library, so that `sarsen up` can run it too.

use std::process::ExitCode;

fn main() -> ExitCode {
    sarsen_chunkd::server::run(std::env::args_os())
}
