//! `sarsen bench`: how fast a running cluster is, from here.

use std::collections::VecDeque;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use rustix::time::{ClockId, clock_gettime};
use sarsen_client::{Client, Error, PutOptions, PutSource, RecordWriter, WriteOptions};
use sarsen_edge::exit::Exit;
use sarsen_edge::random_u64;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::context::Context;
use crate::durability::DurabilityArgs;
use crate::failure::{Failure, Problem};
use crate::rate;
use crate::table::{seconds, size};
use crate::transfer::mb_per_s;

/// Bytes of a GiB.
const GIB: f64 = (1_u64 << 30) as f64;

/// What `sarsen bench` is told.
#[derive(Args, Debug)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    what: What,
}

/// What is measured.
#[derive(Debug, Subcommand)]
enum What {
    /// Append records to one file, which is removed again
    Append(AppendArgs),
}

#[derive(Args, Debug)]
struct AppendArgs {
    /// Bytes of a record, as 100, 1K or 1MiB
    #[arg(long, default_value = "1K", value_parser = record_len)]
    size: u64,

    /// Clients, each with its own session and connections
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    clients: u16,

    /// Records of each client that are on their way at a time
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    in_flight: u16,

    /// How long
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = humantime::parse_duration)]
    duration: Duration,

    /// Copies of the file; the cluster's own number if not given
    #[arg(long)]
    replicas: Option<u8>,

    #[command(flatten)]
    durability: DurabilityArgs,
}

fn record_len(text: &str) -> Result<u64, String> {
    rate::bytes(text)
        .ok_or_else(|| "give a whole number of bytes, with K or M, as in 1K".to_owned())
}

/// Runs the verb.
pub(crate) async fn run(args: &BenchArgs, context: &Context) -> Result<Exit, Failure> {
    let What::Append(args) = &args.what;
    let path = format!("/.bench-{:016x}", random_u64());
    let client = context.client().await.map_err(context.at(&path))?;
    let mut options = PutOptions::default();
    options.replicas = args.replicas.unwrap_or(options.replicas);
    let nothing = PutSource::Reader(Box::new(tokio::io::empty()));
    let made = client.put(&path, nothing, options).await;
    made.map_err(context.at(&path))?;
    let measured = append(args, context, &path).await;
    // Whatever came of it, nothing is left behind.
    let removed = client.remove(&path, false, true).await;
    let measured = measured.map_err(context.at(&path))?;
    removed.map_err(context.at(&path))?;
    context.result(&measured.document("append"), &measured.line())?;
    Ok(Exit::Done)
}

/// What was done, and how long it took.
struct Measured {
    /// Of each operation, rising.
    times: Vec<Duration>,
    bytes: u64,
    elapsed: Duration,
    /// Of this process.
    cpu: Duration,
}

impl Measured {
    fn document(&self, op: &str) -> Value {
        json!({
            "op": op,
            "bytes": self.bytes,
            "seconds": self.elapsed.as_secs_f64(),
            "mb_per_s": mb_per_s(self.bytes, self.elapsed),
            "ops_per_s": self.ops_per_s(),
            "p50_us": self.percentile(0.5),
            "p99_us": self.percentile(0.99),
            "p999_us": self.percentile(0.999),
            // Servers don't tell theirs.
            "cpu_s_per_gib": { "client": self.cpu_s_per_gib(), "servers": null },
        })
    }

    fn line(&self) -> String {
        let percentile = |part| self.percentile(part).unwrap_or_default();
        format!(
            "{} records, {} in {}: {:.0} /s, {:.1} MB/s; p50 {:.0} us, p99 {:.0} us, p99.9 {:.0} us; \
             client {:.2} CPU s/GiB",
            self.times.len(),
            size(self.bytes),
            seconds(self.elapsed),
            self.ops_per_s(),
            mb_per_s(self.bytes, self.elapsed),
            percentile(0.5),
            percentile(0.99),
            percentile(0.999),
            self.cpu_s_per_gib().unwrap_or_default(),
        )
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "a rate is shown with a few digits"
    )]
    fn ops_per_s(&self) -> f64 {
        match self.elapsed.is_zero() {
            true => 0.0,
            false => self.times.len() as f64 / self.elapsed.as_secs_f64(),
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "it is shown with a few digits")]
    fn cpu_s_per_gib(&self) -> Option<f64> {
        (self.bytes > 0).then(|| self.cpu.as_secs_f64() * GIB / self.bytes as f64)
    }

    /// Microseconds in which this part of the operations was done.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a part of a count is a count"
    )]
    fn percentile(&self, part: f64) -> Option<f64> {
        let place = (self.times.len() as f64 * part) as usize;
        let time = self.times.get(place).or(self.times.last())?;
        Some(time.as_secs_f64() * 1e6)
    }
}

