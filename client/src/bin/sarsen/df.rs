//! `sarsen df`: the space of the cluster.

use sarsen_edge::exit::Exit;
use serde_json::json;

use crate::context::Context;
use crate::failure::Failure;
use crate::table::{size, table};

/// Runs the verb.
pub(crate) async fn run(context: &Context) -> Result<Exit, Failure> {
    let client = context.client().await.map_err(context.at(""))?;
    let space = client.capacity().await.map_err(context.at(""))?;
    let document = json!({
        "total": space.total,
        "free": space.free,
        "used": space.used,
        "trash": space.trash,
    });
    let row = [space.total, space.free, space.used, space.trash].map(size);
    let header = ["TOTAL", "FREE", "USED", "TRASH"];
    let text = table(&header, &[0, 1, 2, 3], vec![row.into()]);
    context.result(&document, &text)?;
    Ok(Exit::Done)
}
