//! `sarsen`: the command line of a cluster, over the client library.
//!
//! A verb is a file of its own; [`args`] has the command line, [`context`] what every verb needs,
//! [`failure`] how errors are told. A verb checks its arguments before it connects, writes its
//! result at its end, and returns the code to exit with.

#![forbid(unsafe_code)]

mod append;
mod args;
mod bench;
mod cat;
mod checksum;
#[cfg(feature = "cluster")]
mod cluster;
mod completions;
mod context;
#[cfg(feature = "cluster")]
mod demo;
mod df;
mod du;
mod durability;
mod failure;
mod fsck;
mod get;
mod keygen;
mod locate;
mod ls;
mod mkdir;
mod mv;
mod progress;
mod put;
mod rate;
mod records;
mod report;
mod rm;
mod shortfall;
mod signals;
mod stat;
mod table;
mod tail;
mod target;
mod touch;
mod transfer;
mod trash;
mod tree;
mod truncate;
#[cfg(feature = "cluster")]
mod up;
mod wait;
mod write;

use std::env;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use sarsen_edge::args::{Parsed, parse};
use sarsen_edge::exit::{Exit, Explain};
use sarsen_edge::log::{self, LogFormat};
use tokio::runtime::Runtime;
use tokio::time::timeout;

use crate::args::{Cli, Verb};
use crate::context::Context;
use crate::failure::{Failure, Problem, document, lines};
use crate::signals::Signals;

/// How long a client that was interrupted waits for its session to be closed.
const GOODBYE_TIME_MAX: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    #[cfg(feature = "cluster")]
    if let Some(exit) = cluster::run_as_daemon() {
        return exit;
    }
    let cli = match parse::<Cli>("sarsen", env::args_os()) {
        Ok(Parsed::Run(cli)) => cli,
        Ok(Parsed::Show(text)) => return show(&text),
        Err(error) => return fail(env::args_os().any(|word| word == "--json"), &error),
    };
    if cli.globals.verbose
        && let Err(error) = log::start(LogFormat::Text)
    {
        return fail(cli.globals.json, &error);
    }
    #[cfg(feature = "cluster")]
    match &cli.verb {
        Verb::Up(args) => return up::run(args, &cli.globals),
        Verb::Demo(args) => return demo::run(args),
        _ => {}
    }
    let context = Context::new(cli.verb.name(), cli.globals);
    let runtime = match Runtime::new() {
        Ok(runtime) => runtime,
        Err(source) => {
            let name = "the system's threads and events";
            let problem = Problem::Stream { name, source };
            return fail(context.globals.json, &context.at("")(problem));
        }
    };
    let exit = runtime.block_on(async {
        tokio::spawn(Signals::take().end_at_last());
        to_the_end(cli.verb, &context, Signals::take()).await
    });
    // A thread may be reading from a terminal, which nothing but a key ends.
    runtime.shutdown_background();
    exit.into()
}

/// Runs the verb, unless the user ends it before.
async fn to_the_end(verb: Verb, context: &Context, mut signals: Signals) -> Exit {
    let done = tokio::select! {
        done = run(verb, context) => Some(done),
        () = signals.next() => None,
    };
    // A second interruption does not wait for the goodbye.
    tokio::select! {
        _ = timeout(GOODBYE_TIME_MAX, context.close()) => {}
        () = signals.next() => {}
    }
    match done {
        None => Exit::Interrupted,
        Some(Ok(exit)) => exit,
        // Who closed the pipe has what it wanted.
        Some(Err(failure)) if failure.is_closed_pipe() => Exit::Done,
        Some(Err(failure)) => {
            context.tell(&failure);
            failure.exit()
        }
    }
}

async fn run(verb: Verb, context: &Context) -> Result<Exit, Failure> {
    match verb {
        Verb::Put(args) => put::run(&args, context).await,
        Verb::Get(args) => get::run(&args, context).await,
        Verb::Cat(args) => cat::run(&args, context).await,
        Verb::Tail(args) => tail::run(&args, context).await,
        Verb::Records(args) => records::run(&args, context).await,
        Verb::Write(args) => write::run(&args, context).await,
        Verb::Append(args) => append::run(&args, context).await,
        Verb::Truncate(args) => truncate::run(&args, context).await,
        Verb::Touch(args) => touch::run(&args, context).await,
        Verb::Ls(args) => ls::run(&args, context).await,
        Verb::Tree(args) => tree::run(&args, context).await,
        Verb::Stat(args) => stat::run(&args, context).await,
        Verb::Du(args) => du::run(&args, context).await,
        Verb::Df => df::run(context).await,
        Verb::Mkdir(args) => mkdir::run(&args, context).await,
        Verb::Mv(args) => mv::run(&args, context).await,
        Verb::Rm(args) => rm::run(&args, context).await,
        Verb::Trash(args) => trash::run(&args, context).await,
        Verb::Checksum(args) => checksum::run(&args, context).await,
        Verb::Locate(args) => locate::run(&args, context).await,
        Verb::Fsck(args) => fsck::run(&args, context).await,
        Verb::Report => report::run(context).await,
        Verb::Wait(args) => wait::run(&args, context).await,
        Verb::Bench(args) => bench::run(&args, context).await,
        Verb::Keygen(args) => keygen::run(&args, context),
        Verb::Completions(args) => completions::run(&args, context),
        #[cfg(feature = "cluster")]
        Verb::Up(_) | Verb::Demo(_) => unreachable!("these were run before"),
    }
}

/// Tells what keeps the program from running a verb at all.
fn fail(json: bool, error: &impl Explain) -> ExitCode {
    let text = match json {
        true => format!("{}\n", document(error)),
        false => lines(error),
    };
    // With stderr closed there is nobody left to tell.
    let _ = io::stderr().write_all(text.as_bytes());
    error.exit().into()
}

/// Help and version; who reads them may have seen enough.
fn show(text: &str) -> ExitCode {
    let _ = io::stdout().write_all(text.as_bytes());
    Exit::Done.into()
}
