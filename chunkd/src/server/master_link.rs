//! What the control loop has to do over the connection to the master: each in a task of its own,
//! whose outcome comes back as an event.
//!
//! What is asked is put into the connection's queue when the machine's action is carried out, and
//! only its answer is waited for in a task: an inventory that tells a chunk as held must not come
//! behind the answer that it was deleted (`spec/messages.md` section 9). Permits are not waited for
//! either; that these requests are few is the machine's rule: of registrations there is one, of
//! heartbeats four are unanswered, and of each directory one message of its inventory.

use std::sync::Arc;
use std::time::Duration;

use sarsen_edge::address::HostPort;
use sarsen_edge::connection::{Call, CallError, Connection, Incoming};
use sarsen_edge::key;
use sarsen_protocol::message::{ErrorBody, Heartbeat, Inventory, Register, Request as Asks};
use sarsen_protocol::status::Status;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{orders, questions};
use crate::core::event::{ConnectionId, Event};
use crate::net::Chunkserver;

/// How long a master has to be reached.
const DIAL_MAX: Duration = Duration::from_secs(5);

/// How long a master may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// What comes back to the control loop.
#[derive(Debug)]
pub(super) enum Input {
    /// For the machine.
    Event(Event),
    /// A master was reached; the machine is told when the loop has the connection.
    Connected(Connection, Incoming),
}

pub(super) type Inputs = mpsc::UnboundedSender<Input>;

/// Hands an event to the control loop.
pub(super) fn tell(inputs: &Inputs, event: Event) {
    // The loop ends only with the program.
    let _ = inputs.send(Input::Event(event));
}

/// Dials a master, with the key that it left for this user if none was given.
pub(super) async fn dial(
    master: HostPort,
    find_key: bool,
    chunkserver: Arc<Chunkserver>,
    inputs: Inputs,
) {
    let failed = |text: String, is_passing| {
        tell(&inputs, Event::DialFailed { text, is_passing });
    };
    if find_key {
        match obtain_key(master.clone()).await {
            Ok(key) => chunkserver.set_key(key),
            // The master may still be starting.
            Err(text) => return failed(text, true),
        }
    }
    let (identity, key) = (chunkserver.identity(), chunkserver.key());
    match Connection::dial(&master.to_string(), identity, &key, DIAL_MAX).await {
        Ok((connection, incoming)) => {
            // As in `tell`.
            let _ = inputs.send(Input::Connected(connection, incoming));
        }
        // A key that was found may be an earlier master's: the next has yet to leave its own.
        Err(error) => {
            let is_passing = error.is_passing() || find_key && error.is_wrong_key();
            failed(error.to_string(), is_passing);
        }
    }
}

async fn obtain_key(master: HostPort) -> Result<sarsen_protocol::key::SecretKey, String> {
    let look = move || {
        let addresses = master
            .resolve()
            .map_err(|error| format!("{master}: {error}"))?;
        key::obtain(None, &addresses).map_err(|error| error.to_string())
    };
    tokio::task::spawn_blocking(look)
        .await
        .map_err(|error| error.to_string())?
}

/// Takes what the master sends until its connection ends.
pub(super) async fn listen(
    connection: Connection,
    mut incoming: Incoming,
    chunkserver: Arc<Chunkserver>,
    inputs: Inputs,
) {
    while let Some(request) = incoming.next().await {
        let Some((epoch, order)) = orders::order_of(&request.message) else {
            questions::answer(&connection, request, &chunkserver).await;
            continue;
        };
        let (connection, request_id) = (connection.id(), request.id);
        tell(
            &inputs,
            Event::Ordered {
                connection,
                request_id,
                epoch,
                order,
            },
        );
    }
    tell(
        &inputs,
        Event::Disconnected {
            connection: connection.id(),
        },
    );
}

/// Asks to be registered; what is returned waits for the answer, as with all that follow.
pub(super) fn register(
    connection: Connection,
    register: &Register,
    inputs: Inputs,
) -> impl Future<Output = ()> + use<> {
    ask_now(connection, register, inputs, |connection, answer| {
        Event::Registered { connection, answer }
    })
}

/// Sends a heartbeat.
pub(super) fn heartbeat(
    connection: Connection,
    heartbeat: &Heartbeat,
    inputs: Inputs,
) -> impl Future<Output = ()> + use<> {
    let sequence = heartbeat.sequence;
    ask_now(connection, heartbeat, inputs, move |connection, answer| {
        Event::HeartbeatAnswered {
            connection,
            sequence,
            answer: answer
                .map(|reply| reply.epoch)
                .map_err(|(status, _)| status),
        }
    })
}

/// Sends a message of an inventory.
pub(super) fn inventory(
    connection: Connection,
    inventory: &Inventory,
    inputs: Inputs,
) -> impl Future<Output = ()> + use<> {
    let directory_id = inventory.directory_id;
    ask_now(connection, inventory, inputs, move |connection, answer| {
        Event::InventoryAnswered {
            connection,
            directory_id,
            answer: answer
                .map(|reply| reply.resend)
                .map_err(|(status, _)| status),
        }
    })
}

/// What the master says to a request.
type Said<R> = Result<<R as Asks>::Reply, (Status, ErrorBody)>;

