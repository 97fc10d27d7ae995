//! A whole cluster from a seed: machines, what runs on them, what goes wrong, and how it ends.
//!
//! A run has four phases:
//!
//! 1. *start*: all machines start, and nothing goes wrong;
//! 2. *trouble*: clients work and faults come, until enough was acknowledged and enough went wrong;
//! 3. *healing*: nothing goes wrong any more, everything runs, clients come to their end;
//! 4. *reckoning*: everything acknowledged is read, `fsck` finds nothing, garbage is gone.

mod accepting;
pub mod apart;
mod reckoning;
mod spoiling;
mod trouble;

use std::rc::Rc;
use std::time::Duration;

use sarsen_master::core::config::Config;
use sarsen_protocol::message::Kind;

use crate::counters::Counters;
use crate::faults::{FaultEvent, Plan};
use crate::net::{Input, NetEvent, Node, Rates};
use crate::node_chunkserver::ChunkserverNode;
use crate::node_client::ClientNode;
use crate::node_client::worker::work;
use crate::node_master::{Health, MasterNode};
use crate::observation::Observation;
use crate::random::Random;
use crate::workload::CHUNK_SIZE;
use crate::world::{Event, World};

use self::reckoning::Reckoning;

/// How often the run looks how far it is.
const LOOK_PERIOD: Duration = Duration::from_millis(100);

/// How long the cluster has to start.
const START_TIME_MAX: Duration = Duration::from_secs(30);

/// The longest time of trouble.
const TROUBLE_TIME_MAX: Duration = Duration::from_secs(1_500);

/// How long clients have to come to their end once nothing goes wrong any more: a request's time,
/// for each of the requests that an upload makes.
const HEALING_TIME_MAX: Duration = Duration::from_secs(400);

/// Workers of a client: they share its session and its connections.
const WORKERS: usize = 2;

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Everything follows from it.
    pub seed: u64,
    /// Prints the trace.
    pub is_verbose: bool,
    /// How much is to be acknowledged in trouble.
    pub acknowledged_min: u64,
    /// How many faults are to fire.
    pub faults_min: u64,
}

impl Options {
    /// A seed, as long as the runs that count.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self {
            seed,
            is_verbose: false,
            acknowledged_min: 200,
            faults_min: 5,
        }
    }
}

/// How a run went.
#[derive(Clone, Debug)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// The one number of its trace.
    pub trace_hash: u64,
    /// What happened, in number.
    pub events: u64,
    /// How long it took, on the virtual clock.
    pub took: Duration,
    /// What went wrong and what ran.
    pub counters: Counters,
    /// What was acknowledged to clients, in number.
    pub acknowledged: u64,
    /// Which promise was broken.
    pub failure: Option<String>,
}

