//! What a seed stands for: a disk, the settings of a store, and the operations on it.

use llamafs::io::{Geometry, SectorModel, SimDevice};
use llamafs::store::{FormatOptions, StoreOptions, Tail};

use super::rng::Rng;

/// Bytes of a segment.
pub const SEGMENT: u64 = 64 << 10;
/// Largest record.
const LARGEST: u32 = 8 << 10;
/// Bytes in front of the first segment of a store of this kind: superblocks, and checkpoints with room to spare.
pub const IN_FRONT: u64 = 512 << 10;

/// How honest the disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disk {
    /// It loses what it may lose when the power fails, and nothing else.
    Honest,
    /// It also fails requests, and says so.
    Failing,
    /// It also acknowledges what it did not do, does it elsewhere, or gives back something else.
    Lying,
}

/// Disk and settings.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    pub disk: Disk,
    pub tail: Tail,
    pub block: u32,
    pub write_cache: bool,
    pub whole_pages: bool,
    pub garbage: bool,
    pub max_delay: u64,
    pub short_one_in: u64,
    pub segments: u64,
    pub ring_size: usize,
    pub buffer_size: usize,
    pub shutdown: bool,
}

/// One operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Append a record; wait neither for room nor for the device.
    Append { len: u32, fill: Fill },
    /// Append a record as soon as there is room.
    Later { len: u32, fill: Fill },
    /// Leave a Failed Flush.
    GiveUp { len: u32 },
    /// fsync, answered some time.
    Sync,
    /// fsync, and wait.
    SyncNow,
    /// The flush interval is over.
    Tick,
    /// The store has been idle.
    Idle,
    /// Let the disk work once.
    Poll,
    /// Let the disk work until it has nothing to do.
    Settle,
    /// Read some of the log.
    Read { at: u32, len: u32 },
    /// Change the mode.
    Mode { mode: u32 },
    /// Go on with another log.
    Log { which: u32 },
    /// Make a log, or a directory.
    Make { directory: bool },
    /// Give the present log another name, in another directory; perhaps the name of another log.
    Rename { which: u32, replace: bool },
    /// Remove the present log, or a directory that is empty.
    Remove { which: u32, directory: bool },
    /// Let go of what lies below some record of the present log, or is older, or more than so much.
    Trim { at: u32 },
    /// Remove the present log, and keep it open.
    Unlink,
    /// Close a log that has no name any more.
    Close { which: u32 },
    /// The present log, or the root for all that have none of their own, may keep so much; 0 the root's, or no limit.
    Limits { root: bool, bytes: u32, seconds: u32, keep_min: u32 },
    /// A full store drops its oldest from now on, or refuses.
    DropOldest { on: bool },
    /// Time passes.
    Pass { seconds: u32 },
    /// The disk gets so many segments larger, and the store with it, mounted or not.
    Grow { segments: u32 },
    /// Append until there is no room.
    Fill { len: u32 },
    /// Append to all logs in turn, so many times in all.
    Spread { len: u32, count: u32 },
    /// The disk stops working for a while.
    Stall,
    /// A request of a kind fails or is not what it seems; `which` and `nth` choose.
    Fault { which: u32, nth: u32 },
    /// Clean unmount, and mount.
    Remount,
    /// The power fails, and the store is mounted again.
    Crash { seed: u32 },
    /// The daemon is killed, and the store is mounted again.
    Kill { seed: u32 },
    /// The power fails after so many requests of a clean unmount.
    CloseCrash { after: u32, seed: u32 },
    /// The power fails after so many requests of a tick, which may write summaries and checkpoints, and clean.
    TickCrash { after: u32, seed: u32 },
    /// The power fails after so many requests of growing.
    GrowCrash { segments: u32, after: u32, seed: u32 },
    /// The power fails after so many requests of the next mount.
    MountCrash { after: u32, seed: u32 },
}

/// What a record is filled with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    Bytes,
    Zeros,
    /// Our own magics on every line.
    Magics,
    /// What lies on the disk: whole valid frames.
    Frames,
}

impl Setup {
    /// The store's settings.
    pub fn options(&self) -> StoreOptions {
        StoreOptions {
            tail: self.tail,
            ring_size: self.ring_size,
            buffer_size: self.buffer_size,
            clock: super::aging::clock,
            head_raised: super::aging::head_raised,
            errors: if self.shutdown { llamafs::store::OnError::Shutdown } else { llamafs::store::OnError::RemountRo },
            ..StoreOptions::default()
        }
    }

    pub fn format(&self) -> FormatOptions {
        FormatOptions {
            segment_size: Some(SEGMENT as u32),
            max_record: Some(LARGEST),
            now_ns: Some(1),
            uuid: Some([7; 16]),
            ..FormatOptions::default()
        }
    }

