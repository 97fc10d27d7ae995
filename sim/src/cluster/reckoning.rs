//! The end of a run: everything acknowledged is read, what is wrong is told, garbage is gone; and what
//! changes can be changed on.
//!
//! Of a chunk that everybody's disks have lost, a person accepts the loss as soon as `fsck` tells of it.
//! It has to come right then if anybody has an older copy.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use sarsen_chunkd::store::InventoryEntry;
use sarsen_protocol::id::{ChunkHandle, FileId};
use sarsen_protocol::message::{Finding, Fsck, FsckFinding};

use super::{Cluster, Phase};
use crate::net::Node;
use crate::node_chunkserver::ChunkserverNode;
use crate::node_client::{Client, ClientNode};
use crate::oracle::op::{Done, Op, OpId, Outcome};
use crate::workload::changes;

/// The number of the client that reckons.
pub(super) const CLIENT: u8 = 200;

/// How patient it is with one request.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long everything may take to come right by itself.
const TIME_MAX: Duration = Duration::from_secs(180);

/// The last phase.
pub(super) struct Reckoning {
    pub(super) client: ClientNode,
    found: Rc<RefCell<Found>>,
}

/// What the client that reckons has found so far.
#[derive(Debug, Default)]
struct Found {
    unread: Vec<String>,
    unwritten: Vec<String>,
    /// Of these nobody has a copy: there is nothing to go on with.
    hopeless: BTreeSet<ChunkHandle>,
    findings: Option<Vec<FsckFinding>>,
}

impl Cluster {
    pub(super) fn begin_reckoning(&mut self) {
        self.enter(Phase::Reckoning);
        let world = Rc::clone(&self.world);
        // What they left pending expires with their sessions, which nobody keeps any more.
        for (number, client) in self.clients.iter_mut().enumerate() {
            client.stop();
            let node = Node::Client(u8::try_from(number).unwrap_or(u8::MAX));
            world.with_net(|net, now| net.stop(node, now, true));
        }
        let mut node = ClientNode::new(CLIENT, PATIENCE);
        let client = node.start(&world);
        let found = Rc::new(RefCell::new(Found::default()));
        client.spawn(Rc::clone(&client).listen());
        client.spawn(reckon(Rc::clone(&client), Rc::clone(&found)));
        node.run();
        self.reckoning = Some(Reckoning {
            client: node,
            found,
        });
    }

    pub(super) fn reckon(&mut self, spent: Duration) {
        let Some(reckoning) = &self.reckoning else {
            return;
        };
        let garbage = self.garbage();
        let hopeless = self.chunks_without_copies();
        let mut found = reckoning.found.borrow_mut();
        self.world.with_checker(|checker| {
            let facts = &checker.facts;
            let chunks_of = |path: &String| {
                let mut files = facts.names.files();
                let file = files.find(|(it, _)| it == path);
                file.into_iter().flat_map(|(_, file)| facts.chunks_of(file))
            };
            let is_lost = |path: &String| chunks_of(path).any(|it| hopeless.contains(&it));
            // Records go to the last chunk; cells are written in all the others.
            let is_last_lost = |path: &String| {
                let last = chunks_of(path).last();
                last.is_some_and(|it| hopeless.contains(&it)) && changes::layout(path).is_none()
            };
            found.unread.retain(|path| !is_lost(path));
            found.unwritten.retain(|path| !is_last_lost(path));
            if let Some(findings) = &mut found.findings {
                findings.retain(|finding| !hopeless.contains(&finding.handle));
            }
        });
        found.hopeless = hopeless;
        let is_read = found.unread.is_empty();
        let is_written = found.unwritten.is_empty();
        let wrong = &found.findings;
        let is_right = is_read && is_written && wrong.as_ref().is_some_and(Vec::is_empty);
        if is_right && garbage.is_empty() {
            drop(found);
            self.enter(Phase::Over);
        } else if spent > TIME_MAX {
            let broken = match (is_right, is_read) {
                (true, _) => format!("garbage stays: {garbage:?}"),
                (_, false) => format!("these can't be read: {:?}", found.unread),
                _ if !is_written => format!("these can't be written: {:?}", found.unwritten),
                _ => format!("fsck finds {wrong:?}"),
            };
            self.world.fail(format!("liveness: {broken}"));
        }
    }

    /// Chunks that everybody's disks have lost, and of which nobody has an older copy.
    fn chunks_without_copies(&self) -> BTreeSet<ChunkHandle> {
        self.world.with_checker(|checker| {
            let facts = &checker.facts;
            let lost = facts.chunks_beyond_help().into_iter();
            let has_copy = |node: &ChunkserverNode, handle: ChunkHandle| {
                let mut directories = node.server().into_iter().flat_map(|it| it.directories());
                let is_good = |entry: InventoryEntry| !entry.is_marked();
                // A sync that failed leaves a mark where anything was lost by it.
                !facts.spoiled.contains(&(node.machine, handle))
                    && directories
                        .any(|it| !it.is_poisoned() && it.entry(handle).is_some_and(is_good))
            };
            lost.map(|(handle, _)| handle)
                .filter(|handle| !self.chunkservers.iter().any(|it| has_copy(it, *handle)))
                .collect()
        })
    }

