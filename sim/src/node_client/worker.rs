//! What a client does all day: one thing after the other, as the workload says.

use std::cell::Cell;
use std::rc::Rc;

use sarsen_protocol::id::{ChunkHandle, RequestId};
use sarsen_protocol::message::{
    AcceptLoss, EmptyTrash, List, ListTrash, MakeFile, MakeFolder, NodeType, Remove, Rename,
    RestoreTrash, SealFile, Stat, Truncate,
};
use sarsen_protocol::status::Status;

use super::Client;
use super::change::change;
use super::get::get;
use super::live::{follow_records, read_cells, read_records};
use super::master::Unanswered;
use super::put::{Job, put};
use crate::observation::Observation;
use crate::oracle::op::{Change, Changes, Done, Op, OpId, Outcome};
use crate::workload;

/// Payload lengths that clients send.
const PIECE_LENS: &[u32] = &[64 * 1024, 64 * 1024, 256 * 1024, 1024 * 1024];

/// Works until the client is to stop.
pub async fn work(client: Rc<Client>) {
    while !client.is_stopping() {
        let pause = client.chance(|random| random.micros(1_000, 900_000));
        client.sleep(pause).await;
        if client.is_stopping() {
            return;
        }
        let number = client.chance(|random| random.next());
        let op = client.world.with_checker(|checker| {
            client.chance(|random| workload::next(random, &checker.facts, number))
        });
        client.carry_out(OpId(number), op).await;
    }
}

impl Client {
    /// Does one thing, and tells how it ended.
    pub async fn carry_out(self: &Rc<Self>, id: OpId, op: Op) -> Outcome {
        self.world
            .line(|| format!("{:?} begins {id:?}: {}", self.node, brief(&op)));
        self.world.observe(&Observation::Begins { id, op: &op });
        self.busy.set(self.busy.get() + 1);
        let outcome = self.attempt(id, &op).await;
        self.busy.set(self.busy.get() - 1);
        self.world
            .line(|| format!("{:?} ends {id:?}: {outcome:?}", self.node));
        self.count(&op, &outcome);
        self.world.observe(&Observation::Ends {
            id,
            outcome: &outcome,
        });
        outcome
    }

    async fn attempt(self: &Rc<Self>, id: OpId, op: &Op) -> Outcome {
        match op.clone() {
            Op::Change(changes) => {
                let outcome = self.change_at(&changes).await;
                self.look_at(&changes).await;
                outcome
            }
            Op::Truncate { path, layout, cell } => {
                let asked = Rc::new(Cell::new(None));
                let make = |request: RequestId| {
                    asked.set(Some(request));
                    Truncate {
                        request,
                        path: path.clone(),
                        size: layout.start(cell),
                    }
                };
                self.spawn(Rc::clone(self).mistake(Rc::clone(&asked)));
                let truncated = self.mutate(id, make).await;
                asked.set(None);
                outcome(truncated.map(|(truncated, _)| Done::File(truncated.node.file_id)))
            }
            Op::Seal { path } => {
                let sealed = self.call(&SealFile { path }).await;
                outcome(sealed.map(|_| Done::Nothing))
            }
            Op::ReadRecords { path } => read_records(self, &path).await,
            Op::FollowRecords { path, time } => follow_records(self, &path, time).await,
            Op::ReadCells {
                path,
                layout,
                cells,
                newest,
            } => read_cells(self, &path, layout, cells, newest).await,
            Op::MakeFolder { path, parents } => {
                let make = |request: RequestId| MakeFolder {
                    request,
                    path: path.clone(),
                    parents,
                };
                let made = self.mutate(id, make).await;
                outcome(made.map(|(made, _)| Done::Folder(made.file_id)))
            }
            Op::Put {
                path,
                content,
                force: false,
                replicas,
                ..
            } if content.is_empty() && self.chance(|random| random.percent(50)) => {
                let make = |request: RequestId| MakeFile {
                    request,
                    path: path.clone(),
                    replicas,
                    parents: true,
                };
                let made = self.mutate(id, make).await;
                match made {
                    Ok(_) => self.world.count("path: file of no bytes made at once"),
                    Err(Unanswered::Refused(Status::NoSpace)) => {
                        self.world
                            .count("path: file of no bytes refused for want of room");
                    }
                    Err(_) => {}
                }
                outcome(made.map(|(made, _)| Done::File(made.node.file_id)))
            }
            Op::Put {
                path,
                content,
                force,
                purge,
                replicas,
            } => {
                let piece_len = self.chance(|random| random.pick(PIECE_LENS).copied());
                let job = Job {
                    op: id,
                    path,
                    content,
                    force,
                    purge,
                    replicas,
                    piece_len: piece_len.unwrap_or(64 * 1024),
                };
                put(self, job).await
            }
            Op::Get { path, range } => {
                let is_pipe = self.chance(|random| random.percent(30));
                get(self, id, &path, range, is_pipe).await
            }
            Op::Rename { source, target } => {
                let make = |request: RequestId| Rename {
                    request,
                    source: source.clone(),
                    target: target.clone(),
                };
                outcome(self.mutate(id, make).await.map(|_| Done::Nothing))
            }
            Op::Remove {
                path,
                recursive,
                purge,
            } => {
                let make = |request: RequestId| Remove {
                    request,
                    path: path.clone(),
                    recursive,
                    purge,
                };
                let removed = self.mutate(id, make).await;
                outcome(removed.map(|(removed, _)| Done::Removed(removed.files)))
            }
            Op::Restore { entry, target } => {
                let make = |request: RequestId| RestoreTrash {
                    request,
                    entry,
                    target: target.clone(),
                };
                let restored = self.mutate(id, make).await;
                outcome(restored.map(|(restored, _)| Done::Restored(restored.path)))
            }
            Op::Empty { entry } => {
                let emptied = self
                    .mutate(id, |request| EmptyTrash { request, entry })
                    .await;
                outcome(emptied.map(|(emptied, _)| Done::Emptied(emptied.entries)))
            }
            Op::AcceptLoss { handle, file } => {
                let make = |request: RequestId| AcceptLoss { request, handle };
                outcome(self.mutate(id, make).await.map(|_| Done::File(file)))
            }
            Op::List { path } => {
                let request = List {
                    path,
                    after: String::new(),
                    limit: 1000,
                };
                let trash = ListTrash {
                    after: 0,
                    limit: 1000,
                };
                // Both are compared with the model where they are answered.
                let _ = self.call(&trash).await;
                outcome(self.call(&request).await.map(|_| Done::Read))
            }
        }
    }

