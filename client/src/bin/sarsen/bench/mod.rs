//! `sarsen bench`: how fast a running cluster is, from here.
//!
//! What is stored for it lies in a folder of its own, `/.bench-` and 16 digits, which goes at the end. Servers are the
//! chunkservers; the master tells no processor time.

mod append;
mod files;
mod measured;
mod meta;
mod read;
mod servers;

use std::panic::resume_unwind;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use rustix::time::{ClockId, clock_gettime};
use sarsen_client::{Client, PutOptions, PutSource};
use sarsen_edge::exit::Exit;
use sarsen_edge::random_u64;
use tokio::io::AsyncReadExt as _;
use tokio::task::JoinSet;

use crate::args::time;
use crate::context::Context;
use crate::durability::DurabilityArgs;
use crate::failure::{Failure, Problem};
use crate::rate;

use measured::Measured;

/// What every byte of what is stored is.
const FILLING: u8 = 0xa5;

/// What `sarsen bench` is told.
#[derive(Args, Debug)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    what: What,
}

/// What is measured.
#[derive(Debug, Subcommand)]
enum What {
    /// Upload files, each of which is removed again when it is there
    Put {
        /// Bytes of a file, as 100, 4K, 64M or 1GiB
        #[arg(long, default_value = "64M", value_parser = byte_count)]
        size: u64,

        #[command(flatten)]
        load: Load,
    },
    /// Download a file, verified, and throw it away
    Get {
        /// Bytes of the file, as 100, 4K, 64M or 1GiB
        #[arg(long, default_value = "64M", value_parser = byte_count)]
        size: u64,

        #[command(flatten)]
        load: Load,
    },
    /// Append records to one file
    Append {
        /// Bytes of a record, as 100, 1K or 1MiB
        #[arg(long, default_value = "1K", value_parser = byte_count)]
        size: u64,

        #[command(flatten)]
        load: Load,
    },
    /// Read at random places of one file
    Read {
        /// Bytes of a read, as 100, 4K or 1MiB
        #[arg(long, default_value = "4K", value_parser = byte_count)]
        size: u64,

        #[command(flatten)]
        load: Load,
    },
    /// Make a file, ask what it is, rename it and remove it: four operations
    Meta {
        /// Bytes of a file; none is stored by default
        #[arg(long, default_value = "0", value_parser = byte_count)]
        size: u64,

        #[command(flatten)]
        load: Load,
    },
}

/// Who asks for how much, and how long.
#[derive(Args, Clone, Copy, Debug)]
struct Load {
    /// Clients, each with its own session and connections
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    clients: u16,

    /// Operations of each client that are on their way at a time
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    in_flight: u16,

    /// How long
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = time)]
    duration: Duration,

    /// Copies of what is stored; the cluster's own number if not given
    #[arg(long)]
    replicas: Option<u8>,

    #[command(flatten)]
    durability: DurabilityArgs,
}

impl Load {
    fn put_options(&self) -> PutOptions {
        let mut options = PutOptions::default();
        options.replicas = self.replicas.unwrap_or(options.replicas);
        options.level = self.durability.level();
        options.purge = true;
        options
    }

    async fn connect(&self, context: &Context) -> Result<Vec<Client>, Problem> {
        let mut clients = Vec::new();
        for _ in 0..self.clients {
            clients.push(context.connect().await?);
        }
        Ok(clients)
    }
}

fn byte_count(text: &str) -> Result<u64, String> {
    rate::bytes(text)
        .ok_or_else(|| "give a whole number of bytes, with K, M or G, as in 64M".to_owned())
}

/// Runs the verb.
pub(crate) async fn run(args: &BenchArgs, context: &Context) -> Result<Exit, Failure> {
    let folder = format!("/.bench-{:016x}", random_u64());
    let client = context.client().await.map_err(context.at(&folder))?;
    context.owns(&folder);
    let made = client.make_folder(&folder, false).await;
    made.map_err(context.at(&folder))?;
    let (op, measured) = match args.what {
        What::Put { size, load } => ("put", files::put(&load, context, &folder, size).await),
        What::Get { size, load } => ("get", files::get(&load, context, &folder, size).await),
        What::Append { size, load } => (
            "append",
            append::append(&load, context, &folder, size).await,
        ),
        What::Read { size, load } => ("read", read::read(&load, context, &folder, size).await),
        What::Meta { size, load } => ("meta", meta::meta(&load, context, &folder, size).await),
    };
    // Whatever came of it, nothing is left behind.
    let removed = context.remove_own_folder().await;
    let measured = measured.map_err(context.at(&folder))?;
    removed.map_err(context.at(&folder))?;
    context.result(&measured.document(op), &measured.line())?;
    Ok(Exit::Done)
}

/// Bytes without end, as a source of so many.
fn filling(size: u64) -> PutSource {
    PutSource::Reader(Box::new(tokio::io::repeat(FILLING).take(size)))
}

/// What one of those that work side by side has done.
#[derive(Debug)]
struct Work {
    /// How long each operation took.
    times: Vec<Duration>,
    bytes: u64,
    ended: Instant,
}

/// What is done again and again.
trait Operation: Send + 'static {
    /// Does it once; how long it took, and its bytes.
    fn once(&mut self) -> impl Future<Output = Result<(Duration, u64), Problem>> + Send;
}

/// Repeats all of them side by side for as long as was told.
async fn repeat(
    context: &Context,
    load: &Load,
    clients: Vec<Client>,
    all: Vec<impl Operation>,
) -> Result<Measured, Problem> {
    let all = all
        .into_iter()
        .map(|operation| move |until| repeat_one(operation, until));
    together(context, load, clients, all).await
}

async fn repeat_one(mut operation: impl Operation, until: Instant) -> Result<Work, Problem> {
    let (mut times, mut bytes) = (Vec::new(), 0);
    while Instant::now() < until {
        let (took, more) = operation.once().await?;
        times.push(took);
        bytes += more;
    }
    Ok(Work {
        times,
        bytes,
        ended: Instant::now(),
    })
}

/// Has all of them work side by side, and measures them together. The first that fails ends it. The
/// sessions of `clients` end with it.
async fn together<F>(
    context: &Context,
    load: &Load,
    clients: Vec<Client>,
    all: impl Iterator<Item = impl FnOnce(Instant) -> F>,
) -> Result<Measured, Problem>
where
    F: Future<Output = Result<Work, Problem>> + Send + 'static,
{
    let client = context.client().await?;
    let servers = servers::cpu(client).await;
    let (own, began) = (own_cpu(), Instant::now());
    let mut tasks = JoinSet::new();
    for begin in all {
        tasks.spawn(begin(began + load.duration));
    }
    let (mut times, mut bytes, mut ended) = (Vec::new(), 0, began);
    while let Some(done) = tasks.join_next().await {
        let work = done.unwrap_or_else(|ended| resume_unwind(ended.into_panic()))?;
        times.extend(work.times);
        bytes += work.bytes;
        ended = ended.max(work.ended);
    }
    let client_cpu = own_cpu().saturating_sub(own);
    let servers_cpu = match (servers, servers::cpu(client).await) {
        (Some(before), Some(after)) => after.checked_sub(before),
        _ => None,
    };
    for client in clients {
        client.close().await;
    }
    times.sort_unstable();
    Ok(Measured {
        times,
        bytes,
        elapsed: ended.saturating_duration_since(began),
        client_cpu,
        servers_cpu,
    })
}

/// Processor time of this process.
fn own_cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let nanoseconds = u32::try_from(time.tv_nsec).unwrap_or_default();
    Duration::new(seconds, nanoseconds)
}
