//! Requests that take more than one chunk's change: sealing a file or a tree, cutting a file
//! (`spec/messages.md` section 14.1, `spec/replication.md` section 10).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sarsen_protocol::id::{ChunkHandle, FileId, RequestId};
use sarsen_protocol::message::{FileSealed, SealFile, Truncate};
use sarsen_protocol::status::Status;

use super::{Goal, Machine, OpenChunks, Subject, Then};
use crate::core::action::Failure;
use crate::core::command::{FileResized, SLOTS_MAX};
use crate::core::event::Token;
use crate::core::machine::Waiter;
use crate::core::machine::changes::{Asked, another_kind};
use crate::core::machine::reads::node_message;
use crate::core::timed::{Due, Timed};

/// A request whose chunks are being sealed.
#[derive(Clone, Debug)]
pub(super) struct Errand {
    to: Token,
    what: What,
    /// Chunks that it waits for: those that were open when that was last found out and were not
    /// sealed since.
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

impl What {
    /// The file of which nothing may be opened until this is over.
    const fn held_closed(self) -> Option<FileId> {
        match self {
            Self::Seal(_) => None,
            Self::Truncate { file, .. } | Self::Cut(file, _) => Some(file),
        }
    }
}

impl Due for Errand {
    fn due(&self) -> Option<Duration> {
        (self.until < Duration::MAX).then_some(self.until)
    }
}

/// All of them, by whom it concerns when a chunk was sealed.
#[derive(Debug, Default)]
pub(super) struct Errands {
    errands: Timed<u64, Errand>,
    /// How many there ever were.
    count: u64,
    waiting_for: BTreeMap<ChunkHandle, BTreeSet<u64>>,
    closed: BTreeMap<FileId, u64>,
}

impl Errands {
    pub(super) fn next_due(&mut self) -> Option<Duration> {
        self.errands.next_due()
    }

    /// Whether nothing of a file may be opened.
    pub(super) fn holds_closed(&self, file: FileId) -> bool {
        self.closed.contains_key(&file)
    }

    fn add(&mut self, errand: Errand) -> u64 {
        self.count += 1;
        let id = self.count;
        for &handle in &errand.left {
            self.waiting_for.entry(handle).or_default().insert(id);
        }
        if let Some(file) = errand.what.held_closed() {
            self.closed.insert(file, id);
        }
        self.errands.insert(id, errand);
        id
    }

    fn remove(&mut self, id: u64) -> Option<Errand> {
        let errand = self.errands.remove(&id)?;
        for handle in &errand.left {
            self.waits_no_more(id, *handle);
        }
        if let Some(file) = errand.what.held_closed() {
            self.closed.remove(&file);
        }
        Some(errand)
    }

    /// An errand does not wait for a chunk any more.
    fn leave(&mut self, id: u64, handle: ChunkHandle) {
        if let Some(errand) = self.errands.get_mut(&id) {
            errand.left.remove(&handle);
        }
        self.waits_no_more(id, handle);
    }

    fn waits_no_more(&mut self, id: u64, handle: ChunkHandle) {
        if let Some(ids) = self.waiting_for.get_mut(&handle) {
            ids.remove(&id);
            if ids.is_empty() {
                self.waiting_for.remove(&handle);
            }
        }
    }

    /// What an errand waits for from now on.
    fn set_left(&mut self, id: u64, left: BTreeSet<ChunkHandle>) {
        if let Some(errand) = self.errands.remove(&id) {
            errand
                .left
                .iter()
                .for_each(|it| self.waits_no_more(id, *it));
            for &handle in &left {
                self.waiting_for.entry(handle).or_default().insert(id);
            }
            self.errands.insert(id, Errand { left, ..errand });
        }
    }