    /// Now and then asks for something else under the number of a request that waits for its answer.
    async fn mistake(self: Rc<Self>, asked: Rc<Cell<Option<RequestId>>>) {
        if self.chance(|random| random.percent(97)) {
            return;
        }
        let after = self.chance(|random| random.micros(500, 300_000));
        self.sleep(after).await;
        if let Some(request) = asked.get() {
            let handle = ChunkHandle(u64::MAX);
            self.world.count("path: number of a request used twice");
            self.say_once(&AcceptLoss { request, handle }).await;
        }
    }

    /// Mutates the file at a path.
    async fn change_at(self: &Rc<Self>, changes: &Changes) -> Outcome {
        let path = changes.path.clone();
        match self.call(&Stat { path }).await {
            Ok(reply) if reply.node.node_type == NodeType::File => {
                change(self, reply.node.file_id, changes.clone()).await
            }
            Ok(_) => Outcome::Refused(Status::IsAFolder),
            Err(Unanswered::Refused(status)) => Outcome::Refused(status),
            Err(_) => Outcome::NotNow,
        }
    }

    /// Looks at once at what was changed last: while members hear that it is committed, and while others
    /// still append to the chunk that was the last one.
    async fn look_at(self: &Rc<Self>, changes: &Changes) {
        let (path, last) = (&changes.path, changes.changes.last());
        match last.map(|(_, change)| *change) {
            Some(Change::Zeros { .. }) => _ = read_records(self, path).await,
            Some(Change::Cells {
                layout,
                first,
                count,
                ..
            }) if self.chance(|random| random.percent(30)) => {
                _ = read_cells(self, path, layout, Some(first..first + count), false).await;
            }
            _ => {}
        }
    }

    fn count(&self, op: &Op, outcome: &Outcome) {
        if *outcome == Outcome::Unknown {
            self.world.count("path: outcome unknown to the client");
        }
        if let (Op::AcceptLoss { .. }, Outcome::Refused(Status::InvalidArgument)) = (op, outcome) {
            self.world.count("path: loss not accepted");
        }
        if !matches!(outcome, Outcome::Done(_)) {
            return;
        }
        if !self.world.with_checker(|checker| checker.facts.is_healed) {
            self.world.count("acknowledged");
        }
        let name = match op {
            Op::Change(_) => "path: file mutated",
            Op::Truncate { .. } => "path: file truncated",
            Op::Seal { .. } => "path: file sealed by a client",
            Op::ReadRecords { .. } => "path: records read",
            Op::FollowRecords { .. } => "path: records followed",
            Op::ReadCells { newest: true, .. } => "path: newest cells read",
            Op::ReadCells { .. } => "path: cells read",
            Op::MakeFolder { .. } => "path: folder made",
            Op::Put { content, .. } if content.is_empty() => "path: file of no bytes published",
            Op::Put { content, .. } if content.len() > workload::CHUNK_SIZE.into() => {
                "path: file of several chunks published"
            }
            Op::Put { .. } => "path: file published",
            Op::Get { range: None, .. } => "path: file downloaded",
            Op::Get { .. } => "path: range downloaded",
            Op::Rename { .. } => "path: renamed",
            Op::Remove { purge: true, .. } => "path: purged",
            Op::Remove { .. } => "path: moved to the trash",
            Op::Restore { .. } => "path: restored from the trash",
            Op::Empty { .. } => "path: trash emptied",
            Op::List { .. } => "path: listed",
            Op::AcceptLoss { .. } => "path: loss accepted",
        };
        self.world.count(name);
    }
}

fn outcome(answer: Result<Done, Unanswered>) -> Outcome {
    match answer {
        Ok(done) => Outcome::Done(done),
        Err(Unanswered::Refused(status)) => Outcome::Refused(status),
        Err(Unanswered::NotNow | Unanswered::HandedBack(..) | Unanswered::SessionUnknown) => {
            Outcome::NotNow
        }
        Err(Unanswered::Unknown) => Outcome::Unknown,
    }
}

/// An op without the bytes of its file.
fn brief(op: &Op) -> String {
    match op {
        Op::Put {
            path,
            content,
            force,
            purge,
            replicas,
        } => {
            let len = content.len();
            format!("Put {len} bytes to {path}, force {force}, purge {purge}, {replicas} copies")
        }
        Op::Change(changes) => {
            let what: Vec<_> = changes.changes.iter().map(|(_, change)| change).collect();
            let (path, level) = (&changes.path, changes.level);
            format!("{} changes of {path} at {level:?}: {what:?}", what.len())
        }
        other => format!("{other:?}"),
    }
}
