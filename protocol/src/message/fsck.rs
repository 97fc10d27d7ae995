//! `Fsck`: what is wrong with the chunks, from metadata and reports (`spec/messages.md` section 8).

use super::shared::Finding;
use super::{Kind, Message};
use crate::codec::{Decoder, Encoder, Field};
use crate::error::BodyError;
use crate::id::{ChunkHandle, ServerId};
use crate::size::{PAGE_LEN_MAX, PATH_LEN_MAX};

/// Asks for findings about the chunks under a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fsck {
    /// The top; `/` takes in the trash.
    pub path: String,
    /// Findings of handles above this one.
    pub after: ChunkHandle,
    /// The most findings, 1 to [`PAGE_LEN_MAX`].
    pub limit: u32,
}

impl Message for Fsck {
    const KIND: Kind = Kind::Fsck;

    fn encode(&self, out: &mut Encoder) {
        out.string(&self.path).put(&self.after).put(&self.limit);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        let message = Self {
            path: input.string(PATH_LEN_MAX)?.to_owned(),
            after: input.take()?,
            limit: input.take()?,
        };
        match (1..=PAGE_LEN_MAX).contains(&(message.limit as usize)) {
            true => Ok(message),
            false => Err(BodyError::OutOfBounds),
        }
    }
}

/// A page of findings, in the order of the handles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FsckReply {
    /// Files looked at, in the whole.
    pub files: u64,
    /// Chunks looked at, in the whole.
    pub chunks: u64,
    /// The page; all of one handle together.
    pub findings: Vec<FsckFinding>,
    /// Where to go on.
    pub next: ChunkHandle,
    /// Whether there is something behind it.
    pub more: bool,
}

impl Message for FsckReply {
    const KIND: Kind = Kind::FsckReply;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.files)
            .put(&self.chunks)
            .list(&self.findings)
            .put(&self.next)
            .put(&self.more);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            files: input.take()?,
            chunks: input.take()?,
            findings: input.list(PAGE_LEN_MAX)?,
            next: input.take()?,
            more: input.take()?,
        })
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FsckFinding {
    /// What.
    pub finding: Finding,
    /// Of which chunk.
    pub handle: ChunkHandle,
    /// Of which file.
    pub path: String,
    /// Replicas wanted.
    pub want: u8,
    /// Good replicas.
    pub have: u8,
    /// Who holds the stale or corrupt one.
    pub server: ServerId,
}

impl Field for FsckFinding {
    const LEN_MIN: usize =
        Finding::LEN_MIN + ChunkHandle::LEN_MIN + 2 + u8::LEN_MIN + u8::LEN_MIN + ServerId::LEN_MIN;

    fn encode(&self, out: &mut Encoder) {
        out.put(&self.finding)
            .put(&self.handle)
            .string(&self.path)
            .put(&self.want)
            .put(&self.have)
            .put(&self.server);
    }

    fn decode(input: &mut Decoder<'_>) -> Result<Self, BodyError> {
        Ok(Self {
            finding: input.take()?,
            handle: input.take()?,
            path: input.string(PATH_LEN_MAX)?.to_owned(),
            want: input.take()?,
            have: input.take()?,
            server: input.take()?,
        })
    }
}
