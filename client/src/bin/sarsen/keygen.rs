//! `sarsen keygen`: a new cluster key.

use std::path::PathBuf;

use clap::Args;
use sarsen_edge::exit::Exit;
use sarsen_edge::key;
use serde_json::json;

use crate::context::Context;
use crate::failure::Failure;

/// What `sarsen keygen` is told.
#[derive(Args, Debug)]
pub(crate) struct KeygenArgs {
    /// The file to make; one that exists is never overwritten
    file: PathBuf,
}

/// Runs the verb.
pub(crate) fn run(args: &KeygenArgs, context: &Context) -> Result<Exit, Failure> {
    let path = args.file.display().to_string();
    key::generate(&args.file).map_err(context.at(&path))?;
    context.result(&json!({ "path": path }), "")?;
    Ok(Exit::Done)
}
