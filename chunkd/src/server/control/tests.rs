use sarsen_edge::address::HostPort;
use sarsen_edge::connection::{Arrival, Incoming};
use sarsen_edge::daemon::Ready;
use sarsen_protocol::key::SecretKey;
use sarsen_protocol::message::{
    AnyMessage, ChunkDeleted, DeleteChunk, Inventory, InventoryTaken, Kind, Level, Registered,
    Verdict,
};

use super::super::master_link::tests::pair;
use super::*;
use crate::core::action::Order;
use crate::io::Mode;
use crate::net::PlaneConfig;
use crate::store::tests::scenario::{ADOPTION, START, Sample};

/// Deletes that panicked were waited for until their disk hung, and those of a file that is in
/// no directory's table for ever: no later order to delete was carried out.
#[tokio::test]
async fn work_that_panics_is_answered() {
    let working = tokio::task::spawn_blocking(|| -> () { panic!("as a bug would") });
    let answer = outcome(working, std::future::pending()).await;
    assert_eq!(answer.map_err(|refusal| refusal.0), Err(Status::Internal));
    let working = tokio::spawn(std::future::pending::<()>());
    let answer = outcome(working, std::future::ready(())).await;
    assert_eq!(answer.map_err(|refusal| refusal.0), Err(disk_hangs().0));
}

/// A loop around one directory with one sealed chunk.
fn control(folder: &tempfile::TempDir, sample: &Sample) -> Control {
    let directory = Directory::open(&folder.path().join("d"), &START).expect("opens");
    directory.adopt(ADOPTION).expect("adopts");
    sample.store(&directory, Level::Disk).expect("sealed");
    let key = SecretKey::new([0; 32]);
    let (chunkserver, notices) = Chunkserver::new(key, vec![Arc::new(directory)]);
    let chunkserver = Arc::new(chunkserver);
    let listener = || std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let config = PlaneConfig {
        mode: Mode::Epoll,
        threads: 1,
        buffers: 1,
    };
    let plane = DataPlane::start(config, listener(), &chunkserver).expect("starts");
    let addr = || -> HostPort { "127.0.0.1:1".parse().expect("an address") };
    let ready = Ready {
        control: addr(),
        data: Some(addr()),
        http: addr(),
    };
    let server = Server {
        masters: vec![],
        rack: String::new(),
        has_key_file: true,
        control: listener(),
        http: listener(),
        ready,
        mode: Mode::Epoll,
        chunkserver,
        notices,
        plane,
    };
    Control::new(server, Arc::default()).expect("starts")
}

impl Control {
    fn takes(&mut self, event: Event) {
        self.take(Input::Event(event));
        self.act_all().expect("goes on");
    }

    /// What a task brings, of all that tasks bring.
    async fn hears(&mut self, is_it: impl Fn(&Event) -> bool) -> Event {
        loop {
            match self.arrived.recv().await.expect("it has a sender itself") {
                Input::Event(event) if is_it(&event) => return event,
                _ => {}
            }
        }
    }

    /// Has it registered with a master that it has just reached.
    fn registers(&mut self, link: &Connection) {
        self.master = Some(link.clone());
        let connection = link.id();
        let cluster_id = ADOPTION.cluster_id;
        self.takes(Event::Tick);
        self.takes(Event::Dialled {
            connection,
            cluster_id,
        });
        let directories = self.disks.iter().map(|disk| Verdict {
            directory_id: disk.directory().identity().directory_id,
            status: Status::Ok.number(),
        });
        let answer = Registered {
            server_id: ADOPTION.server_id,
            epoch: self.machine.epoch(),
            chunk_size: ADOPTION.chunk_size,
            heartbeat: 60_000,
            suspect_after: 60_000,
            dead_after: 60_000,
            lease: 60_000,
            ticket_keys: vec![],
            directories: directories.collect(),
            repair_streams: 1,
        };
        let answer = Ok(answer);
        self.takes(Event::Registered { connection, answer });
        self.takes(Event::Kept { connection });
    }
}

/// The next thing that the master is sent of an inventory or as an answer.
async fn next(incoming: &mut Incoming) -> Arrival {
    loop {
        match incoming.next_arrival().await.expect("stays connected") {
            Arrival::Request(request) if request.message.kind() != Kind::Inventory => {}
            arrival => return arrival,
        }
    }
}

