//! Uploads a file, downloads it again, and compares.
//!
//! With a cluster of this user on this machine (`sarsen up`):
//!
//! ```text
//! cargo run --package sarsen-client --example round_trip -- LOCAL_FILE /path/in/the/cluster
//! ```

use std::env;
use std::error::Error;
use std::path::PathBuf;

use sarsen_client::{Client, ClientConfig, GetOptions, GetTarget, PutOptions, PutSource};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = env::args().collect();
    let [_, local, path] = &words[..] else {
        return Err("usage: round_trip LOCAL_FILE /PATH".into());
    };
    // The key is found by the master's address, as it is one of ours on this machine.
    let client = Client::connect(ClientConfig::default()).await?;

    let source = PutSource::Path(PathBuf::from(local));
    let mut options = PutOptions::default();
    options.force = true;
    let put = client.put(path, source, options).await?;
    println!(
        "{} bytes up in {:?}, crc32 {:08x}",
        put.bytes, put.elapsed, put.crc32
    );

    let target = PathBuf::from(format!("{local}.returned"));
    let get = client
        .get(path, GetTarget::Path(target.clone()), GetOptions::default())
        .await?;
    println!(
        "{} bytes down in {:?} to {}",
        get.bytes,
        get.elapsed,
        target.display()
    );

    // Every byte was verified on its way; the checksum says the same without moving any.
    assert_eq!(client.checksum(path).await?, Some(put.crc32));
    client.close().await;
    Ok(())
}
