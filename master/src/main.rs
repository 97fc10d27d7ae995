//! The program `sarsen-master`; everything is in [`sarsen_master::server`].

use std::process::ExitCode;

fn main() -> ExitCode {
    sarsen_master::server::run(std::env::args_os())
}
