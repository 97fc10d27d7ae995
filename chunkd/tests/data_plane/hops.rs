//! Chains of mutations with a member that a test plays (`spec/wire.md` section 12.3).

use sarsen_protocol::deframe::frame;
use sarsen_protocol::id::ServerId;
use sarsen_protocol::message::{Kind, Level, WriteOpen, WriteOpened};
use sarsen_protocol::status::Status;

use crate::cluster::{Cluster, FILE, modes};
use crate::mutations::{BEGIN, FIRST, HANDLE, make, write_ticket};
use crate::peer::{PATIENCE, Peer, chunkserver};

/// Whoever had the ticket of a chain, as its clients have, could open the stream that is its primary's, and
/// order mutations of its own.
#[test]
fn a_stream_between_members_is_opened_by_the_one_before() {
    for mode in modes() {
        let cluster = Cluster::start_with(mode, 2, PATIENCE);
        let chain = cluster.chain();
        let second = &cluster.servers[1];
        make(second, FIRST, true).expect("made");
        let open = WriteOpen {
            ticket: write_ticket(FIRST, &chain),
            handle: HANDLE,
            version: FIRST,
            file_id: FILE,
            index: 0,
            room: 0,
            begin_serial: BEGIN,
            lock_token: 0,
            level: Level::Memory,
            position: 1,
            chain: chain.clone(),
        };
        for mut other in [
            Peer::dial(cluster.address(1)),
            Peer::dial_as(cluster.address(1), chunkserver(ServerId(3))),
        ] {
            other.send(&frame(&open, other.request_id));
            let refused = (Kind::WriteOpened, Status::TicketInvalid, 2);
            assert_eq!(other.expect_failure(), refused, "{mode:?}");
            other.expect_closed();
        }
        let mut first = Peer::dial_as(cluster.address(1), chunkserver(ServerId(1)));
        first.send(&frame(&open, first.request_id));
        first.expect::<WriteOpened>();
    }
}