async fn next_inventory(incoming: &mut Incoming) -> (u64, Inventory) {
    match next(incoming).await {
        Arrival::Request(request) => match request.message {
            AnyMessage::Inventory(inventory) => (request.id, inventory),
            other => panic!("not an inventory: {other:?}"),
        },
        other => panic!("not an inventory: {other:?}"),
    }
}

/// What tasks bring is taken before notices. While they brought much, that a chunk was held had been
/// noticed and that it was gone had not, and an inventory told it as held behind the answer that it was
/// deleted.
#[tokio::test]
async fn what_is_deleted_is_not_told_as_held_behind_the_answer() {
    let folder = tempfile::tempdir().expect("a folder");
    let sample = Sample::new(1, 3);
    let mut control = control(&folder, &sample);
    let ((link, mut orders), (master, mut incoming)) = pair().await;
    control.registers(&link);
    let chunkserver = control.chunkserver();
    let directory = chunkserver.directories().next().expect("one");
    let is_slice = |event: &Event| matches!(event, Event::SliceRead { .. });
    let slice = control.hears(is_slice).await;
    control.takes(slice);
    let (id, full) = next_inventory(&mut incoming).await;
    assert_eq!((full.full, full.held.len()), (true, 1));

    // A change, while the full report is not answered.
    chunkserver.changed(directory, sample.handle);
    let notice = control.server.notices.recv().await.expect("noticed");
    control.noticed(notice);
    let order = DeleteChunk {
        epoch: control.machine.epoch(),
        handle: sample.handle,
        version: sample.version,
    };
    master.order(5, &order.into());
    let request = orders.next().await.expect("an order");
    control.takes(Event::Ordered {
        connection: link.id(),
        request_id: request.id,
        epoch: order.epoch,
        order: Order::Delete {
            handle: sample.handle,
            version: sample.version,
        },
    });
    let deleted = control
        .hears(|event| matches!(event, Event::Deleted(_)))
        .await;
    control.takes(deleted);
    let taken = InventoryTaken { resend: false };
    master.reply(id, Kind::Inventory, Ok(taken.into()));
    let is_answer = |event: &Event| matches!(event, Event::InventoryAnswered { .. });
    let answered = control.hears(is_answer).await;
    control.takes(answered);

    let Arrival::Answer(answer) = next(&mut incoming).await else {
        panic!("not an answer");
    };
    assert_eq!((answer.order, answer.answer), (5, Ok(ChunkDeleted.into())));
    let (_, change) = next_inventory(&mut incoming).await;
    assert_eq!((change.held, change.gone), (vec![], vec![sample.handle]));
}

/// While much came in, heartbeats went out with what came, and told how the disks had been when the loop
/// last had nothing to do.
#[tokio::test]
async fn a_heartbeat_tells_the_newest_whatever_brings_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let sample = Sample::new(1, 3);
    let mut control = control(&folder, &sample);
    let ((link, _), (_master, mut incoming)) = pair().await;
    control.registers(&link);
    // Nothing is written any more when the folder goes.
    control
        .hears(|event| matches!(event, Event::Kept { .. }))
        .await;
    let chunkserver = control.chunkserver();
    let directory = chunkserver.directories().next().expect("one");
    let other = Sample::new(2, 3);
    other.store(directory, Level::Disk).expect("sealed");
    let Some(earlier) = control.began.checked_sub(Duration::from_secs(61)) else {
        return eprintln!("not tested: the machine has only just started");
    };
    control.began = earlier;
    let directory_id = directory.identity().directory_id;
    control.takes(Event::ChunkChanged {
        directory_id,
        handle: other.handle,
        held: None,
    });
    let mut told = vec![];
    while told.len() < 2 {
        let arrival = incoming.next_arrival().await.expect("stays connected");
        if let Arrival::Request(request) = arrival
            && let AnyMessage::Heartbeat(heartbeat) = request.message
        {
            told.push(heartbeat.disks[0].disk.chunks);
        }
    }
    assert_eq!(told, [1, 2]);
}
