//! Checks that can be taken out, to show that what they prevent is found.
//!
//! The simulator (`sim/`) proves itself by removing one check at a time and finding a run that
//! breaks a promise without it. The places that ask [`is_in_force`] are the checks themselves, so
//! what is removed is the real one. In a release build nothing can be removed: the answer is a
//! constant there, and the question is compiled away. Elsewhere a check is removed for the
//! calling thread alone.

/// A check that can be removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// A seal at `disk` is on stable storage before it is acknowledged.
    SealSync,
    /// So is the name of the sealed file.
    SealName,
    /// A chunkserver compares session and epoch of an order when it runs.
    OrderSession,
    /// A request that was carried out is given its first answer again, and not carried out again.
    RequestOnce,
    /// A request that was refused for good, of which nothing is logged, is refused again.
    RefusalKept,
    /// The master answers a change after its log entry is on stable storage.
    ReplyAfterFlush,
    /// Every member of a chain compares the pieces of a frame with their CRCs.
    PieceCrc,
    /// The master lets a directory count only with a start that is newer than the logged one.
    StartNumber,
    /// A reader compares what it was sent with the CRCs that came along, and with the chunk's.
    ReadCrc,
    /// What a file names is no garbage, whatever it was before.
    GarbageInUse,
    /// A master gives out nothing of a range that an earlier one had.
    HandleRange,
    /// Nothing is deleted in safe mode.
    SafeMode,
    /// A version begins at the lowest serial of the answers that count.
    LowestSerial,
    /// A member that restarted doesn't count where acks from memory were allowed.
    RestartedMember,
    /// A member that promised a newer version applies nothing of an older one.
    PromiseRefuses,
    /// What is acknowledged is on the last member of the chain too, and on all before.
    LastMember,
    /// What a member acknowledges at `disk` is stable, and all that came before it.
    DiskPrefix,
    /// A primary that comes after another knows which mutations were done.
    IdsKept,
    /// Readers see what is committed, and nothing newer.
    CommittedReads,
    /// A chunk that is open is not copied.
    CopyAtRest,
    /// No replica of a chunk that is open is deleted.
    DeleteAtRest,
}

impl Check {
    /// Every check that can be removed.
    pub const ALL: &'static [Self] = &[
        Self::SealSync,
        Self::SealName,
        Self::OrderSession,
        Self::RequestOnce,
        Self::RefusalKept,
        Self::ReplyAfterFlush,
        Self::PieceCrc,
        Self::StartNumber,
        Self::ReadCrc,
        Self::GarbageInUse,
        Self::HandleRange,
        Self::SafeMode,
        Self::LowestSerial,
        Self::RestartedMember,
        Self::PromiseRefuses,
        Self::LastMember,
        Self::DiskPrefix,
        Self::IdsKept,
        Self::CommittedReads,
        Self::CopyAtRest,
        Self::DeleteAtRest,
    ];
}

#[cfg(debug_assertions)]
thread_local! {
    static REMOVED: std::cell::Cell<Option<Check>> = const { std::cell::Cell::new(None) };
}

/// Whether a check is to be made: always, outside of the simulator.
#[cfg(not(debug_assertions))]
#[inline]
#[must_use]
pub const fn is_in_force(_: Check) -> bool {
    true
}

/// Whether a check is to be made: always, outside of the simulator.
#[cfg(debug_assertions)]
#[must_use]
pub fn is_in_force(check: Check) -> bool {
    REMOVED.get() != Some(check)
}

/// Takes a check out of what this thread does, in place of the one before; none puts all back.
#[cfg(debug_assertions)]
pub fn remove(check: Option<Check>) {
    REMOVED.set(check);
}
