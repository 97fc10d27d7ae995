//! `sarsen wait`: until the cluster serves.

use clap::Args;
use sarsen_edge::exit::Exit;
use sarsen_edge::json;

use crate::context::Context;
use crate::failure::Failure;

/// What `sarsen wait` is told.
#[derive(Args, Debug)]
pub(crate) struct WaitArgs {
    /// How many chunkservers are to be live
    #[arg(long, value_name = "N", default_value_t = 1)]
    chunkservers: u32,
}

/// Runs the verb.
pub(crate) async fn run(args: &WaitArgs, context: &Context) -> Result<Exit, Failure> {
    let client = context.client().await.map_err(context.at(""))?;
    let report = client.wait(args.chunkservers).await;
    let report = report.map_err(context.at(""))?;
    context.result(&json::report(&report), "")?;
    Ok(Exit::Done)
}