/// Runs a seed.
#[must_use]
pub fn run(options: &Options) -> Report {
    let world = Rc::new(World::new(options.seed, options.is_verbose));
    let mut cluster = Cluster::new(options, &world);
    cluster.run();
    let (trace_hash, events) = world.trace_hash();
    let failure = world.failure();
    cluster.stop_clients();
    Report {
        seed: options.seed,
        trace_hash,
        events,
        took: world.now(),
        acknowledged: world.counters().value("acknowledged"),
        counters: world.counters(),
        failure,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Start,
    Trouble,
    Healing,
    Reckoning,
    Over,
}

struct Cluster {
    options: Options,
    world: Rc<World>,
    random: Random,
    phase: Phase,
    phase_began: Duration,
    master: MasterNode,
    chunkservers: Vec<ChunkserverNode>,
    clients: Vec<ClientNode>,
    plan: Plan,
    /// Whether the victim's disks are older than its last start.
    is_rolled_back: bool,
    reckoning: Option<Reckoning>,
}

/// The cluster's values: short times, so that much happens.
fn config(random: &mut Random) -> Config {
    Config {
        heartbeat: Duration::from_millis(300),
        suspect_after: Duration::from_millis(900),
        dead_after: Duration::from_secs(3),
        lease: Duration::from_secs(5),
        replicas: 3,
        min_replicas: 2,
        trash_expiry: Duration::from_secs(random.between(8, 60)),
        gc_interval: Duration::from_secs(1),
        orphan_grace: Duration::from_secs(8),
        pending_expiry: Duration::from_secs(random.between(6, 40)),
        safe_mode_fraction: 0.999,
        safe_mode_max: Duration::from_secs(6),
        repair_grace: Duration::from_secs(random.between(1, 12)),
        repair_streams_per_server: 2,
        checkpoint_entries: random.between(40, 400),
    }
}

impl Cluster {
    fn new(options: &Options, world: &Rc<World>) -> Self {
        let mut random = world.chance(Random::fork);
        let chunkservers = u8::try_from(random.between(4, 6)).unwrap_or(4);
        let clients = u8::try_from(random.between(2, 4)).unwrap_or(2);
        let disks = usize::try_from(random.between(1, 3)).unwrap_or(1);
        let moves = random.percent(50);
        let patience = Duration::from_secs(random.between(20, 60));
        Self {
            options: options.clone(),
            world: Rc::clone(world),
            phase: Phase::Start,
            phase_began: Duration::ZERO,
            master: MasterNode::new(config(&mut random), CHUNK_SIZE),
            chunkservers: (0..chunkservers)
                .map(|machine| ChunkserverNode::new(machine, disks, moves))
                .collect(),
            clients: (0..clients)
                .map(|number| ClientNode::new(number, patience))
                .collect(),
            plan: Plan::new(&mut random, chunkservers, clients),
            is_rolled_back: false,
            reckoning: None,
            random,
        }
    }

    fn run(&mut self) {
        let world = Rc::clone(&self.world);
        world.plan(Duration::ZERO, Event::Starts(Node::Master));
        for node in &self.chunkservers {
            world.plan(Duration::ZERO, Event::Starts(node.node()));
        }
        world.plan(Duration::ZERO, Event::Look);
        while self.phase != Phase::Over
            && world.failure().is_none()
            && let Some(event) = world.next()
        {
            self.happen(event);
        }
        let replaced = world.with_checker(|checker| checker.facts.names.replaced);
        (0..replaced).for_each(|_| world.count("path: file replaced"));
        if world.failure().is_none()
            && let Err(broken) = world.with_checker(crate::invariants::Checker::finish)
        {
            world.fail(broken);
        }
    }

    fn stop_clients(&mut self) {
        self.clients.iter_mut().for_each(ClientNode::stop);
        if let Some(reckoning) = &mut self.reckoning {
            reckoning.client.stop();
        }
    }

    fn happen(&mut self, event: Event) {
        let world = Rc::clone(&self.world);
        match event {
            Event::Net(event) => self.net(event),
            Event::Master(boot, event) => {
                world.mix(&[1, boot]);
                let health = self.master.happen(&world, boot, event);
                self.master_is(health);
            }
            Event::Chunkserver(number, boot, event) => {
                world.mix(&[2, number.into(), boot]);
                if let Some(node) = self.chunkservers.get_mut(usize::from(number)) {
                    let health = node.happen(&world, boot, event);
                    self.chunkserver_is(number, health);
                }
            }
            Event::ClientWakes(number, boot) => {
                world.mix(&[3, number.into(), boot]);
                if let Some(client) = self.client(number) {
                    client.wake(boot);
                }
            }
            Event::Starts(node) => self.start(node),
            Event::Fault(event) => self.fault(event),
            Event::Look => self.look(),
        }
    }

    fn net(&mut self, event: NetEvent) {
        let world = Rc::clone(&self.world);
        let Some((node, input)) = world.with_net(|net, now| net.handle(event, now)) else {
            return;
        };
        mix(&world, node, &input);
        match node {
            Node::Master => {
                if let Input::Frame(_, frame) = &input {
                    self.observe_acceptance(frame);
                }
                let health = self.master.handle(&world, input);
                self.master_is(health);
            }
            Node::Chunkserver(number) => {
                if let Some(chunkserver) = self.chunkservers.get_mut(usize::from(number)) {
                    let health = chunkserver.handle(&world, input);
                    self.chunkserver_is(number, health);
                }
            }
            Node::Client(number) => {
                if let Some(client) = self.client(number) {
                    client.handle(input);
                }
            }
        }
    }

    fn client(&mut self, number: u8) -> Option<&mut ClientNode> {
        match number {
            reckoning::CLIENT => self.reckoning.as_mut().map(|it| &mut it.client),
            number => self.clients.get_mut(usize::from(number)),
        }
    }

    // Processes.

    fn start(&mut self, node: Node) {
        let world = Rc::clone(&self.world);
        world.with_net(|net, _| net.power(node));
        match node {
            Node::Master if !self.master.is_running() => {
                let health = self.master.start(&world);
                self.master_is(health);
            }
            Node::Chunkserver(number) => {
                let chunkserver = self.chunkservers.get_mut(usize::from(number));
                if let Some(chunkserver) = chunkserver.filter(|it| !it.is_running()) {
                    let health = chunkserver.start(&world);
                    self.chunkserver_is(number, health);
                }
            }
            Node::Client(number) if self.phase == Phase::Trouble => {
                let client = self.clients.get_mut(usize::from(number));
                if let Some(node) = client.filter(|it| !it.is_running()) {
                    let client = node.start(&world);
                    client.spawn(Rc::clone(&client).listen());
                    (0..WORKERS).for_each(|_| client.spawn(work(Rc::clone(&client))));
                    node.run();
                }
            }
            _ => {}
        }
    }

    fn master_is(&mut self, health: Health) {
        if health == Health::Runs {
            return;
        }
        let is_dead = self.master.disk.is_dead();
        if is_dead {
            self.world
                .count("fault: master died inside a disk operation");
        }
        let has_power = !(is_dead && self.random.percent(40));
        self.end_master(has_power);
    }

    /// The master's process is no more; it starts again by itself.
    fn end_master(&mut self, has_power: bool) {
        self.master.stop();
        self.world
            .with_net(|net, now| net.stop(Node::Master, now, has_power));
        if !has_power {
            self.master.disk.power_cut(&mut self.random);
            self.world.count_fired(&self.master.disk);
        }
        self.starts_later(Node::Master, has_power);
    }

    fn chunkserver_is(&mut self, number: u8, health: Health) {
        let node = Node::Chunkserver(number);
        let Some(chunkserver) = self.chunkservers.get_mut(usize::from(number)) else {
            return;
        };
        let is_dead = chunkserver.is_dead();
        match health {
            Health::Runs => return,
            Health::Refused if self.is_rolled_back && number == self.plan.victim => {
                // What a person does about it: an empty folder.
                self.is_rolled_back = false;
                chunkserver.disks.iter().for_each(crate::disk::Disk::wipe);
            }
            Health::Refused => {
                self.world
                    .fail(format!("{node:?}: sound directories are refused"));
            }
            Health::Ended if is_dead => {
                self.world
                    .count("fault: chunkserver died inside a disk operation");
            }
            Health::Ended => {}
        }
        let has_power = !(is_dead && self.random.percent(40));
        self.end_chunkserver(number, has_power);
    }

    /// A chunkserver's process is no more; it starts again by itself.
    fn end_chunkserver(&mut self, number: u8, has_power: bool) {
        let node = Node::Chunkserver(number);
        let Some(chunkserver) = self.chunkservers.get_mut(usize::from(number)) else {
            return;
        };
        chunkserver.stop();
        self.world.observe(&Observation::Troubled);
        self.world
            .with_net(|net, now| net.stop(node, now, has_power));
        if !has_power {
            for disk in &chunkserver.disks {
                disk.power_cut(&mut self.random);
                self.world.count_fired(disk);
            }
        }
        self.starts_later(node, has_power);
    }

    fn starts_later(&mut self, node: Node, has_power: bool) {
        let after = match (has_power, self.random.percent(15)) {
            (_, true) => self.random.micros(2_000_000, 9_000_000),
            (true, false) => self.random.micros(20_000, 1_500_000),
            (false, false) => self.random.micros(300_000, 3_000_000),
        };
        self.world.plan_in(after, Event::Starts(node));
    }

    // Phases.

    fn look(&mut self) {
        let spent = self.world.now().saturating_sub(self.phase_began);
        match self.phase {
            Phase::Start if self.is_whole() => self.begin_trouble(),
            Phase::Start if spent > START_TIME_MAX => {
                self.world
                    .fail("liveness: the cluster does not start".to_owned());
            }
            Phase::Trouble => {
                let counters = self.world.counters();
                let is_enough = counters.value("acknowledged") >= self.options.acknowledged_min
                    && counters.faults() >= self.options.faults_min;
                if is_enough || spent > TROUBLE_TIME_MAX {
                    self.begin_healing();
                }
            }
            Phase::Healing if !self.clients.iter().any(ClientNode::is_busy) && self.is_whole() => {
                self.begin_reckoning();
            }
            Phase::Healing if spent > HEALING_TIME_MAX => {
                let busy: Vec<usize> = (0..self.clients.len())
                    .filter(|&n| self.clients[n].is_busy())
                    .collect();
                let away: Vec<u8> = self
                    .chunkservers
                    .iter()
                    .filter(|node| !node.is_registered())
                    .map(|node| node.machine)
                    .collect();
                let serves = self
                    .master
                    .machine()
                    .map(|it| (it.is_serving(), it.is_safe_mode()));
                self.world.fail(format!(
                    "liveness: nothing goes wrong any more; clients that come to no end: {busy:?}, \
                     chunkservers that are not registered: {away:?}, the master serves and is in \
                     safe mode: {serves:?}"
                ));
            }
            Phase::Reckoning => self.reckon(spent),
            Phase::Start | Phase::Healing | Phase::Over => {}
        }
        self.world.plan_in(LOOK_PERIOD, Event::Look);
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.phase_began = self.world.now();
        self.world.line(|| format!("---- {phase:?}"));
    }

    /// Whether every process runs and is where it should be.
    fn is_whole(&self) -> bool {
        let serves = |machine: &sarsen_master::core::machine::Machine| {
            machine.is_serving() && !machine.is_safe_mode()
        };
        self.master.machine().is_some_and(serves)
            && self.chunkservers.iter().all(ChunkserverNode::is_registered)
    }

    fn begin_trouble(&mut self) {
        self.enter(Phase::Trouble);
        let rates = self.plan.rates;
        self.world.with_net(|net, _| net.rates = rates);
        for number in 0..self.clients.len() {
            let number = u8::try_from(number).unwrap_or(u8::MAX);
            self.start(Node::Client(number));
        }
        let first = self.plan.next_in(&mut self.random, Duration::ZERO);
        self.world.plan_in(first, Event::Fault(FaultEvent::Next));
    }

    fn begin_healing(&mut self) {
        self.enter(Phase::Healing);
        self.world.with_net(|net, now| {
            net.rates = Rates::default();
            net.heal(now);
        });
        self.master.slowness = 1;
        self.master.disk.set_full(false);
        self.master.disk.fail_syncs(0);
        for chunkserver in &mut self.chunkservers {
            chunkserver.slowness = 1;
            for disk in &chunkserver.disks {
                disk.set_full(false);
                disk.fail_syncs(0);
            }
        }
        self.clients.iter().for_each(ClientNode::ask_to_stop);
        self.clients.iter_mut().for_each(ClientNode::run);
        self.world.observe(&Observation::Healed);
    }
}

/// Mixes what arrives into the trace.
fn mix(world: &World, node: Node, input: &Input) {
    match input {
        Input::Accepted(conn, ..) => world.mix(&[4, node.number(), conn.0]),
        Input::Dialled(conn, result) => {
            world.mix(&[5, node.number(), conn.0, u64::from(result.is_ok())]);
        }
        Input::Ended(conn) => world.mix(&[6, node.number(), conn.0]),
        Input::Frame(conn, frame) => {
            let header = &frame.header;
            let kind: Kind = header.kind;
            world.mix(&[
                7,
                node.number(),
                conn.0,
                kind.number().into(),
                header.status.number().into(),
                header.request_id,
                header.body_crc.into(),
                header.payload_len.into(),
            ]);
        }
    }
}
