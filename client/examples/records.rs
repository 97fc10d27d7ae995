//! Appends the lines of stdin to a file as records, many at a time, and tells where each is.
//!
//! With a cluster of this user on this machine (`sarsen up`):
//!
//! ```text
//! cargo run --package sarsen-client --example records -- /path/in/the/cluster < lines
//! ```

use std::env;
use std::error::Error;
use std::io;

use sarsen_client::{Client, ClientConfig, WriteOptions};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let path = env::args().nth(1).ok_or("usage: records /PATH < LINES")?;
    let client = Client::connect(ClientConfig::default()).await?;
    // An empty file, unless there is one already.
    client.touch(&path).await?;

    let mut options = WriteOptions::default();
    options.ordered = true;
    let mut writer = client.record_writer(&path, options).await?;
    let mut receipts = Vec::new();
    for line in io::stdin().lines() {
        // This waits for room only, and not for the record before.
        receipts.push(writer.append(line?.as_bytes()).await?);
    }
    for receipt in receipts {
        let appended = receipt.await?;
        println!(
            "{} bytes at {} on {} servers",
            appended.length, appended.offset, appended.copies
        );
    }
    client.close().await;
    Ok(())
}
