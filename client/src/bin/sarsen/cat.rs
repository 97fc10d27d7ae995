//! `sarsen cat`: stored bytes to stdout.

use std::io;

use clap::Args;
use sarsen_client::{GetOptions, GetTarget};
use sarsen_edge::exit::Exit;

use crate::args::number;
use crate::context::{Context, stream};
use crate::failure::Failure;
use crate::get::warn_of_bad;
use crate::rate::RateArgs;

/// What `sarsen cat` is told.
#[derive(Args, Debug)]
pub(crate) struct CatArgs {
    /// The first byte
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true, value_parser = number)]
    offset: u64,

    /// How many bytes at most; all if not given
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = number)]
    length: Option<u64>,

    #[command(flatten)]
    rate: RateArgs,

    /// A file in the cluster
    path: String,
}

/// Runs the verb.
pub(crate) async fn run(args: &CatArgs, context: &Context) -> Result<Exit, Failure> {
    let at = context.at(&args.path);
    let path = context.path(&args.path).await.map_err(&at)?;
    let stdout = stream("stdout", io::stdout()).map_err(&at)?;
    let client = context.client().await.map_err(&at)?;
    let mut options = GetOptions::default();
    options.offset = args.offset;
    options.length = args.length;
    options.limit.clone_from(&args.rate.limit_rate);
    let report = client.get(path, GetTarget::File(stdout), options).await;
    warn_of_bad(&report.map_err(context.at(path))?, context);
    Ok(Exit::Done)
}
