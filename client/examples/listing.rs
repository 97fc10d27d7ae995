//! Lists a folder page by page, and reads the first bytes of each file in it.
//!
//! With a cluster of this user on this machine (`sarsen up`):
//!
//! ```text
//! cargo run --package sarsen-client --example listing -- /path/of/a/folder
//! ```

use std::env;
use std::error::Error;

use sarsen_client::{Client, ClientConfig, path};
use sarsen_protocol::message::NodeType;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let folder = env::args().nth(1).unwrap_or_else(|| "/".into());
    let client = Client::connect(ClientConfig::default()).await?;
    let mut after = String::new();
    loop {
        // A page at a time, so that a folder of a million names needs no room for all of them.
        let page = client.list_page(&folder, &after, 1000).await?;
        for entry in &page.entries {
            match entry.node.node_type {
                NodeType::Folder => println!("{}/", entry.name),
                NodeType::File => {
                    let file = path::join(&folder, &entry.name);
                    let first = client.read_range(&file, 0, 16).await?;
                    println!("{} ({} bytes) {first:02x?}", entry.name, entry.node.size);
                }
            }
        }
        match page.entries.last() {
            Some(last) if page.more => after.clone_from(&last.name),
            _ => break,
        }
    }
    client.close().await;
    Ok(())
}
