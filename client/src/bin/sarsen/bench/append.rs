//! Record appends.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use sarsen_client::{Error, RecordWriter, WriteOptions};

use super::{FILLING, Load, Measured, Work, together};
use crate::context::Context;
use crate::failure::Problem;

/// No record is as long; the library tells how long one may be.
const PAYLOAD_LEN_MAX: usize = 64 * 1024 * 1024;

/// Appends records of so many bytes to one file.
pub(super) async fn append(
    load: &Load,
    context: &Context,
    folder: &str,
    size: u64,
) -> Result<Measured, Problem> {
    let path = &format!("{folder}/records");
    let client = context.client().await?;
    let nothing = super::filling(0);
    client.put(path, nothing, load.put_options()).await?;
    let mut options = WriteOptions::default();
    options.level = load.durability.level();
    let len = usize::try_from(size).unwrap_or(usize::MAX);
    let payload: Arc<[u8]> = vec![FILLING; len.min(PAYLOAD_LEN_MAX)].into();
    let in_flight = usize::from(load.in_flight);
    let mut all = Vec::new();
    let clients = load.connect(context).await?;
    for client in &clients {
        let mut writer = client.record_writer(path, options).await?;
        // Opens the chunk, if it is the first, and the stream to its primary.
        writer.append(&payload).await?.await?;
        let payload = payload.clone();
        all.push(async move |until| {
            Ok(append_until(&mut writer, &payload, in_flight, until).await?)
        });
    }
    together(context, load, clients, all.into_iter()).await
}

/// Appends until the time is over; how long each record took until it was acknowledged.
async fn append_until(
    writer: &mut RecordWriter,
    payload: &[u8],
    in_flight: usize,
    until: Instant,
) -> Result<Work, Error> {
    let (mut times, mut receipts) = (Vec::new(), VecDeque::new());
    loop {
        while receipts.len() < in_flight && Instant::now() < until {
            let asked = Instant::now();
            receipts.push_back((asked, writer.append(payload).await?));
        }
        let Some((asked, receipt)) = receipts.pop_front() else {
            return Ok(Work {
                bytes: payload.len() as u64 * times.len() as u64,
                times,
                ended: Instant::now(),
            });
        };
        receipt.await?;
        times.push(asked.elapsed());
    }
}
