//! Whether a ticket opens the door (`spec/wire.md` section 11).
//!
//! A chunkserver asks nobody: it has the keys from its registration, and the request tells the
//! rest. `now` is the wall clock, in milliseconds since 1970.

use sarsen_protocol::handshake::Identity;
use sarsen_protocol::id::{ChunkHandle, ChunkVersion, ServerId};
use sarsen_protocol::key::SecretKey;
use sarsen_protocol::message::{Role, TicketKey, WriteOpen};
use sarsen_protocol::status::Status;
use sarsen_protocol::ticket::{Rights, Ticket, TicketError, chain_crc};

/// The keys that the master signs with.
#[derive(Clone, Debug, Default)]
pub struct TicketKeys {
    keys: Vec<(u32, SecretKey)>,
}

impl TicketKeys {
    /// The keys that a registration told.
    #[must_use]
    pub fn new(keys: &[TicketKey]) -> Self {
        let keys = keys.iter().map(|key| (key.key_id, SecretKey::new(key.key)));
        Self {
            keys: keys.collect(),
        }
    }

    /// Checks the ticket of a stream that is to be written by `me`.
    ///
    /// # Errors
    /// Why not, also if `me` is not the member at the position that `open` names.
    pub fn check_write(&self, open: &WriteOpen, me: ServerId, now: u64) -> Result<(), TicketError> {
        let ticket = &open.ticket;
        let checked = self.check(ticket, Rights::WRITE, open.handle, open.version, now);
        let claims = ticket.unverified_claims();
        let member = open.chain.get(usize::from(open.position));
        let is_bound = claims.chain_crc == chain_crc(&open.chain)
            && claims.file_id == open.file_id
            && member.is_some_and(|hop| hop.server == me);
        match checked {
            // Its time says something only of what fits otherwise.
            Ok(()) | Err(TicketError::Expired) if !is_bound => Err(TicketError::NotForThis),
            checked => checked,
        }
    }

    /// Checks the ticket of a read, or of a question about a chunk.
    ///
    /// # Errors
    /// Why not.
    pub fn check_read(
        &self,
        ticket: &Ticket,
        handle: ChunkHandle,
        version: ChunkVersion,
        now: u64,
    ) -> Result<(), TicketError> {
        let rights = match ticket.unverified_claims().rights.allow(Rights::READ) {
            true => Rights::READ,
            false => Rights::COPY,
        };
        self.check(ticket, rights, handle, version, now)
    }

    /// Checks the ticket of a question that who writes may ask as well as who reads.
    ///
    /// # Errors
    /// Why not.
    pub fn check_question(
        &self,
        ticket: &Ticket,
        handle: ChunkHandle,
        version: ChunkVersion,
        now: u64,
    ) -> Result<(), TicketError> {
        let rights = match ticket.unverified_claims().rights.allow(Rights::READ) {
            true => Rights::READ,
            false => Rights::WRITE,
        };
        self.check(ticket, rights, handle, version, now)
    }

    /// Checks the ticket of who copies a chunk.
    ///
    /// # Errors
    /// Why not.
    pub fn check_copy(
        &self,
        ticket: &Ticket,
        handle: ChunkHandle,
        version: ChunkVersion,
        now: u64,
    ) -> Result<(), TicketError> {
        self.check(ticket, Rights::COPY, handle, version, now)
    }

    fn check(
        &self,
        ticket: &Ticket,
        rights: Rights,
        handle: ChunkHandle,
        version: ChunkVersion,
        now: u64,
    ) -> Result<(), TicketError> {
        let key_id = ticket.unverified_claims().key_id;
        let (_, key) = self
            .keys
            .iter()
            .find(|(id, _)| *id == key_id)
            .ok_or(TicketError::UnknownKey { key_id })?;
        ticket.verify(key, rights, handle, version, now).map(|_| ())
    }
}

/// Whether a stream of mutations comes from where its chain says (`spec/replication.md` section 3.6): from
/// the server at the position before, or from anybody to the primary. `dialer` is what the hello told.
#[must_use]
pub fn is_from_before(open: &WriteOpen, dialer: &Identity) -> bool {
    let before = usize::from(open.position).checked_sub(1);
    before.is_none_or(|before| {
        let hop = open.chain.get(before).map(|hop| hop.server);
        dialer.role == Role::Chunkserver && hop == Some(dialer.start.server_id)
    })
}