    /// An empty disk.
    pub fn device(&self, seed: u64) -> SimDevice {
        let geometry = Geometry {
            capacity: IN_FRONT + self.segments * SEGMENT,
            block: self.block,
            memory_align: 512,
            write_cache: self.write_cache,
        };
        SimDevice::with_geometry(geometry, seed)
    }

    /// How this disk tears and works.
    pub fn prepare(&self, device: &SimDevice) {
        let model = if self.garbage { SectorModel::Garbage } else { SectorModel::OldOrNew };
        device.tears(self.whole_pages, model);
        device.max_delay(self.max_delay);
        device.short_one_in(self.short_one_in);
    }
}

/// The plan of a seed.
pub fn plan(seed: u64) -> (Setup, Vec<Op>) {
    let mut rng = Rng::of(seed, 1);
    let disk = match rng.below(10) {
        0 => Disk::Lying,
        1 => Disk::Failing,
        _ => Disk::Honest,
    };
    let tail = rng.pick(&[Tail::Rewrite, Tail::Pad]);
    let block = rng.pick(&[512, 512, 4096]);
    let setup = Setup {
        disk,
        tail,
        block,
        write_cache: !rng.chance(1, 8),
        whole_pages: rng.chance(1, 3),
        garbage: tail == Tail::Pad && rng.chance(1, 2),
        max_delay: rng.pick(&[0, 1, 3, 3, 8]),
        short_one_in: rng.pick(&[0, 0, 0, 2, 5]),
        segments: rng.pick(&[2, 3, 4, 8]),
        ring_size: rng.pick(&[2, 2, 3, 4, 8, 12]),
        buffer_size: rng.pick(&[16 << 10, 20 << 10, 32 << 10]),
        shutdown: rng.chance(1, 6),
    };
    let mut ops = Vec::new();
    let crashes = rng.below(4);
    for crash in 0..=crashes {
        life(&mut rng, &setup, &mut ops);
        if crash < crashes {
            end(&mut rng, &mut ops);
        }
    }
    ops.push(Op::Remount);
    (setup, ops)
}

/// A mount in which logs come and go faster than the disk has room for: segments are let go and cleaned.
fn churn(rng: &mut Rng, ops: &mut Vec<Op>) {
    let which = |rng: &mut Rng| rng.next() as u32;
    let len = rng.pick(&[200, 700, 3000]);
    for _round in 0..rng.pick(&[1, 2, 4, 6]) {
        for _log in 0..rng.pick(&[1, 1, 2]) {
            ops.push(Op::Make { directory: false });
        }
        ops.push(Op::Spread { len, count: rng.pick(&[20, 60, 200]) * 700 / len });
        if rng.chance(2, 3) {
            ops.push(Op::Log { which: which(rng) });
            ops.push(Op::Remove { which: which(rng), directory: false });
        }
        ops.push(rng.pick(&[Op::Tick, Op::Tick, Op::SyncNow, Op::Settle]));
    }
}

/// A mount in which logs grow and what is old in them goes: by limits, because the store is full, by hand.
fn age(rng: &mut Rng, ops: &mut Vec<Op>) {
    if rng.chance(1, 2) {
        ops.push(Op::DropOldest { on: rng.chance(4, 5) });
    }
    for _log in 0..rng.pick(&[0, 1, 2]) {
        ops.push(Op::Make { directory: false });
        if rng.chance(1, 3) {
            ops.push(limits(rng));
        }
    }
    if rng.chance(1, 2) {
        ops.push(limits(rng));
    }
    let len = rng.pick(&[200, 700, 3000]);
    for _round in 0..rng.pick(&[1, 2, 4, 6]) {
        ops.push(Op::Spread { len, count: rng.pick(&[20, 60, 200]) * 700 / len });
        if rng.chance(1, 3) {
            ops.push(Op::Pass { seconds: rng.pick(&[1, 2, 10]) });
        }
        if rng.chance(1, 3) {
            let which = rng.next() as u32;
            ops.push(match rng.below(8) {
                0 | 1 => limits(rng),
                2 => Op::Trim { at: which },
                3 => Op::Unlink,
                4 => Op::Close { which },
                5 => Op::Grow { segments: 1 + which % 3 },
                _ => Op::Log { which },
            });
        }
        ops.push(match rng.below(8) {
            0 => Op::SyncNow,
            1 => Op::Settle,
            2 => Op::TickCrash { after: rng.below(20) as u32, seed: rng.next() as u32 },
            _ => Op::Tick,
        });
    }
    ops.push(Op::Pass { seconds: rng.pick(&[0, 1, 10]) });
}