async fn append(args: &AppendArgs, context: &Context, path: &str) -> Result<Measured, Problem> {
    let mut options = WriteOptions::default();
    options.level = args.durability.level();
    let most = usize::try_from(args.size).unwrap_or(usize::MAX);
    let payload: Arc<[u8]> = match most {
        // No record is as long; the library tells how long one may be.
        0x0400_0000.. => vec![0xa5; 0x0400_0000].into(),
        len => vec![0xa5; len].into(),
    };
    let mut writers = Vec::new();
    for _ in 0..args.clients {
        let client = context.connect().await?;
        let mut writer = client.record_writer(path, options).await?;
        // Opens the chunk, if it is the first, and the stream to its primary.
        writer.append(&payload).await?.await?;
        writers.push((client, writer));
    }
    let (cpu, began) = (own_cpu(), Instant::now());
    let until = began + args.duration;
    let mut tasks = JoinSet::new();
    for (client, mut writer) in writers {
        let (payload, in_flight) = (payload.clone(), usize::from(args.in_flight));
        tasks.spawn(async move {
            let times = append_until(&mut writer, &payload, in_flight, until).await;
            drop(writer);
            (client, times)
        });
    }
    let (mut times, mut clients, mut failed) = (Vec::new(), Vec::<Client>::new(), None);
    while let Some(done) = tasks.join_next().await {
        let (client, own) = done.unwrap_or_else(|ended| resume_unwind(ended.into_panic()));
        clients.push(client);
        match own {
            Ok(own) => times.extend(own),
            Err(error) => failed = Some(error),
        }
    }
    let (elapsed, cpu) = (began.elapsed(), own_cpu().saturating_sub(cpu));
    for client in clients {
        client.close().await;
    }
    if let Some(error) = failed {
        return Err(error.into());
    }
    times.sort_unstable();
    Ok(Measured {
        bytes: args.size * times.len() as u64,
        times,
        elapsed,
        cpu,
    })
}

/// Appends until the time is over; how long each record took until it was acknowledged.
async fn append_until(
    writer: &mut RecordWriter,
    payload: &[u8],
    in_flight: usize,
    until: Instant,
) -> Result<Vec<Duration>, Error> {
    let (mut times, mut receipts) = (Vec::new(), VecDeque::new());
    loop {
        while receipts.len() < in_flight && Instant::now() < until {
            let asked = Instant::now();
            receipts.push_back((asked, writer.append(payload).await?));
        }
        let Some((asked, receipt)) = receipts.pop_front() else {
            return Ok(times);
        };
        receipt.await?;
        times.push(asked.elapsed());
    }
}

/// Processor time of this process.
fn own_cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    let nanoseconds = u32::try_from(time.tv_nsec).unwrap_or_default();
    Duration::new(seconds, nanoseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_what_was_done() {
        let measured = |count: u64| Measured {
            times: (1..=count).map(Duration::from_micros).collect(),
            bytes: 1 << 20,
            elapsed: Duration::from_secs(2),
            cpu: Duration::from_secs(1),
        };
        let many = measured(1000);
        let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|part| many.percentile(part));
        let rounded = |us: Option<f64>| us.map(f64::round);
        assert_eq!(rounded(p50), Some(501.0));
        assert_eq!(rounded(p99), Some(991.0));
        assert_eq!(rounded(p999), Some(1000.0));
        let none = measured(0);
        assert_eq!(none.percentile(0.5), None);
        assert_eq!(many.document("append")["ops_per_s"], 500.0);
        assert_eq!(many.document("append")["cpu_s_per_gib"]["client"], 1024.0);
    }
}
