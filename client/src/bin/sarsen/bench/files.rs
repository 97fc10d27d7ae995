//! Whole files, up and down.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use sarsen_client::{Client, GetOptions, GetTarget, PutOptions};

use super::{Load, Measured, Operation, filling, repeat};
use crate::context::Context;
use crate::failure::Problem;

/// Uploads files of so many bytes.
pub(super) async fn put(
    load: &Load,
    context: &Context,
    folder: &str,
    size: u64,
) -> Result<Measured, Problem> {
    let mut all = Vec::new();
    let clients = load.connect(context).await?;
    for (number, client) in clients.iter().enumerate() {
        all.extend((0..load.in_flight).map(|at| Put {
            client: client.clone(),
            path: format!("{folder}/{number}-{at}"),
            size,
            options: load.put_options(),
        }));
    }
    repeat(context, load, clients, all).await
}

struct Put {
    client: Client,
    path: String,
    size: u64,
    options: PutOptions,
}

impl Operation for Put {
    /// The file is removed again, which is not part of its time: there is never more than is on its way.
    async fn once(&mut self) -> Result<(Duration, u64), Problem> {
        let (client, path) = (&self.client, &self.path);
        let asked = Instant::now();
        let options = self.options.clone();
        client.put(path, filling(self.size), options).await?;
        let took = asked.elapsed();
        client.remove(path, false, true).await?;
        Ok((took, self.size))
    }
}

/// Downloads a file of so many bytes, each time all of it.
pub(super) async fn get(
    load: &Load,
    context: &Context,
    folder: &str,
    size: u64,
) -> Result<Measured, Problem> {
    let path = format!("{folder}/file");
    let client = context.client().await?;
    client.put(&path, filling(size), load.put_options()).await?;
    let mut all = Vec::new();
    let clients = load.connect(context).await?;
    for client in &clients {
        all.extend((0..load.in_flight).map(|_| Get {
            client: client.clone(),
            path: path.clone(),
            size,
        }));
    }
    repeat(context, load, clients, all).await
}

struct Get {
    client: Client,
    path: String,
    size: u64,
}

impl Operation for Get {
    async fn once(&mut self) -> Result<(Duration, u64), Problem> {
        let asked = Instant::now();
        let nowhere = GetTarget::Path(PathBuf::from("/dev/null"));
        let options = GetOptions::default();
        self.client.get(&self.path, nowhere, options).await?;
        Ok((asked.elapsed(), self.size))
    }
}
