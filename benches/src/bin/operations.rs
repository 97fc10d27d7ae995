//! Creates, looks at or deletes empty files of a folder through the client library, so many at a
//! time: what `benches/peers/operations.py` does to a file system. Its first request opens the
//! connection, and is part of what it takes, as of `sarsen`.
//!
//!     operations --master HOST:PORT --key-file FILE [--durability disk|memory] [--in-flight N]
//!                [--count N] create|stat|delete FOLDER

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use sarsen_benches::roles::connect;
use sarsen_client::{Client, PutOptions, PutSource};
use sarsen_protocol::message::Level;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

/// What is done to each file.
#[derive(Clone, Copy, Debug)]
enum Operation {
    Create,
    Stat,
    Delete,
}

/// What the command line says.
struct Options {
    master: String,
    key_file: PathBuf,
    level: Level,
    in_flight: u64,
    count: u64,
    operation: Operation,
    folder: String,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse(std::env::args().skip(1))?;
    // The runtime that `sarsen` has.
    let runtime = Runtime::new()?;
    let done = runtime.block_on(run(Arc::new(options)));
    runtime.shutdown_background();
    done
}

impl Options {
    fn parse(mut args: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let (mut master, mut key_file) = (None, None);
        let (mut level, mut in_flight, mut count) = (Level::Disk, 1, 1);
        let mut words = Vec::new();
        while let Some(arg) = args.next() {
            let mut value = || args.next().with_context(|| format!("{arg} takes a value"));
            match arg.as_str() {
                "--master" => master = Some(value()?),
                "--key-file" => key_file = Some(value()?),
                "--durability" => {
                    level = match value()?.as_str() {
                        "disk" => Level::Disk,
                        "memory" => Level::Memory,
                        other => anyhow::bail!("no durability {other}"),
                    }
                }
                "--in-flight" => in_flight = value()?.parse().context("--in-flight")?,
                "--count" => count = value()?.parse().context("--count")?,
                _ if arg.starts_with('-') => anyhow::bail!("unknown option {arg}"),
                _ => words.push(arg),
            }
        }
        let [operation, folder] = words.as_slice() else {
            anyhow::bail!("an operation and a folder are wanted");
        };
        let operation = match operation.as_str() {
            "create" => Operation::Create,
            "stat" => Operation::Stat,
            "delete" => Operation::Delete,
            other => anyhow::bail!("no operation {other}"),
        };
        Ok(Self {
            master: master.context("--master")?,
            key_file: key_file.context("--key-file")?.into(),
            level,
            in_flight,
            count,
            operation,
            folder: folder.clone(),
        })
    }
}

async fn run(options: Arc<Options>) -> anyhow::Result<()> {
    let client = connect(&options.master, &options.key_file).await?;
    let next = Arc::new(AtomicU64::new(0));
    let mut doing = JoinSet::new();
    for _ in 0..options.in_flight {
        let (client, options, next) = (client.clone(), options.clone(), next.clone());
        doing.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= options.count {
                    return anyhow::Ok(());
                }
                once(&client, &options, number).await?;
            }
        });
    }
    while let Some(done) = doing.join_next().await {
        done??;
    }
    client.close().await;
    Ok(())
}

async fn once(client: &Client, options: &Options, number: u64) -> anyhow::Result<()> {
    let path = format!("{}/{number}", options.folder);
    match options.operation {
        Operation::Create => {
            let nothing = PutSource::Reader(Box::new(tokio::io::empty()));
            let mut how = PutOptions::default();
            how.level = options.level;
            client.put(&path, nothing, how).await?;
        }
        Operation::Stat => {
            client.stat(&path).await?;
        }
        Operation::Delete => client.remove(&path, false, true).await.map(drop)?,
    }
    Ok(())
}
