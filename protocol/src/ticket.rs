//! The master's signed permission to touch one chunk (`spec/wire.md` section 11).
//!
//! [`Claims`] are what a ticket says. The master signs them into a [`Ticket`], which clients carry
//! without looking inside; a chunkserver opens it with [`Ticket::verify`], asking nobody.

use thiserror::Error;

use crate::codec::{Decoder, Encoder, Field};
use crate::crc::{crc32, extend};
use crate::error::BodyError;
use crate::id::{ChunkHandle, ChunkVersion, FileId, ServerId, SessionId};
use crate::key::SecretKey;
use crate::message::Hop;

/// Bytes of a ticket.
pub const TICKET_LEN: usize = 96;

const SIGNED_LEN: usize = 64;
const FORMAT: u16 = 1;
const LABEL: &[u8] = b"sarsen ticket 1";

/// What a ticket's bearer may do, added up; never nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rights(u8);

impl Rights {
    /// Read the chunk.
    pub const READ: Self = Self(1);
    /// Write and seal the chunk.
    pub const WRITE: Self = Self(2);
    /// Read the chunk to store it as another replica.
    pub const COPY: Self = Self(4);

    /// Both sets of rights.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other`'s rights are here.
    #[must_use]
    pub const fn allow(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    const fn from_number(number: u8) -> Option<Self> {
        match number {
            1..=7 => Some(Self(number)),
            _ => None,
        }
    }
}

/// What a ticket says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claims {
    /// What may be done.
    pub rights: Rights,
    /// The key that signed.
    pub key_id: u32,
    /// The chunk.
    pub handle: ChunkHandle,
    /// Its version.
    pub version: ChunkVersion,
    /// Unix milliseconds after which it is worth nothing.
    pub expiry: u64,
    /// The file that the chunk belongs to.
    pub file_id: FileId,
    /// Whom it was given to, if to somebody.
    pub session: SessionId,
    /// Number of the epoch that signed.
    pub epoch: u64,
    /// For writing: [`chain_crc`] of the chain.
    pub chain_crc: u32,
}

/// Why a ticket does not open the door.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TicketError {
    /// No key of this id is known.
    #[error("the ticket was signed with the unknown key {key_id}")]
    UnknownKey {
        /// What the ticket names.
        key_id: u32,
    },
    /// The signature is not the master's.
    #[error("the ticket's signature is not the master's")]
    Forged,
    /// It is for another chunk, version or chain, or for something else.
    #[error("the ticket is not for this")]
    NotForThis,
    /// Its time is over.
    #[error("the ticket has expired")]
    Expired,
}

/// A signed ticket, as it travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    claims: Claims,
    mac: [u8; 32],
}

impl Ticket {
    /// Signs `claims` with the key that they name.
    #[must_use]
    pub fn sign(claims: Claims, key: &SecretKey) -> Self {
        Self {
            claims,
            mac: key.sign(&[LABEL, &signed_bytes(&claims)]),
        }
    }

    /// What the ticket says, whether or not that is true.
    #[must_use]
    pub const fn unverified_claims(&self) -> &Claims {
        &self.claims
    }

    /// Checks the signature with `key`, and that the ticket is in force at `now` (Unix
    /// milliseconds) for `rights` on this version of this chunk.
    ///
    /// # Errors
    /// The first check that fails: signature, what it is for, time.
    pub fn verify(
        &self,
        key: &SecretKey,
        rights: Rights,
        handle: ChunkHandle,
        version: ChunkVersion,
        now: u64,
    ) -> Result<&Claims, TicketError> {
        if !key.verify(&[LABEL, &signed_bytes(&self.claims)], &self.mac) {
            return Err(TicketError::Forged);
        }
        let claims = &self.claims;
        if !claims.rights.allow(rights) || claims.handle != handle || claims.version != version {
            return Err(TicketError::NotForThis);
        }
        if now > claims.expiry {
            return Err(TicketError::Expired);
        }
        Ok(claims)
    }
}

