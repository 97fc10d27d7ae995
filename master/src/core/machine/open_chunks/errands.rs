//! Requests that take more than one chunk's change: sealing a file or a tree, cutting a file, going
//! on with a loss (`spec/messages.md` section 14.1, `spec/replication.md` sections 8 and 10).

use std::collections::BTreeSet;
use std::time::Duration;

use sarsen_protocol::id::{ChunkHandle, FileId, RequestId, ServerId};
use sarsen_protocol::message::{
    AcceptLoss, FileSealed, HeldFlags, LossAccepted, SealFile, Truncate,
};
use sarsen_protocol::status::Status;

use super::{Goal, Machine, Subject, Then};
use crate::core::action::{Action, Failure};
use crate::core::command::{FileResized, SLOTS_MAX};
use crate::core::event::Token;
use crate::core::machine::changes::Asked;
use crate::core::machine::reads::node_message;
use crate::core::machine::{Waiter, millis};
use crate::core::replica::Source;

/// A request whose chunks are being sealed.
#[derive(Clone, Debug)]
pub(super) struct Errand {
    to: Token,
    what: What,
    /// Chunks that are still open.
    left: BTreeSet<ChunkHandle>,
    /// When whoever asked is told to ask again.
    until: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// Then the top of the tree is told.
    Seal(FileId),
    /// Then the file is cut.
    Truncate {
        request: RequestId,
        file: FileId,
        size: u64,
    },
    /// A chunk is being cut; its entry answers the request. The file stays closed meanwhile.
    Cut(FileId, ChunkHandle),
}

impl Errand {
    pub(super) const fn until(&self) -> Duration {
        self.until
    }

    /// Whether nothing of a file may be opened until this is over.
    pub(super) fn holds_closed(&self, file: FileId) -> bool {
        match self.what {
            What::Seal(_) => false,
            What::Truncate { file: it, .. } | What::Cut(it, _) => it == file,
        }
    }
}

impl Machine {
    /// Seals what is open of a file or tree.
    pub(in crate::core::machine) fn seal_file(&mut self, to: Token, asked: &SealFile) {
        let found = self.find(&asked.path).map(|(id, _)| id);
        let begun = found.and_then(|id| {
            let files = self.state.namespace.walk(id);
            let files = files.filter_map(|visit| visit.node.as_file());
            let handles = files.flat_map(|file| file.chunks().map(|(_, handle)| handle));
            let left = handles.filter(|handle| self.active(*handle).is_some());
            let left: BTreeSet<ChunkHandle> = left.collect();
            if !left.is_empty() {
                self.check_writable()?;
            }
            Ok((What::Seal(id), left))
        });
        self.begin_errand(to, begun);
    }

    /// Cuts or extends a file.
    pub(in crate::core::machine) fn truncate(&mut self, to: Token, asked: &Truncate) {
        let request = asked.request;
        if self.is_taken(to, request, Asked::Truncate) {
            return;
        }
        let begun = self.check_truncate(asked).map(|(id, left)| {
            let what = What::Truncate {
                request,
                file: id,
                size: asked.size,
            };
            (what, left)
        });
        self.begin_errand(to, begun);
    }

    fn check_truncate(
        &mut self,
        asked: &Truncate,
    ) -> Result<(FileId, BTreeSet<ChunkHandle>), Failure> {
        self.keep_session(asked.request.session)?;
        self.check_admissible(asked.request)?;
        let (id, node) = self.find(&asked.path)?;
        let file = node.as_file().ok_or(Status::IsAFolder)?;
        let chunk_size = u64::from(file.chunk_size);
        if asked.size.div_ceil(chunk_size) > SLOTS_MAX as u64 {
            let text = format!("a file has at most {SLOTS_MAX} chunks of {chunk_size} bytes");
            return Err(Failure::new(Status::TooLarge, text));
        }
        let mut errands = self.open_chunks.errands.iter();
        if errands.any(|it| it.holds_closed(id)) {
            return Err(self.starting());
        }
        Ok((id, self.open_from(id, asked.size)))
    }

    /// The open chunks of a file from the one on that a new size lies in.
    fn open_from(&self, id: FileId, size: u64) -> BTreeSet<ChunkHandle> {
        let Some(file) = self.state.namespace.file(id) else {
            return BTreeSet::new();
        };
        let first = size / u64::from(file.chunk_size);
        let from = file
            .chunks()
            .filter(|(index, _)| u64::from(*index) >= first);
        // The last chunk, too: while it is open nobody knows how long it is.
        let last = file.chunks().last();
        let handles = from.chain(last).map(|(_, handle)| handle);
        let open = handles.filter(|handle| self.active(*handle).is_some());
        open.collect()
    }

