//! Operations of the master.

use std::time::{Duration, Instant};

use sarsen_client::{Client, PutOptions};

use super::{Load, Measured, Operation, filling, repeat};
use crate::context::Context;
use crate::failure::Problem;

/// What comes next of a file.
#[derive(Clone, Copy, Debug)]
enum Step {
    Make,
    Stat,
    Rename,
    Remove,
}

/// Makes files of so many bytes, asks what they are, renames and removes them.
pub(super) async fn meta(
    load: &Load,
    context: &Context,
    folder: &str,
    size: u64,
) -> Result<Measured, Problem> {
    let mut all = Vec::new();
    let clients = load.connect(context).await?;
    for (number, client) in clients.iter().enumerate() {
        all.extend((0..load.in_flight).map(|at| File {
            client: client.clone(),
            path: format!("{folder}/{number}-{at}"),
            renamed: format!("{folder}/{number}-{at}-renamed"),
            size,
            options: load.put_options(),
            next: Step::Make,
        }));
    }
    repeat(context, load, clients, all).await
}

struct File {
    client: Client,
    path: String,
    renamed: String,
    size: u64,
    options: PutOptions,
    next: Step,
}

impl Operation for File {
    async fn once(&mut self) -> Result<(Duration, u64), Problem> {
        let (client, path, renamed) = (&self.client, &self.path, &self.renamed);
        let asked = Instant::now();
        let (next, bytes) = match self.next {
            Step::Make => {
                let options = self.options.clone();
                client.put(path, filling(self.size), options).await?;
                (Step::Stat, self.size)
            }
            Step::Stat => {
                client.stat(path).await?;
                (Step::Rename, 0)
            }
            Step::Rename => {
                client.rename(path, renamed).await?;
                (Step::Remove, 0)
            }
            Step::Remove => {
                client.remove(renamed, false, true).await?;
                (Step::Make, 0)
            }
        };
        self.next = next;
        Ok((asked.elapsed(), bytes))
    }
}
