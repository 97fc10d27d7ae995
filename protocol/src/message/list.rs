//! `List`: a page of a folder (`spec/messages.md` section 7).

use super::shared::Node;
use super::{Kind, Message};
use crate::codec::{Decoder, Encoder, Field};
use crate::error::BodyError;
use crate::size::{NAME_LEN_MAX, PAGE_LEN_MAX, PATH_LEN_MAX};

/// Asks for names in a folder, or for a file itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List {
    /// Which.
    pub path: String,
    /// Names above this one; empty for the first page.
    pub after: String,
    /// The most entries, 1 to [`PAGE_LEN_MAX`].
    pub limit: u32,
}

impl Message for List {
    const KIND: Kind = Kind::List;

    fn encode(&self, out: &mut Encoder) {
        out.string(&self.path).string(&self.after).put(&self.limit);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        let message = Self {
            path: input.string(PATH_LEN_MAX)?.to_owned(),
            after: input.string(NAME_LEN_MAX)?.to_owned(),
            limit: input.take()?,
        };
        match (1..=PAGE_LEN_MAX).contains(&(message.limit as usize)) {
            true => Ok(message),
            false => Err(BodyError::OutOfBounds),
        }
    }
}

/// A page, in the order of the names' bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListReply {
    /// The page.
    pub entries: Vec<ListEntry>,
    /// Whether there are names behind it.
    pub more: bool,
}

impl Message for ListReply {
    const KIND: Kind = Kind::ListReply;

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

/// A name and what it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListEntry {
    /// Without its folder.
    pub name: String,
    /// The file or folder.
    pub node: Node,
}

impl Field for ListEntry {
    const LEN_MIN: usize = 2 + Node::LEN_MIN;

    fn encode(&self, out: &mut Encoder) {
        out.string(&self.name).put(&self.node);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            name: input.string(NAME_LEN_MAX)?.to_owned(),
            node: input.take()?,
        })
    }
}