    /// What is stored and named by no file.
    fn garbage(&self) -> BTreeSet<(u8, ChunkHandle)> {
        let mut stored = BTreeSet::new();
        for node in &self.chunkservers {
            let directories = node
                .server()
                .into_iter()
                .flat_map(|server| server.directories());
            // One that failed gives nothing back: it only serves reads.
            let directories = directories.filter(|directory| !directory.is_poisoned());
            let entries = directories.flat_map(|directory| directory.inventory(None, usize::MAX));
            stored.extend(entries.map(|entry| (node.machine, entry.handle)));
        }
        self.world.with_checker(|checker| {
            stored.retain(|(_, handle)| !checker.facts.names.is_needed(*handle));
        });
        stored
    }
}

/// Reads every file, lists every folder, and asks what is wrong, until all is well.
async fn reckon(client: Rc<Client>, found: Rc<RefCell<Found>>) {
    let mut read: BTreeSet<FileId> = BTreeSet::new();
    let mut written: BTreeSet<FileId> = BTreeSet::new();
    found.borrow_mut().unread.push("/".to_owned());
    let mut number = u64::MAX;
    loop {
        let (files, folders) = client.world.with_checker(|checker| {
            let names = &checker.facts.names;
            let files = names.files().map(|(path, id)| (path.to_owned(), id));
            let folders = names.folders().map(str::to_owned);
            (files.collect::<Vec<_>>(), folders.collect::<Vec<_>>())
        });
        let (mut unread, mut unwritten) = (Vec::new(), Vec::new());
        for (path, file) in files {
            if !read.contains(&file) {
                number -= 1;
                let get = changes::read_whole(&path).unwrap_or_else(|| Op::Get {
                    path: path.clone(),
                    range: None,
                });
                match client.carry_out(OpId(number), get).await {
                    Outcome::Done(Done::Read) => _ = read.insert(file),
                    _ => {
                        let is_hopeless = client.world.with_checker(|checker| {
                            let mut chunks = checker.facts.chunks_of(file);
                            chunks.any(|handle| found.borrow().hopeless.contains(&handle))
                        });
                        unread.push(path.clone());
                        if !is_hopeless {
                            continue;
                        }
                    }
                }
            }
            let indexes = client.world.with_checker(|checker| {
                let file = checker.facts.shadow.namespace.file(file);
                let chunks = file.into_iter().flat_map(|file| file.chunks());
                let found = found.borrow();
                let chunks = chunks.filter(|(_, handle)| !found.hopeless.contains(handle));
                chunks.map(|(index, _)| index).collect::<Vec<_>>()
            });
            number -= 1;
            if !written.contains(&file)
                && let Some(write) = changes::write_everywhere(&path, &indexes, number)
            {
                match client.carry_out(OpId(number), write).await {
                    Outcome::Done(Done::Changed) => _ = written.insert(file),
                    _ => unwritten.push(path),
                }
            }
        }
        for path in folders.into_iter().chain(["/".to_owned()]) {
            number -= 1;
            client.carry_out(OpId(number), Op::List { path }).await;
        }
        let findings = fsck(&client).await;
        for (handle, file) in to_accept(&client, findings.as_deref().unwrap_or_default()) {
            if found.borrow().hopeless.contains(&handle) {
                continue;
            }
            number -= 1;
            let accept = Op::AcceptLoss { handle, file };
            client.carry_out(OpId(number), accept).await;
        }
        {
            let mut found = found.borrow_mut();
            found.unread = unread;
            found.unwritten = unwritten;
            if let Some(findings) = findings {
                found.findings = Some(findings);
            }
        }
        client.sleep(Duration::from_secs(2)).await;
    }
}

/// Chunks of which a person accepts the loss: those that `fsck` told of and everybody's disks have lost.
fn to_accept(client: &Client, findings: &[FsckFinding]) -> Vec<(ChunkHandle, FileId)> {
    let told: BTreeSet<ChunkHandle> = findings.iter().map(|finding| finding.handle).collect();
    let lost = client
        .world
        .with_checker(|checker| checker.facts.chunks_beyond_help());
    let told = lost.into_iter().filter(|(handle, _)| told.contains(handle));
    told.collect()
}

async fn fsck(client: &Rc<Client>) -> Option<Vec<FsckFinding>> {
    let request = Fsck {
        path: "/".to_owned(),
        after: ChunkHandle::NONE,
        limit: 10_000,
    };
    debug_assert_eq!(client.node, Node::Client(CLIENT));
    let mut findings = client.call(&request).await.ok()?.findings;
    // That mark stays: every member of a version that took acks from memory was restarted.
    findings.retain(|finding| finding.finding != Finding::PossibleLoss);
    Some(findings)
}