/// Limits of a log or of all.
fn limits(rng: &mut Rng) -> Op {
    Op::Limits {
        root: rng.chance(1, 2),
        bytes: rng.pick(&[0, 0, 3000, 20_000, 60_000, u32::MAX]),
        seconds: rng.pick(&[0, 0, 1, 3, 20, u32::MAX]),
        keep_min: rng.pick(&[0, 0, 2500, 30_000, u32::MAX]),
    }
}

/// What happens in one mount. Each has its own mixture, so that rare states are reached by some.
fn life(rng: &mut Rng, setup: &Setup, ops: &mut Vec<Op>) {
    if setup.segments >= 4 && rng.chance(1, 6) {
        return churn(rng, ops);
    }
    if setup.segments >= 3 && rng.chance(1, 6) {
        return age(rng, ops);
    }
    let count = rng.pick(&[0, 1, 3, 8, 15, 30, 60]);
    let longest = rng.pick(&[40, 300, 3000, 8192, 8192]);
    let weights: [u64; 15] = std::array::from_fn(|_| rng.pick(&[0, 1, 1, 3]));
    let weights = {
        let mut weights = weights;
        weights[0] += 4;
        weights
    };
    let total: u64 = weights.iter().sum();
    for _ in 0..count {
        let mut at = rng.below(total);
        let kind = weights.iter().position(|weight| {
            let here = at < *weight;
            at = at.wrapping_sub(*weight);
            here
        });
        let len = length(rng, longest);
        let fill = rng.pick(&[Fill::Bytes, Fill::Bytes, Fill::Bytes, Fill::Zeros, Fill::Magics, Fill::Frames]);
        ops.push(match kind.unwrap_or(0) {
            0 | 1 => Op::Append { len, fill },
            2 => Op::Later { len, fill },
            3 if rng.chance(1, 2) => Op::GiveUp { len },
            3 | 4 => Op::Sync,
            5 => Op::SyncNow,
            6 => Op::Tick,
            7 => Op::Idle,
            8 => Op::Poll,
            9 => Op::Settle,
            10 => Op::Read { at: rng.next() as u32, len: rng.below(20_000) as u32 },
            11 if rng.chance(1, 3) => Op::Mode { mode: rng.below(0o10000) as u32 },
            11 => change(rng),
            12 if rng.chance(1, 6) => Op::Fill { len },
            12 => Op::Append { len: longest, fill },
            13 if rng.chance(1, 4) => Op::Stall,
            13 => Op::Poll,
            _ if setup.disk != Disk::Honest => Op::Fault { which: rng.next() as u32, nth: rng.below(6) as u32 },
            _ => Op::Sync,
        });
    }
}

/// A change of the catalog.
fn change(rng: &mut Rng) -> Op {
    let which = rng.next() as u32;
    match rng.below(16) {
        0..4 if which % 4 == 3 => Op::Trim { at: which / 4 },
        0..4 => Op::Log { which },
        4..7 => Op::Make { directory: rng.chance(1, 3) },
        7 | 8 => Op::Rename { which, replace: rng.chance(1, 2) },
        9 => Op::Unlink,
        10 => Op::Close { which },
        11 => limits(rng),
        12 => Op::DropOldest { on: rng.chance(1, 2) },
        13 => Op::Pass { seconds: which % 8 },
        14 if rng.chance(1, 3) => Op::Grow { segments: 1 + which % 2 },
        _ => Op::Remove { which, directory: rng.chance(1, 3) },
    }
}

fn length(rng: &mut Rng, longest: u32) -> u32 {
    match rng.below(8) {
        0 => 1,
        1 => longest,
        2 => rng.below(64) as u32,
        _ => rng.below(u64::from(longest) + 1) as u32,
    }
}

/// How a mount ends when it does not end well.
fn end(rng: &mut Rng, ops: &mut Vec<Op>) {
    let seed = rng.next() as u32;
    ops.push(match rng.below(9) {
        0 => Op::Remount,
        1 | 2 => Op::Kill { seed },
        3 => Op::CloseCrash { after: rng.below(12) as u32, seed },
        4 => Op::TickCrash { after: rng.below(20) as u32, seed },
        5 if rng.chance(1, 3) => Op::GrowCrash { segments: 1 + seed % 3, after: rng.below(12) as u32, seed },
        _ => Op::Crash { seed },
    });
    if rng.chance(1, 24) {
        // Not mounted.
        ops.push(match seed % 3 {
            0 => Op::Grow { segments: 1 + seed % 2 },
            _ => Op::GrowCrash { segments: 1 + seed % 2, after: rng.below(8) as u32, seed: seed / 3 },
        });
    }
    for _ in 0..2 {
        if rng.chance(1, 4) {
            ops.push(Op::MountCrash { after: rng.below(14) as u32, seed: rng.next() as u32 });
        }
    }
}
