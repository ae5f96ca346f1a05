//! The states that a run has to reach: a run that did not reach one of them has proved nothing about it.

use std::collections::BTreeMap;

macro_rules! states {
    ($($name:ident = $text:literal,)*) => {
        /// A state worth reaching.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum State { $($name,)* }

        impl State {
            pub const ALL: &'static [State] = &[$(State::$name,)*];

            pub fn text(self) -> &'static str {
                match self { $(State::$name => $text,)* }
            }
        }
    };
}

states! {
    RingFull = "all ring slots sealed: an append found no room",
    LaterTaken = "an append that waited for room was taken",
    Overtaken = "a write was completed before an earlier one",
    NextSegment = "a frame did not fit its segment and opened the next",
    SegmentFilledByVoid = "a VOID frame is the last of its segment",
    VoidLast = "a VOID frame is the last before a crash",
    SharedTailBlock = "two fsyncs share a tail block",
    SyncOverBuffers = "one fsync covers more than one buffer",
    SyncsTogether = "one device flush answers several fsyncs",
    IdleMark = "an idle store brought its mark up to date",
    CheckpointWhileRunning = "a checkpoint was written while mounted",
    TornSuperblock = "a superblock was torn",
    TornCheckpoint = "a checkpoint was torn",
    HeaderLost = "a segment was begun and its header is not there",
    CutInBlock = "the log was cut inside a block",
    CutOnBlock = "the log was cut between two blocks",
    CutFrames = "frames lie behind the cut",
    CutNothing = "a crash lost nothing",
    CutEverything = "a crash lost all that was not promised",
    MountInNextSegment = "a mount had to begin in a new segment",
    MountAtSegmentEnd = "the log ended with its segment when it was mounted",
    CrashInMount = "the power failed during a mount",
    CrashInMountTwice = "the power failed during two mounts in a row",
    CrashBeforeFlush = "the power failed before the first flush after a mount",
    CrashInClose = "the power failed during a clean unmount",
    KillInFlight = "the daemon was killed with writes under way",
    CrashAfterKill = "the power failed after a kill and a mount",
    NoSpace = "an append was refused for lack of space",
    NoSpaceLater = "an append that waited for the full ring was refused for lack of space",
    NoSpaceMount = "a full store was mounted",
    Stalled = "the ring filled up behind a stalled disk",
    WriteFailed = "a write failed",
    FlushFailed = "a flush failed",
    SyncFailed = "an fsync was told of a failure",
    RefusedAfterFailure = "an append was refused after a failure",
    ReadAfterFailure = "the log was read after a failure",
    ReadFailed = "a read failed",
    MountFailed = "a mount failed on a failing disk",
    ReadFromRing = "a record was read before it was written",
    ReadFromDisk = "a record was read from the disk",
    CreateLost = "a crash lost a new log",
    CreateKept = "a crash kept a new log that nobody had synced",
    RenameLost = "a crash lost a rename",
    RemoveLost = "a crash lost a removal",
    Replaced = "a rename replaced another log",
    InDirectory = "a log was moved into a directory",
    ManySynced = "records of several logs became stable by one fsync",
    Trimmed = "a log was trimmed",
    TrimLost = "a crash lost a trim",
    LetGo = "a segment in which nothing was alive became free",
    Moved = "the cleaner moved a record",
    Cleaned = "the cleaner emptied a segment",
    CrashInTick = "the power failed during a tick",
    CrashInCleaning = "the power failed between the cleaner's copying and its letting go",
    CrashBetweenRetireAndFree = "the power failed between a segment's retirement and its being free",
    Expired = "a limit let go of a record",
    Dropped = "a full store dropped its oldest",
    KeptMin = "a log kept more than a limit allows, because it was to keep so much",
    CrashInRetention = "the power failed while limits let go of records",
    CrashInDropping = "the power failed while a full store dropped its oldest",
    HeadLost = "a crash lost a head that limits or want of room had raised",
    StaleCheckpoint = "an older checkpoint counted, and segments had been let go since",
    AppendedUnlinked = "a log without a name was appended to",
    ClosedUnlinked = "a log without a name was closed",
    CrashUnlinked = "the power failed while a log without a name was open",
    UnlinkLost = "a crash gave a log that was open its name back",
    Grown = "a mounted store grew",
    GrownUnmounted = "an unmounted store grew",
    CrashInGrow = "the power failed while a mounted store grew",
    CrashInGrowUnmounted = "the power failed while an unmounted store grew",
    GrowLost = "a crash lost the growing",
    GrowKept = "a crash kept a growing that nobody was told of",
    MountMoved = "a store with moved records was mounted",
    LieFound = "a lying disk was found out",
    LieHarmless = "a lying disk did no harm",
}

/// How often each was reached.
#[derive(Debug, Clone, Default)]
pub struct Hits(BTreeMap<State, u64>);

impl Hits {
    pub fn hit(&mut self, state: State) {
        *self.0.entry(state).or_default() += 1;
    }

    pub fn hit_if(&mut self, state: State, reached: bool) {
        if reached {
            self.hit(state);
        }
    }

    pub fn add(&mut self, other: &Hits) {
        for (state, count) in &other.0 {
            *self.0.entry(*state).or_default() += count;
        }
    }

    pub fn count(&self, state: State) -> u64 {
        self.0.get(&state).copied().unwrap_or(0)
    }

    pub fn missing(&self) -> Vec<&'static str> {
        State::ALL.iter().filter(|state| self.count(**state) == 0).map(|state| state.text()).collect()
    }
}
