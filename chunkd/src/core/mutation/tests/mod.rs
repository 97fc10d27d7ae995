//! Tests of one open chunk's machine.

mod client;
mod harness;
mod links;
mod primary;
mod random;
mod script;
mod toy;

use sarsen_protocol::id::{ChunkHandle, ChunkVersion, FileId, SessionId};
use sarsen_protocol::key::SecretKey;
use sarsen_protocol::ticket::{Claims, Rights, Ticket};

/// A ticket: the machine passes it on and doesn't look at it.
fn any_ticket() -> Ticket {
    let claims = Claims {
        rights: Rights::WRITE,
        key_id: 1,
        handle: ChunkHandle(0xbeef),
        version: ChunkVersion(2),
        expiry: 100,
        file_id: FileId(8),
        session: SessionId::NONE,
        epoch: 3,
        chain_crc: 0,
    };
    Ticket::sign(claims, &SecretKey::new([9; 32]))
}