/// The CRC that binds a ticket to an ordered chain.
#[must_use]
pub fn chain_crc(chain: &[Hop]) -> u32 {
    servers_crc(chain.iter().map(|hop| hop.server))
}

/// [`chain_crc`] of the servers alone.
pub fn servers_crc(servers: impl Iterator<Item = ServerId>) -> u32 {
    servers.fold(crc32(&[]), |crc, server| {
        extend(crc, &server.0.to_le_bytes())
    })
}

fn signed_bytes(claims: &Claims) -> Vec<u8> {
    let mut out = Encoder::new();
    out.put(&FORMAT)
        .put(&claims.rights.0)
        .reserved(1)
        .put(&claims.key_id);
    out.put(&claims.handle)
        .put(&claims.version)
        .put(&claims.expiry)
        .put(&claims.file_id);
    out.put(&claims.session)
        .put(&claims.epoch)
        .put(&claims.chain_crc)
        .reserved(4);
    out.into_bytes()
}

impl Field for Ticket {
    const LEN_MIN: usize = TICKET_LEN;

    fn encode(&self, out: &mut Encoder) {
        out.raw(&signed_bytes(&self.claims)).put(&self.mac);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        if input.take::<u16>()? != FORMAT {
            return Err(BodyError::UnknownValue);
        }
        let rights = Rights::from_number(input.take()?).ok_or(BodyError::UnknownValue)?;
        input.reserved(1)?;
        let claims = Claims {
            rights,
            key_id: input.take()?,
            handle: input.take()?,
            version: input.take()?,
            expiry: input.take()?,
            file_id: input.take()?,
            session: input.take()?,
            epoch: input.take()?,
            chain_crc: input.take()?,
        };
        input.reserved(4)?;
        Ok(Self {
            claims,
            mac: input.take()?,
        })
    }
}

const _: () = assert!(SIGNED_LEN + 32 == TICKET_LEN);

#[cfg(test)]
mod tests {
    use super::*;

    fn claims() -> Claims {
        Claims {
            rights: Rights::WRITE,
            key_id: 1,
            handle: ChunkHandle(5),
            version: ChunkVersion(6),
            expiry: 1000,
            file_id: FileId(7),
            session: SessionId(8),
            epoch: 9,
            chain_crc: servers_crc([ServerId(1), ServerId(2)].into_iter()),
        }
    }

    #[test]
    fn a_ticket_opens_one_door_for_a_time() {
        let key = SecretKey::new([1; 32]);
        let ticket = Ticket::sign(claims(), &key);
        let verify = |rights, handle, now| {
            ticket
                .verify(&key, rights, ChunkHandle(handle), ChunkVersion(6), now)
                .map(|_| ())
        };
        assert_eq!(verify(Rights::WRITE, 5, 1000), Ok(()));
        assert_eq!(verify(Rights::WRITE, 5, 1001), Err(TicketError::Expired));
        assert_eq!(verify(Rights::READ, 5, 0), Err(TicketError::NotForThis));
        assert_eq!(verify(Rights::WRITE, 4, 0), Err(TicketError::NotForThis));
        let other = SecretKey::new([2; 32]);
        let forged = ticket.verify(&other, Rights::WRITE, ChunkHandle(5), ChunkVersion(6), 0);
        assert_eq!(forged, Err(TicketError::Forged));
    }

    #[test]
    fn every_bit_is_signed() {
        let key = SecretKey::new([1; 32]);
        let mut out = Encoder::new();
        out.put(&Ticket::sign(claims(), &key));
        let bytes = out.into_bytes();
        assert_eq!(bytes.len(), TICKET_LEN);
        for bit in 0..TICKET_LEN * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            if let Ok(ticket) = Decoder::new(&flipped).take::<Ticket>() {
                let claims = *ticket.unverified_claims();
                let verdict = ticket.verify(&key, claims.rights, claims.handle, claims.version, 0);
                assert_eq!(verdict, Err(TicketError::Forged), "bit {bit}");
            }
        }
    }
}