/// Puts a request into the connection's queue; what is returned waits for the answer, and tells it.
fn ask_now<R: Asks, F: FnOnce(ConnectionId, Said<R>) -> Event>(
    connection: Connection,
    request: &R,
    inputs: Inputs,
    event: F,
) -> impl Future<Output = ()> + use<R, F> {
    let call = connection.begin_now(request);
    async move {
        if let Some(answer) = answer(&connection, call).await {
            tell(&inputs, event(connection.id(), answer));
        }
    }
}

/// The master's answer; `None` if its connection has ended, which is told elsewhere.
pub(super) async fn answer<R: Asks>(connection: &Connection, call: Call<R>) -> Option<Said<R>> {
    match timeout(ANSWER_MAX, call.answer()).await {
        Ok(Ok(reply)) => Some(Ok(reply)),
        Ok(Err(CallError::Status { status, error })) => Some(Err((status, error))),
        Ok(Err(error)) => {
            tracing::debug!(%error, "the master did not answer");
            connection.close();
            None
        }
        Err(_) => {
            tracing::warn!("the master did not answer for {ANSWER_MAX:?}");
            connection.close();
            None
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use sarsen_edge::connection::Arrival;
    use sarsen_edge::random;
    use sarsen_protocol::handshake::Identity;
    use sarsen_protocol::id::{
        ChunkHandle, ChunkVersion, ClusterId, DirectoryId, Epoch, Serial, ServerId,
    };
    use sarsen_protocol::key::SecretKey;
    use sarsen_protocol::message::{
        ChainTrouble, ChunkDeleted, DeleteChunk, InventoryTaken, Kind, ReportChain, Role, Start,
    };
    use sarsen_protocol::size::REQUESTS_UNANSWERED_MAX;
    use tokio::net::TcpListener;

    /// A connection of a chunkserver, and its other end at a master.
    pub(in crate::server) async fn pair() -> ((Connection, Incoming), (Connection, Incoming)) {
        let key = SecretKey::new(random());
        let identity = |role| Identity {
            role,
            cluster_id: ClusterId::NONE,
            start: Start::default(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let addr = listener.local_addr().expect("bound").to_string();
        let accept = async {
            let (stream, _) = listener.accept().await.expect("dialled");
            Connection::accept(stream, identity(Role::Master), &key).await
        };
        let dial = Connection::dial(&addr, identity(Role::Chunkserver), &key, DIAL_MAX);
        let (master, chunkserver) = tokio::join!(accept, dial);
        (chunkserver.expect("dials"), master.expect("accepts"))
    }

    /// An inventory that told a chunk as held waited for a permit, or only for its task's turn, and
    /// the answer that the chunk was deleted went ahead of it. The master counted a replica that was
    /// gone, and had a good one deleted as one too many.
    #[tokio::test]
    async fn an_inventory_goes_ahead_of_an_answer_that_comes_after_it() {
        let ((chunkserver, mut orders), (master, mut incoming)) = pair().await;
        let order = DeleteChunk {
            epoch: Epoch::default(),
            handle: ChunkHandle(7),
            version: ChunkVersion(1),
        };
        master.order(3, &order.into());
        let order = orders.next().await.expect("an order");
        // As many reports as may be unanswered, and one that waits for them.
        let report = ReportChain {
            handle: ChunkHandle(1),
            version: ChunkVersion(1),
            serial: Serial::NONE,
            what: ChainTrouble::Corrupt,
            blamed: ServerId::NONE,
            status: 0,
        };
        let reports: Vec<_> = (0..=REQUESTS_UNANSWERED_MAX)
            .map(|_| chunkserver.begin(&report))
            .collect();
        let (inputs, mut told) = mpsc::unbounded_channel();
        let sent = Inventory {
            directory_id: DirectoryId([1; 16]),
            sequence: 1,
            full: true,
            first: true,
            last: true,
            held: vec![],
            gone: vec![],
        };
        let waits = inventory(chunkserver.clone(), &sent, inputs);
        chunkserver.reply(order.id, Kind::DeleteChunk, Ok(ChunkDeleted.into()));
        tokio::spawn(waits);

        for _ in 0..REQUESTS_UNANSWERED_MAX {
            let Some(Arrival::Request(asked)) = incoming.next_arrival().await else {
                panic!("not a request");
            };
            assert_eq!(asked.message.kind(), Kind::ReportChain);
            let refused = (Status::Overloaded, ErrorBody::default());
            master.reply(asked.id, Kind::ReportChain, Err(refused));
        }
        let Some(Arrival::Request(asked)) = incoming.next_arrival().await else {
            panic!("the answer went ahead");
        };
        assert_eq!(asked.message.kind(), Kind::Inventory);
        let Some(Arrival::Answer(answer)) = incoming.next_arrival().await else {
            panic!("not an answer");
        };
        assert_eq!((answer.order, answer.answer), (3, Ok(ChunkDeleted.into())));
        let Some(Arrival::Request(last)) = incoming.next_arrival().await else {
            panic!("not a request");
        };
        assert_eq!(last.message.kind(), Kind::ReportChain, "it waited");
        let taken = InventoryTaken { resend: false };
        master.reply(asked.id, Kind::Inventory, Ok(taken.into()));
        let Some(Input::Event(Event::InventoryAnswered { answer, .. })) = told.recv().await else {
            panic!("nothing else is told");
        };
        assert_eq!(answer, Ok(false));
        drop(reports);
    }
}