/// What the bearer is told.
#[must_use]
pub fn status_of(error: TicketError) -> Status {
    match error {
        TicketError::Expired => Status::TicketExpired,
        _ => Status::TicketInvalid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sarsen_protocol::id::{ClusterId, FileId, Serial, SessionId};
    use sarsen_protocol::message::{Hop, Level, Start};
    use sarsen_protocol::ticket::Claims;

    const KEY: TicketKey = TicketKey {
        key_id: 4,
        key: [1; 32],
    };

    fn open(rights: Rights, key_id: u32) -> WriteOpen {
        let hop = |n| Hop {
            server: ServerId(n),
            data_addr: format!("h:{n}"),
        };
        let chain = vec![hop(1), hop(2)];
        let claims = Claims {
            rights,
            key_id,
            handle: ChunkHandle(5),
            version: ChunkVersion(6),
            expiry: 100,
            file_id: FileId(7),
            session: SessionId(8),
            epoch: 1,
            chain_crc: chain_crc(&chain),
        };
        WriteOpen {
            ticket: Ticket::sign(claims, &SecretKey::new(KEY.key)),
            handle: ChunkHandle(5),
            version: ChunkVersion(6),
            file_id: FileId(7),
            index: 0,
            room: 0,
            begin_serial: Serial::NONE,
            lock_token: 0,
            level: Level::Disk,
            position: 1,
            chain,
        }
    }

    #[test]
    fn a_write_ticket_is_bound_to_chunk_file_chain_and_member() {
        let keys = TicketKeys::new(&[KEY]);
        let good = open(Rights::WRITE, 4);
        assert_eq!(keys.check_write(&good, ServerId(2), 100), Ok(()));
        assert_eq!(
            keys.check_write(&good, ServerId(2), 101),
            Err(TicketError::Expired)
        );
        assert_eq!(
            keys.check_write(&good, ServerId(1), 0),
            Err(TicketError::NotForThis)
        );
        let changes: [fn(&mut WriteOpen); 5] = [
            |open| open.chain.reverse(),
            |open| open.chain.truncate(1),
            |open| open.file_id = FileId(1),
            |open| open.handle = ChunkHandle(1),
            |open| open.version = ChunkVersion(1),
        ];
        for change in changes {
            let mut other = good.clone();
            change(&mut other);
            let verdict = keys.check_write(&other, ServerId(2), 0);
            assert_eq!(verdict, Err(TicketError::NotForThis), "{other:?}");
            // That it has expired too, a client that asks for another ticket would ask in vain.
            let verdict = keys.check_write(&other, ServerId(2), 101);
            assert_eq!(verdict, Err(TicketError::NotForThis), "{other:?}");
        }
        let reading = open(Rights::READ, 4);
        assert_eq!(
            keys.check_write(&reading, ServerId(2), 0),
            Err(TicketError::NotForThis)
        );
        let unknown = open(Rights::WRITE, 5);
        assert_eq!(
            keys.check_write(&unknown, ServerId(2), 0),
            Err(TicketError::UnknownKey { key_id: 5 })
        );
    }

    /// Whoever had the ticket of a chain could open its streams between members, and order mutations.
    #[test]
    fn a_stream_between_members_comes_from_the_one_before() {
        let dialer = |role, server| Identity {
            role,
            cluster_id: ClusterId::NONE,
            start: Start {
                server_id: ServerId(server),
                ..Start::default()
            },
        };
        let to_second = open(Rights::WRITE, 4);
        let to_primary = WriteOpen {
            position: 0,
            ..to_second.clone()
        };
        for (role, server, is_before) in [
            (Role::Chunkserver, 1, true),
            (Role::Chunkserver, 2, false),
            (Role::Chunkserver, 0, false),
            (Role::Client, 1, false),
            (Role::Client, 0, false),
        ] {
            let dialer = dialer(role, server);
            assert_eq!(is_from_before(&to_second, &dialer), is_before, "{dialer:?}");
            assert!(is_from_before(&to_primary, &dialer));
        }
    }

    #[test]
    fn reading_takes_a_read_or_a_copy_ticket() {
        let keys = TicketKeys::new(&[KEY]);
        let check = |rights| {
            let ticket = open(rights, 4).ticket;
            keys.check_read(&ticket, ChunkHandle(5), ChunkVersion(6), 0)
        };
        assert_eq!(check(Rights::READ), Ok(()));
        assert_eq!(check(Rights::COPY), Ok(()));
        assert_eq!(check(Rights::WRITE), Err(TicketError::NotForThis));
    }

    #[test]
    fn a_question_takes_a_read_or_a_write_ticket_and_a_copy_its_own() {
        let keys = TicketKeys::new(&[KEY]);
        let check = |rights| {
            let ticket = open(rights, 4).ticket;
            let (handle, version) = (ChunkHandle(5), ChunkVersion(6));
            let question = keys.check_question(&ticket, handle, version, 0).is_ok();
            (
                question,
                keys.check_copy(&ticket, handle, version, 0).is_ok(),
            )
        };
        assert_eq!(check(Rights::READ), (true, false));
        assert_eq!(check(Rights::WRITE), (true, false));
        assert_eq!(check(Rights::COPY), (false, true));
    }
}
