//! `sarsen completions`: a script by which a shell completes command lines.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;
use sarsen_edge::exit::Exit;
use serde_json::json;

use crate::args::Cli;
use crate::context::Context;
use crate::failure::Failure;

/// What `sarsen completions` is told.
#[derive(Args, Debug)]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Runs the verb.
pub(crate) fn run(args: &CompletionsArgs, context: &Context) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "sarsen", &mut script);
    let script = String::from_utf8_lossy(&script);
    context.result(&json!({ "script": script }), &script)?;
    Ok(Exit::Done)
}
