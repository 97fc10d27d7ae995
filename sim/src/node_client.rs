//! A client's process: the shipped cores, and what the edges of `client/` do around them.
//!
//! - [`tasks`]: the futures of one client, polled by hand: no runtime, no other clock;
//! - [`master`]: one control connection, requests that are tried again; the session;
//! - [`links`]: data connections, kept for the next stream;
//! - [`put`], [`get`]: a file on its way up and down;
//! - [`change`]: files that are changed where they are; [`live`]: reads of them;
//! - [`worker`]: what the client does all day.

pub mod change;
pub mod get;
pub mod links;
pub mod live;
pub mod master;
pub mod put;
pub mod tasks;
pub mod worker;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use sarsen_client::core::read_stream::{Served, Wanted};
use sarsen_client::core::seen::{Seen, State};
use sarsen_client::core::window::Windows;
use sarsen_protocol::deframe::Frame;
use sarsen_protocol::id::{ChunkHandle, ClusterId, ServerId};
use sarsen_protocol::message::Role;

use self::links::Links;
use self::master::MasterLink;
use self::tasks::Tasks;
use crate::net::{ConnId, DialError, Hello, Input, Node};
use crate::random::Random;
use crate::world::{Event, World};

/// What waits at a connection to be looked at.
#[derive(Debug, Default)]
struct Mail {
    dialled: Option<Result<Hello, DialError>>,
    frames: VecDeque<Frame>,
    has_ended: bool,
}

/// A client's process.
pub struct Client {
    /// Which machine.
    pub node: Node,
    boot: u64,
    /// The run.
    pub world: Rc<World>,
    /// How long a request, or a transfer that comes no further, is tried again.
    pub timeout: Duration,
    tasks: Tasks,
    mail: RefCell<BTreeMap<ConnId, Mail>>,
    master: RefCell<MasterLink>,
    links: RefCell<Links>,
    windows: RefCell<Windows>,
    seen: RefCell<Seen>,
    random: RefCell<Random>,
    is_stopping: Cell<bool>,
    busy: Cell<u32>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} process {}", self.node, self.boot)
    }
}

impl Client {
    fn new(number: u8, boot: u64, world: &Rc<World>, timeout: Duration) -> Rc<Self> {
        let random = world.chance(Random::fork);
        Rc::new(Self {
            node: Node::Client(number),
            boot,
            world: Rc::clone(world),
            timeout,
            tasks: Tasks::default(),
            mail: RefCell::default(),
            master: RefCell::default(),
            links: RefCell::default(),
            windows: RefCell::default(),
            seen: RefCell::default(),
            random: RefCell::new(random),
            is_stopping: Cell::new(false),
            busy: Cell::new(0),
        })
    }

    /// Draws from the client's own chance.
    pub fn chance<T>(&self, draw: impl FnOnce(&mut Random) -> T) -> T {
        draw(&mut self.random.borrow_mut())
    }

    /// The time since the run began, which is as good as any to a client.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.world.now()
    }

    /// Which process it is.
    #[must_use]
    pub const fn process(&self) -> (u8, u64) {
        match self.node {
            Node::Client(number) => (number, self.boot),
            _ => (u8::MAX, self.boot),
        }
    }

    /// This state of an open chunk was acknowledged or confirmed.
    pub fn note_seen(&self, handle: ChunkHandle, state: State) {
        self.seen.borrow_mut().note(handle, state);
    }

    /// A read of a chunk ended well.
    pub fn note_read(&self, wanted: &Wanted, served: Option<Served>) {
        match (*wanted, served) {
            (Wanted::Sealed(chunk), _) => {
                self.seen
                    .borrow_mut()
                    .note_sealed(chunk.handle, chunk.version);
            }
            (Wanted::Plain { handle, .. }, Some(served)) => self.note_seen(handle, served.state),
            (Wanted::Plain { .. }, None) => {}
        }
    }

    /// What it says of itself.
    const fn hello() -> Hello {
        Hello {
            role: Role::Client,
            cluster: ClusterId::NONE,
            server: ServerId::NONE,
        }
    }

    /// Whether it is to begin nothing more.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.is_stopping.get()
    }

    fn deliver(&self, input: Input) {
        let mut mail = self.mail.borrow_mut();
        match input {
            Input::Dialled(conn, result) => {
                mail.entry(conn).or_default().dialled = Some(result);
            }
            Input::Frame(conn, frame) => {
                if let Some(mail) = mail.get_mut(&conn) {
                    mail.frames.push_back(frame);
                }
            }
            Input::Ended(conn) => {
                if let Some(mail) = mail.get_mut(&conn) {
                    mail.has_ended = true;
                }
            }
            Input::Accepted(..) => {}
        }
    }
}

/// A client's machine and, while it runs, its process.
#[derive(Debug)]
pub struct ClientNode {
    number: u8,
    boots: u64,
    timeout: Duration,
    process: Option<Rc<Client>>,
    /// When it is planned to be woken.
    planned: Option<Duration>,
}

impl ClientNode {
    /// A machine whose clients are so patient.
    #[must_use]
    pub const fn new(number: u8, timeout: Duration) -> Self {
        Self {
            number,
            boots: 0,
            timeout,
            process: None,
            planned: None,
        }
    }

    /// Whether the process runs.
    #[must_use]
    pub const fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// Whether it has something in hand.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.process
            .as_ref()
            .is_some_and(|process| process.busy.get() > 0)
    }

    /// Begins a process that does nothing by itself.
    pub fn start(&mut self, world: &Rc<World>) -> Rc<Client> {
        self.boots += 1;
        let node = Node::Client(self.number);
        world.with_net(|net, _| net.start(node, self.boots));
        world.line(|| format!("{node:?} starts: boot {}", self.boots));
        let client = Client::new(self.number, self.boots, world, self.timeout);
        self.process = Some(Rc::clone(&client));
        self.planned = None;
        client
    }

    /// The process, if it runs.
    #[must_use]
    pub fn process(&self) -> Option<Rc<Client>> {
        self.process.clone()
    }

    /// Begins nothing more.
    pub fn ask_to_stop(&self) {
        if let Some(process) = &self.process {
            process.is_stopping.set(true);
        }
    }

    /// Ends the process.
    pub fn stop(&mut self) {
        if let Some(process) = self.process.take() {
            process.tasks.clear();
        }
    }

    /// Something arrives.
    pub fn handle(&mut self, input: Input) {
        if let Some(process) = &self.process {
            process.deliver(input);
        }
        self.run();
    }

    /// Its time has come.
    pub fn wake(&mut self, boot: u64) {
        if self
            .process
            .as_ref()
            .is_some_and(|process| process.boot == boot)
        {
            self.planned = None;
            self.run();
        }
    }

    /// Goes on with everything that can go on.
    pub fn run(&mut self) {
        let Some(process) = &self.process else {
            return;
        };
        let Some(at) = process.tasks.run() else {
            return;
        };
        let at = at.max(process.world.now());
        if self.planned.is_none_or(|planned| at < planned) {
            self.planned = Some(at);
            process
                .world
                .plan(at, Event::ClientWakes(self.number, process.boot));
        }
    }
}
