//! Reads at random places.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sarsen_client::OpenFile;
use sarsen_edge::random_u64;

use super::{Load, Measured, Operation, filling, repeat};
use crate::context::Context;
use crate::failure::Problem;

/// Bytes of the file, if a read is not longer: some chunks.
const FILE_LEN: u64 = 256 << 20;

/// Reads so many bytes at places of one file that are multiples of as many.
pub(super) async fn read(
    load: &Load,
    context: &Context,
    folder: &str,
    size: u64,
) -> Result<Measured, Problem> {
    let path = &format!("{folder}/file");
    let size = size.max(1);
    let places = (FILE_LEN / size).max(1);
    let client = context.client().await?;
    let source = filling(places * size);
    client.put(path, source, load.put_options()).await?;
    let mut all = Vec::new();
    let clients = load.connect(context).await?;
    for client in &clients {
        let file = Arc::new(client.open(path).await?);
        all.extend((0..load.in_flight).map(|_| Read {
            file: Arc::clone(&file),
            places,
            size,
        }));
    }
    repeat(context, load, clients, all).await
}

struct Read {
    file: Arc<OpenFile>,
    places: u64,
    size: u64,
}

impl Operation for Read {
    async fn once(&mut self) -> Result<(Duration, u64), Problem> {
        let offset = random_u64() % self.places * self.size;
        let asked = Instant::now();
        let bytes = self.file.read_at(offset, self.size).await?;
        Ok((asked.elapsed(), bytes.len() as u64))
    }
}