    /// Whether anything of a file is being changed: what is being logged may open a chunk yet.
    fn is_changing(&self, id: FileId) -> bool {
        let mut subjects = self.open_chunks.works.keys();
        subjects.any(|subject| match *subject {
            Subject::Slot(file, _) => file == id,
            Subject::Chunk(handle) => {
                let record = self.state.chunks.record(handle);
                record.is_some_and(|record| record.file == id)
            }
        })
    }

    /// Whether a request was answered before, or is on its way: then whoever asked is told, or will
    /// be.
    fn is_taken(&mut self, to: Token, request: RequestId, asked: Asked) -> bool {
        if let Some(answer) = self.state.sessions.answer(request) {
            let reply = self.reply_to(asked, &answer);
            self.actions.push_back(Action::Reply { to, reply });
            return true;
        }
        let key = (request.session, request.number);
        let index = self.requests_in_flight.get(&key);
        if let Some(in_flight) = index.and_then(|index| self.in_flight.get_mut(index)) {
            in_flight.waiters.push(Waiter::Request(to, asked));
            return true;
        }
        // The answer goes to whoever asked last.
        for errand in &mut self.open_chunks.errands {
            if let What::Truncate { request: it, .. } = errand.what
                && it == request
            {
                errand.to = to;
                return true;
            }
        }
        for work in self.open_chunks.works.values_mut() {
            if let Some((it, waits, _)) = &mut work.request
                && *it == request
            {
                *waits = to;
                return true;
            }
        }
        false
    }

    fn begin_errand(&mut self, to: Token, begun: Result<(What, BTreeSet<ChunkHandle>), Failure>) {
        match begun {
            Err(failure) => self.refuse(to, failure),
            Ok((what, left)) => {
                let until = self.now.elapsed.saturating_add(super::HOLD_MAX);
                self.open_chunks.errands.push(Errand {
                    to,
                    what,
                    left,
                    until,
                });
                self.look_after_errands();
            }
        }
    }

    /// Goes on with what waits for chunks to be sealed.
    pub(super) fn look_after_errands(&mut self) {
        let errands = std::mem::take(&mut self.open_chunks.errands);
        for mut errand in errands {
            let is_held_up = match errand.what {
                What::Cut(_, handle) => {
                    if self.open_chunks.works.contains_key(&Subject::Chunk(handle)) {
                        self.open_chunks.errands.push(errand);
                    }
                    continue;
                }
                What::Truncate { file, size, .. } => {
                    errand.left = self.open_from(file, size);
                    self.is_changing(file)
                }
                What::Seal(_) => {
                    errand.left.retain(|handle| self.active(*handle).is_some());
                    false
                }
            };
            let dead_end = errand.left.iter().find_map(|it| self.dead_end(*it));
            if let Some(failure) = dead_end {
                self.refuse(errand.to, failure);
            } else if errand.left.is_empty() && !is_held_up {
                self.finish_errand(&errand);
            } else if errand.until <= self.now.elapsed {
                let failure = self.starting();
                self.refuse(errand.to, failure);
            } else {
                let left = errand.left.clone();
                self.open_chunks.errands.push(errand);
                for handle in left {
                    self.begin_change(Subject::Chunk(handle), Goal::Sealed(Then::Nothing));
                }
            }
        }
    }

    fn finish_errand(&mut self, errand: &Errand) {
        let to = errand.to;
        match errand.what {
            What::Seal(id) => {
                let node = self.state.namespace.node(id);
                let told = node.map(|node| FileSealed {
                    node: node_message(id, node),
                });
                self.answer(to, told.ok_or_else(|| Status::NotFound.into()));
            }
            What::Truncate {
                request,
                file: id,
                size,
            } => match self.chunk_to_cut(id, size) {
                Some((handle, len)) => {
                    let then = Then::Cut {
                        file: id,
                        size,
                        len,
                    };
                    let subject = Subject::Chunk(handle);
                    self.open_chunks.errands.push(Errand {
                        what: What::Cut(id, handle),
                        until: Duration::MAX,
                        ..errand.clone()
                    });
                    self.begin_work(subject, Goal::Sealed(then));
                    if let Some(work) = self.open_chunks.works.get_mut(&subject) {
                        work.request = Some((request, to, Asked::Truncate));
                    }
                    self.begin_attempt_if_due(subject);
                }
                None => {
                    let waiters = vec![Waiter::Request(to, Asked::Truncate)];
                    self.append_for(
                        FileResized { file: id, size }.into(),
                        Some(request),
                        waiters,
                    );
                }
            },
            What::Cut(..) => {}
        }
    }