    /// Whom it concerns that something was done with a chunk or slot of a file.
    fn concerned(&self, subject: Subject, file: FileId) -> BTreeSet<u64> {
        let waiting = match subject {
            Subject::Chunk(handle) => self.waiting_for.get(&handle),
            Subject::Slot(..) => None,
        };
        let closed = self.closed.get(&file);
        waiting
            .into_iter()
            .flatten()
            .chain(closed)
            .copied()
            .collect()
    }
}

impl OpenChunks {
    /// What has a request's number and is being done, and whom it tells, of what a request like this
    /// may have begun.
    fn pending(&mut self, request: RequestId, asked: Asked) -> Option<(Asked, &mut Token)> {
        let is_it = |it: RequestId| (it.session, it.number) == (request.session, request.number);
        let mut handles = match asked {
            Asked::AcceptLoss(handle, _) => vec![handle],
            _ => Vec::new(),
        };
        for id in self.errands.closed.values() {
            match self.errands.errands.get(id).map(|errand| errand.what) {
                Some(What::Truncate { request, .. }) if is_it(request) => {
                    let errand = self.errands.errands.get_mut(id)?;
                    return Some((Asked::Truncate, &mut errand.to));
                }
                Some(What::Cut(_, handle)) => handles.push(handle),
                _ => {}
            }
        }
        let is_its = |handle: &ChunkHandle| {
            let work = self.works.get(&Subject::Chunk(*handle));
            let request = work.and_then(|work| work.request);
            request.is_some_and(|(request, ..)| is_it(request))
        };
        let handle = handles.into_iter().find(is_its)?;
        let work = self.works.get_mut(&Subject::Chunk(handle))?;
        let (_, waits, asked) = work.request.as_mut()?;
        Some((*asked, waits))
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
            Ok((id, left))
        });
        match begun {
            Err(failure) => self.refuse(to, failure),
            Ok((id, left)) => self.begin_errand(to, What::Seal(id), left),
        }
    }

    /// Cuts or extends a file.
    pub(in crate::core::machine) fn truncate(&mut self, to: Token, asked: &Truncate) {
        let request = asked.request;
        if self.is_taken(to, request, Asked::Truncate) {
            return;
        }
        match self.check_truncate(asked) {
            Err(failure) => self.refuse_request(to, request, failure),
            Ok((id, left)) => {
                let what = What::Truncate {
                    request,
                    file: id,
                    size: asked.size,
                };
                self.begin_errand(to, what, left);
            }
        }
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
        // What is open is found out behind a cut that is being logged: another chunk is the last then.
        if self.is_held_closed(id) {
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
        self.open_chunks.works_of.contains_key(&id)
    }

    /// Whether a request was answered before, or is on its way: then whoever asked is told, or will
    /// be.
    pub(super) fn is_taken(&mut self, to: Token, request: RequestId, asked: Asked) -> bool {
        if self.is_answered(to, request, asked) || self.is_in_flight(to, request, asked) {
            return true;
        }
        // The answer goes to whoever asked last; nobody takes that of another kind of request.
        let Some((is_for, waits)) = self.open_chunks.pending(request, asked) else {
            return false;
        };
        match is_for.is_like(asked) {
            true => *waits = to,
            false => self.refuse(to, another_kind()),
        }
        true
    }

    fn begin_errand(&mut self, to: Token, what: What, left: BTreeSet<ChunkHandle>) {
        let until = self.now.elapsed.saturating_add(super::HOLD_MAX);
        let id = self.open_chunks.errands.add(Errand {
            to,
            what,
            left,
            until,
        });
        self.go_on_with_errand(id);
    }

    /// An errand is over, and nothing of it was logged.
    fn refuse_errand(&mut self, errand: &Errand, failure: Failure) {
        match errand.what {
            What::Truncate { request, .. } => self.refuse_request(errand.to, request, failure),
            // That of a cut is told by its work.
            What::Seal(_) | What::Cut(..) => self.refuse(errand.to, failure),
        }
    }

    /// Those who wait for long are told to ask again.
    pub(super) fn look_after_errands(&mut self) {
        let now = self.now.elapsed;
        for id in self.open_chunks.errands.errands.due(now) {
            self.go_on_with_errand(id);
            if let Some(errand) = self.open_chunks.errands.remove(id) {
                let mut reasons = errand
                    .left
                    .iter()
                    .map(|it| self.not_yet(Subject::Chunk(*it)));
                let short = reasons.find(|failure| failure.status == Status::TooFewServers);
                let failure = short.unwrap_or_else(|| self.starting());
                self.refuse_errand(&errand, failure);
            }
        }
    }

    /// Something was done with a chunk or a slot of a file: goes on with whatever waited for that.
    pub(super) fn go_on_with_errands(&mut self, subject: Subject, file: FileId) {
        for id in self.open_chunks.errands.concerned(subject, file) {
            if let Subject::Chunk(handle) = subject {
                match self.active(handle).is_some() {
                    true => self.seal_for_errand(id, handle),
                    false => self.open_chunks.errands.leave(id, handle),
                }
            }
            let errand = self.open_chunks.errands.errands.get(&id);
            if errand.is_some_and(|errand| errand.left.is_empty()) {
                self.go_on_with_errand(id);
            }
        }
    }

    /// Has a chunk sealed that an errand waits for, or tells why it can't be.
    fn seal_for_errand(&mut self, id: u64, handle: ChunkHandle) {
        #[cfg(test)]
        crate::core::timed::looks::count();
        let errand = self.open_chunks.errands.errands.get(&id);
        if errand.is_none_or(|errand| !errand.left.contains(&handle)) {
            return;
        }
        match self.dead_end(handle) {
            None => self.begin_change(Subject::Chunk(handle), Goal::Sealed(Then::Nothing)),
            Some(failure) => {
                if let Some(errand) = self.open_chunks.errands.remove(id) {
                    self.refuse_errand(&errand, failure);
                }
            }
        }
    }

    /// Finds out what an errand waits for, and has that sealed; if it waits for nothing it is done.
    fn go_on_with_errand(&mut self, id: u64) {
        let Some(errand) = self.open_chunks.errands.errands.get(&id) else {
            return;
        };
        let is_open = |handle: &ChunkHandle| self.active(*handle).is_some();
        let (left, is_held_up) = match errand.what {
            What::Cut(_, handle) => {
                if !self.open_chunks.works.contains_key(&Subject::Chunk(handle)) {
                    self.open_chunks.errands.remove(id);
                }
                return;
            }
            What::Truncate { file, size, .. } => {
                (self.open_from(file, size), self.is_changing(file))
            }
            What::Seal(_) => (errand.left.iter().copied().filter(is_open).collect(), false),
        };
        self.open_chunks.errands.set_left(id, left.clone());
        for handle in &left {
            self.seal_for_errand(id, *handle);
        }
        if left.is_empty()
            && !is_held_up
            && let Some(errand) = self.open_chunks.errands.remove(id)
        {
            self.finish_errand(&errand);
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
            } => match self.check_writable().map(|()| self.chunk_to_cut(id, size)) {
                Err(failure) => self.refuse_errand(errand, failure),
                Ok(Some((handle, len))) => {
                    let then = Then::Cut {
                        file: id,
                        size,
                        len,
                    };
                    let subject = Subject::Chunk(handle);
                    self.open_chunks.errands.add(Errand {
                        to,
                        what: What::Cut(id, handle),
                        left: BTreeSet::new(),
                        until: Duration::MAX,
                    });
                    self.begin_work(subject, Goal::Sealed(then));
                    if let Some(work) = self.open_chunks.works.get_mut(&subject) {
                        work.request = Some((request, to, Asked::Truncate));
                    }
                    self.begin_attempt_if_due(subject);
                }
                Ok(None) => {
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
        // That of a cut is told by its work.
        let waiting = self.open_chunks.errands.waiting_for.get(&handle).cloned();
        for id in waiting.unwrap_or_default() {
            if let Some(errand) = self.open_chunks.errands.remove(id) {
                self.refuse_errand(&errand, failure.clone());
            }
        }
    }
}
