//! `ListTrash`: a page of the trash (`spec/messages.md` section 7).

use super::shared::Node;
use super::{Kind, Message};
use crate::codec::{Decoder, Encoder, Field};
use crate::error::BodyError;
use crate::size::{PAGE_LEN_MAX, PATH_LEN_MAX};

/// Asks for entries of the trash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListTrash {
    /// Entries above this number.
    pub after: u64,
    /// The most entries, 1 to [`PAGE_LEN_MAX`].
    pub limit: u32,
}

impl Message for ListTrash {
    const KIND: Kind = Kind::ListTrash;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.after).put(&self.limit);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        let message = Self {
            after: input.take()?,
            limit: input.take()?,
        };
        match (1..=PAGE_LEN_MAX).contains(&(message.limit as usize)) {
            true => Ok(message),
            false => Err(BodyError::OutOfBounds),
        }
    }
}

/// A page, in the order of the numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrashListed {
    /// The page.
    pub entries: Vec<TrashEntry>,
    /// Whether there are entries behind it.
    pub more: bool,
}

impl Message for TrashListed {
    const KIND: Kind = Kind::TrashListed;

    fn encode(&self, out: &mut Encoder) {
        out.list(&self.entries).put(&self.more);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            entries: input.list(PAGE_LEN_MAX)?,
            more: input.take()?,
        })
    }
}

/// Something in the trash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrashEntry {
    /// Its number.
    pub entry: u64,
    /// Where it was.
    pub path: String,
    /// When it went, in Unix milliseconds.
    pub deleted: u64,
    /// The file or folder.
    pub node: Node,
}

impl Field for TrashEntry {
    const LEN_MIN: usize = u64::LEN_MIN + 2 + u64::LEN_MIN + Node::LEN_MIN;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.entry)
            .string(&self.path)
            .put(&self.deleted)
            .put(&self.node);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            entry: input.take()?,
            path: input.string(PATH_LEN_MAX)?.to_owned(),
            deleted: input.take()?,
            node: input.take()?,
        })
    }
}