    /// The sealed chunk that a file of this size ends inside of, and its length then.
    fn chunk_to_cut(&self, id: FileId, size: u64) -> Option<(ChunkHandle, u32)> {
        let file = self.state.namespace.file(id)?;
        let chunk_size = u64::from(file.chunk_size);
        let len = u32::try_from(size % chunk_size)
            .ok()
            .filter(|len| *len > 0)?;
        let handle = file.slot(u32::try_from(size / chunk_size).ok()?)?;
        let sealed = self.state.chunks.record(handle)?.at_rest()?;
        (sealed.len > len).then_some((handle, len))
    }

    /// A chunk can't be sealed now: whoever waits for that hears why.
    pub(super) fn fail_errands(&mut self, subject: Subject, failure: &Failure) {
        let Subject::Chunk(handle) = subject else {
            return;
        };
        let failed = |errand: &mut Errand| match errand.what {
            What::Cut(_, it) => it == handle,
            _ => errand.left.contains(&handle),
        };
        let failed: Vec<Errand> = self.open_chunks.errands.extract_if(.., failed).collect();
        for errand in failed {
            // That of a cut was told by its work.
            if !matches!(errand.what, What::Cut(..)) {
                self.refuse(errand.to, failure.clone());
            }
        }
    }

    /// A person goes on without what nobody can be heard of.
    pub(in crate::core::machine) fn accept_loss(&mut self, to: Token, asked: &AcceptLoss) {
        let (request, handle) = (asked.request, asked.handle);
        if self.is_taken(to, request, Asked::AcceptLoss(handle, ServerId::NONE)) {
            return;
        }
        match self.check_acceptance(asked) {
            Err(failure) => self.refuse(to, failure),
            Ok(holder) => {
                let subject = Subject::Chunk(handle);
                self.begin_work(subject, Goal::Accepted { holder });
                if let Some(work) = self.open_chunks.works.get_mut(&subject) {
                    work.request = Some((request, to, Asked::AcceptLoss(handle, holder)));
                }
                self.begin_attempt_if_due(subject);
            }
        }
    }

    /// Whose copy is taken.
    fn check_acceptance(&mut self, asked: &AcceptLoss) -> Result<ServerId, Failure> {
        self.keep_session(asked.request.session)?;
        self.check_admissible(asked.request)?;
        let handle = asked.handle;
        let record = self.state.chunks.record(handle);
        let record = record.ok_or(Status::ChunkUnknown)?;
        let is_known = self.open_chunks.works.contains_key(&Subject::Chunk(handle));
        if is_known || record.active.is_none() || !self.open_chunks.is_unavailable(handle) {
            let text = format!("chunk {handle} is not unavailable: there is no loss to accept");
            return Err(Failure::new(Status::InvalidArgument, text));
        }
        if self.open_chunks.leases.may_run(handle, self.now.elapsed) {
            let text = format!("the last lease of chunk {handle} may still be running");
            let wait = millis(self.config.heartbeat);
            return Err(Failure::new(Status::Overloaded, text).retry_after(wait));
        }
        let replicas = self.servers.replicas(handle).iter();
        let is_readable =
            |flags: HeldFlags| !flags.has(HeldFlags::CORRUPT) && !flags.has(HeldFlags::POISONED);
        let usable = replicas.filter(|replica| {
            replica.source == Source::Reported
                && is_readable(replica.flags)
                && !replica.deleting
                && self.is_usable(replica.server)
        });
        let best = usable.max_by_key(|replica| (replica.version, replica.serial));
        best.map(|replica| replica.server).ok_or_else(|| {
            let text = format!("no server that can be heard has any copy of chunk {handle}");
            Failure::new(Status::Unavailable, text)
        })
    }

    /// What is told of a loss that was accepted, with `holder`'s copy if that is remembered.
    pub(in crate::core::machine) fn loss_accepted(
        &self,
        handle: ChunkHandle,
        holder: ServerId,
    ) -> Result<LossAccepted, Failure> {
        let record = self.state.chunks.record(handle);
        let sealed = record.and_then(|record| record.sealed);
        let sealed = sealed.ok_or(Status::ChunkUnknown)?;
        let mut replicas = self.servers.replicas(handle).iter();
        let server = replicas.find(|replica| replica.version == sealed.version);
        let server = server.map(|replica| replica.server).unwrap_or_default();
        Ok(LossAccepted {
            version: sealed.version,
            length: sealed.len,
            server: if holder.is_some() { holder } else { server },
        })
    }
}
