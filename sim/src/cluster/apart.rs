//! Two clients append to two files whose chunks have no server in common, and one of these servers is
//! cut off for a while: what that does to each of the two (`spec/replication.md` section 6). Nothing
//! else goes wrong, and all promises are watched as in any run.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use sarsen_protocol::message::Level;

use super::{Cluster, Options};
use crate::net::Node;
use crate::node_chunkserver::ChunkserverNode;
use crate::node_client::{Client, ClientNode};
use crate::oracle::content::Content;
use crate::oracle::op::{Change, Changes, Op, OpId, Outcome};
use crate::world::{Event, World};

/// So many that two chains of three can have nothing in common.
const SERVERS: u8 = 6;

/// Files that are made until there are two such.
const FILES_MAX: u64 = 60;

/// How long both work before one is cut off, and after.
const CALM: Duration = Duration::from_secs(2);

/// How long a server is cut off: shorter than a member may be silent (`suspect_after` is 900 ms here), so
/// its chain waits for it.
const CUT: Duration = Duration::from_millis(700);

/// Of which of the two, when a record was sent, and when it was acknowledged.
type Sent = (usize, Duration, Duration);

/// What became of one of the two.
#[derive(Clone, Copy, Debug, Default)]
pub struct Share {
    /// Records that were acknowledged while nothing was cut off, and while it was.
    pub records: (u64, u64),
    /// The longest time that one took: of those, and of those that were sent before the cut was over.
    pub longest: (Duration, Duration),
}

/// What came of it: of the file whose chain was held up, and of the other.
#[derive(Clone, Copy, Debug)]
pub struct Apart {
    /// A server of this one's chain was cut off.
    pub held_up: Share,
    /// None of this one's was.
    pub free: Share,
}

/// Runs it.
///
/// # Errors
/// Which promise was broken, or what did not come about.
pub fn run(seed: u64) -> Result<Apart, String> {
    let world = Rc::new(World::new(seed, false));
    let mut cluster = Cluster::new(&Options::new(seed), &world);
    cluster.chunkservers = (0..SERVERS)
        .map(|machine| ChunkserverNode::new(machine, 1, false))
        .collect();
    cluster.clients = (0..2)
        .map(|number| ClientNode::new(number, Duration::from_secs(30)))
        .collect();
    let outcome = cluster.work_apart();
    cluster.stop_clients();
    world.failure().map_or(outcome, Err)
}

impl Cluster {
    fn work_apart(&mut self) -> Result<Apart, String> {
        let world = Rc::clone(&self.world);
        world.plan(Duration::ZERO, Event::Starts(Node::Master));
        for node in &self.chunkservers {
            world.plan(Duration::ZERO, Event::Starts(node.node()));
        }
        self.go_on_until(Self::is_whole)?;
        let clients: Vec<Rc<Client>> = (self.clients.iter_mut())
            .map(|node| {
                let client = node.start(&world);
                client.spawn(Rc::clone(&client).listen());
                client
            })
            .collect();

        let found: Rc<RefCell<Option<[String; 2]>>> = Rc::default();
        let [first, second] = &clients[..] else {
            return Err("two clients".to_owned());
        };
        first.spawn(make_two(Rc::clone(first), Rc::clone(&found)));
        self.clients.iter_mut().for_each(ClientNode::run);
        self.go_on_until(|_| found.borrow().is_some())?;
        let paths = found.take().unwrap_or_default();
        let members = members(&world, &paths[0]);
        let victim = members.first().copied().ok_or("no two files are apart")?;

        let sent: Rc<RefCell<Vec<Sent>>> = Rc::default();
        for (which, (client, path)) in [first, second].into_iter().zip(paths).enumerate() {
            client.spawn(append_on(Rc::clone(client), which, path, Rc::clone(&sent)));
        }
        self.clients.iter_mut().for_each(ClientNode::run);
        self.go_on_for(CALM)?;
        let from = world.now();
        self.partition(Node::Chunkserver(victim), CUT);
        self.go_on_for(CUT + CALM)?;

        let sent = sent.borrow();
        let share = |which| {
            let mut share = Share::default();
            for &(_, began, ended) in sent.iter().filter(|(of, ..)| *of == which) {
                let took = ended - began;
                if ended > from && ended <= from + CUT {
                    share.records.1 += 1;
                }
                if ended > from && began <= from + CUT {
                    share.longest.1 = share.longest.1.max(took);
                } else {
                    share.records.0 += 1;
                    share.longest.0 = share.longest.0.max(took);
                }
            }
            share
        };
        Ok(Apart {
            held_up: share(0),
            free: share(1),
        })
    }

    fn go_on_until(&mut self, mut is_so: impl FnMut(&Self) -> bool) -> Result<(), String> {
        let world = Rc::clone(&self.world);
        let latest = world.now() + Duration::from_secs(60);
        while !is_so(self) {
            if let Some(broken) = world.failure() {
                return Err(broken);
            }
            if world.now() > latest {
                return Err("it does not come about".to_owned());
            }
            let event = world.next().ok_or("nothing happens any more")?;
            self.happen(event);
        }
        Ok(())
    }

    fn go_on_for(&mut self, time: Duration) -> Result<(), String> {
        let end = self.world.now() + time;
        self.go_on_until(|cluster| cluster.world.now() >= end)
    }
}

/// The machines of the last chunk's members, if it is open.
fn members(world: &World, path: &str) -> BTreeSet<u8> {
    world.with_checker(|checker| {
        let facts = &checker.facts;
        let file = facts.names.files().find(|(it, _)| *it == path);
        let file = file.and_then(|(_, id)| facts.shadow.namespace.file(id));
        let chunk = file.and_then(|file| file.chunks().last());
        let record = chunk.and_then(|(_, handle)| facts.shadow.chunks.record(handle));
        let active = record.and_then(|record| record.active.as_ref());
        let members = active.into_iter().flat_map(|active| &active.members);
        let machines = members.filter_map(|member| facts.machines.get(&member.server));
        machines.copied().collect()
    })
}

fn record(path: &str) -> Op {
    Op::Change(Changes {
        path: path.to_owned(),
        level: Level::Disk,
        ordered: true,
        changes: vec![(Duration::ZERO, Change::Record { len: 1_000 })],
    })
}

async fn next(client: &Rc<Client>, op: Op) -> Outcome {
    let number = client.chance(|random| random.next());
    client.carry_out(OpId(number), op).await
}

/// Makes files and appends to them until two are apart.
async fn make_two(client: Rc<Client>, found: Rc<RefCell<Option<[String; 2]>>>) {
    let mut made: Vec<(String, BTreeSet<u8>)> = Vec::new();
    for number in 0..FILES_MAX {
        let path = format!("/apart-{number}");
        let touch = Op::Put {
            path: path.clone(),
            content: Content::new(number, 0),
            force: false,
            purge: false,
            replicas: 0,
        };
        next(&client, touch).await;
        next(&client, record(&path)).await;
        let its = members(&client.world, &path);
        let is_apart = |(_, other): &&(String, BTreeSet<u8>)| other.is_disjoint(&its);
        if its.is_empty() {
            continue;
        }
        if let Some((other, _)) = made.iter().find(is_apart) {
            *found.borrow_mut() = Some([path, other.clone()]);
            return;
        }
        made.push((path, its));
    }
}

/// Appends one record after the other.
async fn append_on(client: Rc<Client>, which: usize, path: String, sent: Rc<RefCell<Vec<Sent>>>) {
    loop {
        let began = client.now();
        if let Outcome::Done(_) = next(&client, record(&path)).await {
            sent.borrow_mut().push((which, began, client.now()));
        }
    }
}
