//! Lives that failed once, kept whole: a seed stands for another one as soon as plans change.

use llamafs::store::Tail;

use super::plan::{Disk, Fill, Op, Setup};

/// What they have in common.
const USUAL: Setup = Setup {
    disk: Disk::Lying,
    tail: Tail::Pad,
    block: 512,
    write_cache: true,
    whole_pages: false,
    garbage: false,
    max_delay: 3,
    short_one_in: 0,
    segments: 8,
    ring_size: 2,
    buffer_size: 16 << 10,
    shutdown: false,
};

/// Seed, disk and settings, operations.
pub fn lives() -> Vec<(u64, Setup, Vec<Op>)> {
    use Fill::{Bytes, Frames, Magics, Zeros};
    use Op::{Append, Crash, Fault, GiveUp, Idle, Kill, Later, Mode, Read, Remount, Sync, SyncNow, Tick};
    let add = |len, fill| Append { len, fill };
    vec![
        // A disk that lost both superblock writes of a mount: its number was used again.
        (
            246_000,
            Setup { tail: Tail::Rewrite, max_delay: 0, segments: 4, ring_size: 4, ..USUAL },
            vec![
                add(3000, Bytes),
                SyncNow,
                Fault { which: 1_181_703_672, nth: 4 },
                Fault { which: 568_152_144, nth: 3 },
                Remount,
                add(1, Frames),
                SyncNow,
                Crash { seed: 992_216_807 },
                Sync,
                Crash { seed: 180_347_676 },
                Remount,
            ],
        ),
        // What two flushes wrote could not be told from a torn tail: the ring was full when the second began.
        (
            415_990,
            Setup { disk: Disk::Honest, tail: Tail::Rewrite, max_delay: 8, segments: 2, ..USUAL },
            vec![
                Later { len: 7885, fill: Bytes },
                GiveUp { len: 3725 },
                Sync,
                Idle,
                add(8192, Frames),
                Sync,
                add(7029, Bytes),
                add(7959, Bytes),
                Sync,
                Read { at: 2_620_571_431, len: 2187 },
                Later { len: 8192, fill: Zeros },
                add(8192, Bytes),
                add(8192, Frames),
                Op::Poll,
                Sync,
                Mode { mode: 1657 },
                Kill { seed: 206_955_357 },
                Op::Poll,
            ],
        ),
        // The first frame of a mount was lost: what an older, cut mount had left behind it was read for live frames.
        (
            484_178,
            USUAL,
            vec![
                add(5957, Bytes),
                add(3295, Zeros),
                add(2831, Bytes),
                Fault { which: 2_888_248_395, nth: 5 },
                Later { len: 39, fill: Frames },
                add(7869, Magics),
                Crash { seed: 3_633_144_734 },
                add(7465, Zeros),
                Fault { which: 813_211_836, nth: 0 },
                add(5797, Magics),
                add(6647, Frames),
                Sync,
                Idle,
                Crash { seed: 3_120_313_588 },
                Tick,
            ],
        ),
        // The same, one mount later.
        (
            484_178,
            USUAL,
            vec![
                add(5957, Bytes),
                add(2831, Bytes),
                add(7869, Magics),
                Crash { seed: 3_633_144_734 },
                Fault { which: 813_211_836, nth: 0 },
                add(5797, Magics),
                Sync,
                Idle,
                Crash { seed: 3_120_313_588 },
                Tick,
                Crash { seed: 3_264_441_780 },
                Remount,
            ],
        ),
        (
            534_280,
            Setup { garbage: true, max_delay: 1, buffer_size: 20 << 10, ..USUAL },
            vec![
                add(300, Magics),
                add(172, Frames),
                Op::Fill { len: 282 },
                Crash { seed: 612_700_182 },
                add(2207, Bytes),
                Sync,
                Fault { which: 3_725_742_048, nth: 0 },
                Mode { mode: 4078 },
                SyncNow,
                Kill { seed: 2_420_273_682 },
                add(578, Magics),
            ],
        ),
        // A mount began in the next segment, and what was left in front of it was called damage.
        (
            609_398,
            Setup {
                disk: Disk::Honest,
                whole_pages: true,
                garbage: true,
                segments: 3,
                ring_size: 4,
                buffer_size: 32 << 10,
                shutdown: true,
                ..USUAL
            },
            vec![
                Later { len: 4, fill: Bytes },
                Sync,
                add(8, Frames),
                Tick,
                Op::Fill { len: 39 },
                Crash { seed: 4_232_620_586 },
                add(4752, Bytes),
                Sync,
                Crash { seed: 821_655_746 },
                Idle,
            ],
        ),
        // All that a full store held went at once, and its checkpoint named no segment.
        (
            79_738,
            Setup {
                disk: Disk::Failing,
                tail: Tail::Rewrite,
                block: 4096,
                max_delay: 8,
                segments: 4,
                buffer_size: 32 << 10,
                ..USUAL
            },
            vec![
                add(1763, Zeros),
                Later { len: 1, fill: Bytes },
                add(2559, Bytes),
                Mode { mode: 2905 },
                Op::Limits { root: true, bytes: 0, seconds: 1, keep_min: 0 },
                add(1015, Zeros),
                Later { len: 1996, fill: Bytes },
                Tick,
                add(1346, Magics),
                Op::DropOldest { on: false },
                Op::Fill { len: 1 },
                Tick,
                Op::CloseCrash { after: 2, seed: 1_901_910_471 },
                Op::Fill { len: 7198 },
            ],
        ),
        // A limit that met what could not be read took all behind it.
        (
            127,
            Setup {
                disk: Disk::Honest,
                tail: Tail::Rewrite,
                segments: 4,
                ring_size: 3,
                buffer_size: 32 << 10,
                ..USUAL
            },
            vec![
                Op::Limits { root: false, bytes: 20_000, seconds: 20, keep_min: u32::MAX },
                Op::Spread { len: 200, count: 700 },
                SyncNow,
                Op::TickCrash { after: 0, seed: 1_350_095_419 },
            ],
        ),
        // A power failure between the two superblocks of a larger store was called damage.
        (
            133,
            Setup {
                disk: Disk::Honest,
                tail: Tail::Rewrite,
                block: 4096,
                write_cache: false,
                short_one_in: 2,
                segments: 4,
                buffer_size: 32 << 10,
                shutdown: true,
                ..USUAL
            },
            vec![Sync, Op::GrowCrash { segments: 1, after: 2, seed: 2_201_823_759 }, Op::Make { directory: false }],
        ),
        // A store that was full to the last bytes when it was mounted grew, and the frame that begins a mount was missing.
        (
            609_242,
            Setup {
                disk: Disk::Honest,
                tail: Tail::Rewrite,
                block: 4096,
                max_delay: 8,
                segments: 2,
                buffer_size: 20 << 10,
                ..USUAL
            },
            vec![
                add(300, Fill::Frames),
                Op::Make { directory: false },
                Op::Fill { len: 1 },
                add(56, Zeros),
                Op::Tick,
                add(1, Bytes),
                Sync,
                Op::Read { at: 871_871_810, len: 19_222 },
                Op::Crash { seed: 14_568_731 },
                Op::Make { directory: false },
                Op::Grow { segments: 2 },
                Op::Unlink,
                Sync,
                Op::GrowCrash { segments: 2, after: 0, seed: 1_250_975_332 },
                Op::MountCrash { after: 3, seed: 1_208_240_644 },
            ],
        ),
        // A write that went astray took the only checkpoint and the first segment's header: a log began later.
        (
            150_880,
            Setup { buffer_size: 32 << 10, ..USUAL },
            vec![
                GiveUp { len: 3921 },
                add(8192, Bytes),
                add(8192, Frames),
                add(8192, Bytes),
                Fault { which: 163_869_996, nth: 0 },
                add(6748, Frames),
                add(6043, Bytes),
                add(8192, Bytes),
                Sync,
                Op::Settle,
                add(4036, Bytes),
                Op::CloseCrash { after: 1, seed: 1_798_889_049 },
                Op::Make { directory: false },
            ],
        ),
        // The cleaner found a record that the device would not read, and moved those behind it: what the log takes was a guess.
        (
            216_118,
            Setup {
                disk: Disk::Failing,
                block: 4096,
                write_cache: false,
                whole_pages: true,
                max_delay: 0,
                short_one_in: 2,
                segments: 4,
                buffer_size: 20 << 10,
                ..USUAL
            },
            vec![
                add(8192, Bytes),
                Op::CloseCrash { after: 5, seed: 2_589_437_643 },
                Op::Make { directory: false },
                Op::Make { directory: false },
                Op::Spread { len: 200, count: 210 },
                Tick,
                Op::Remove { which: 931_874_746, directory: false },
                Tick,
                Fault { which: 205_597_331, nth: 3 },
                Op::Fill { len: 1 },
                Fault { which: 2_462_782_408, nth: 1 },
                Fault { which: 2_417_867_669, nth: 5 },
                Read { at: 1_015_272_760, len: 8972 },
                GiveUp { len: 4841 },
                Mode { mode: 2935 },
                Remount,
                add(5608, Bytes),
            ],
        ),
    ]
}
