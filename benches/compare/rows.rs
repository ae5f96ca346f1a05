//! What is measured: each row is one kind of work, done by each of its contestants.

use super::contestant::Contestant::{self, Ext4, Fio, Llamafs, Null, NullUring, Raw, RawUnflushed, Unflushed, Xfs};
use super::contestant::SYNC;
use super::job::Durable;

/// One kind of work.
pub struct Row {
    /// Name in the raw data.
    pub id: &'static str,
    pub title: &'static str,
    pub kind: Kind,
    pub contestants: &'static [Contestant],
    /// Mount options of llamafs; `sync` counts for the others too.
    pub options: &'static str,
    /// The rivals' files take appends only (`chattr +a`).
    pub append_only: bool,
    /// Part of the short run that looks for a loss of speed.
    pub quick: bool,
}

impl Row {
    /// Names of it in the raw data: reading gives two.
    pub fn ids(&self) -> Vec<&'static str> {
        if let Kind::Read { .. } = self.kind { vec![COLD, WARM] } else { vec![self.id] }
    }
}

/// How the work is done.
#[derive(Clone, Copy)]
pub enum Kind {
    /// So many seconds long, each process as fast as it can.
    Timed { record: usize, processes: usize, one_file: bool, durable: Durable },
    /// So many MiB, by one process.
    Bulk { record: usize, mebibytes: u64 },
    /// Read what was written before: after a remount, and once more.
    Read { mebibytes: u64 },
    /// Read records here and there of what was written before a remount.
    Anywhere { record: usize, mebibytes: u64 },
    /// One process appends, another reads it all.
    Followed { record: usize },
    /// Mount what was synced before a crash.
    Crash { mebibytes: u64 },
}

/// Requests that the raw rivals have on their way in bulk work.
pub const RAW_DEPTH: usize = 4;
/// The unit of durable raw writes.
pub const RAW_BLOCK: usize = 4096;
/// Bulk work on the device of 2 GiB.
const BULK_MIB: u64 = 1024;
const SMALL_MIB: u64 = 256;
const MIB: usize = 1 << 20;

const SYNCED: fn(usize, bool) -> Kind =
    |processes, one_file| Kind::Timed { record: 100, processes, one_file, durable: Durable::Each };

/// All rows, those of the targets first.
pub fn rows() -> Vec<Row> {
    let row = |id, title, kind, contestants| Row {
        id,
        title,
        kind,
        contestants,
        options: "",
        append_only: false,
        quick: false,
    };
    let single = |record, durable| Kind::Timed { record, processes: 1, one_file: true, durable };
    vec![
        Row {
            quick: true,
            ..row(
                "sync-1",
                "100 B + fdatasync, 1 process",
                SYNCED(1, true),
                &[Llamafs, Ext4, Xfs, Raw, Fio, RawUnflushed, Unflushed],
            )
        },
        Row {
            quick: true,
            ..row("sync-8", "100 B + fdatasync, 8 processes, one file each", SYNCED(8, false), &[Llamafs, Ext4, Xfs])
        },
        Row {
            options: "parallel",
            quick: true,
            ..row("sync-8-one", "100 B + fdatasync, 8 processes on one file", SYNCED(8, true), &[Llamafs, Ext4, Xfs])
        },
        Row {
            quick: true,
            ..row("sync-32", "100 B + fdatasync, 32 processes, one file each", SYNCED(32, false), &[Llamafs, Ext4, Xfs])
        },
        Row {
            quick: true,
            ..row(
                "bulk-1m",
                "1 MiB appends, fsync at the end",
                Kind::Bulk { record: MIB, mebibytes: BULK_MIB },
                &[Llamafs, Ext4, Xfs, Raw, Fio, Unflushed, Null, NullUring],
            )
        },
        Row {
            quick: true,
            ..row(
                "bulk-64k",
                "64 KiB appends, fsync at the end",
                Kind::Bulk { record: 64 << 10, mebibytes: BULK_MIB },
                &[Llamafs, Ext4, Xfs, Null, NullUring],
            )
        },
        Row {
            quick: true,
            ..row(
                "unsynced-100",
                "100 B unsynced, 1 process",
                single(100, Durable::Never),
                &[Llamafs, Ext4, Xfs, Null, NullUring],
            )
        },
        // On the same transport as the first of these.
        Row {
            options: "nouring",
            ..row(
                "unsynced-100-dev",
                "100 B unsynced, 1 process, by /dev/fuse",
                single(100, Durable::Never),
                &[Llamafs, Null],
            )
        },
        row(
            "unsynced-4k",
            "4 KiB appends, fsync at the end",
            Kind::Bulk { record: 4096, mebibytes: SMALL_MIB },
            &[Llamafs, Ext4, Xfs, Null, NullUring],
        ),
        Row {
            quick: true,
            ..row(
                "read",
                "sequential read",
                Kind::Read { mebibytes: BULK_MIB },
                &[Llamafs, Ext4, Xfs, Raw, Fio, Null, NullUring],
            )
        },
        row("sync-1-4k", "4 KiB + fdatasync, 1 process", single(4096, Durable::Each), &[Llamafs, Ext4, Xfs]),
        row("dsync-1", "100 B with O_DSYNC, 1 process", single(100, Durable::Dsync), &[Llamafs, Ext4, Xfs]),
        row("sync-1-1k", "1 KiB + fdatasync, 1 process", single(1024, Durable::Each), &[Llamafs, Ext4, Xfs]),
        row("sync-1-64k", "64 KiB + fdatasync, 1 process", single(64 << 10, Durable::Each), &[Llamafs, Ext4, Xfs]),
        row("sync-1-1m", "1 MiB + fdatasync, 1 process", single(MIB, Durable::Each), &[Llamafs, Ext4, Xfs, Raw, Fio]),
        row("sync-2", "100 B + fdatasync, 2 processes, one file each", SYNCED(2, false), &[Llamafs, Ext4, Xfs]),
        Row {
            options: "parallel",
            ..row("sync-2-one", "100 B + fdatasync, 2 processes on one file", SYNCED(2, true), &[Llamafs, Ext4, Xfs])
        },
        Row {
            options: "parallel",
            ..row("sync-32-one", "100 B + fdatasync, 32 processes on one file", SYNCED(32, true), &[Llamafs, Ext4, Xfs])
        },
        row(
            "sync-8-one-plain",
            "100 B + fdatasync, 8 processes on one file, default options",
            SYNCED(8, true),
            &[Llamafs, Ext4, Xfs],
        ),
        Row {
            options: SYNC,
            ..row(
                "mount-sync",
                "100 B, mounted with -o sync, 1 process",
                single(100, Durable::Never),
                &[Llamafs, Ext4, Xfs],
            )
        },
        Row {
            append_only: true,
            ..row("chattr", "100 B + fdatasync, 1 process, chattr +a", SYNCED(1, true), &[Llamafs, Ext4, Xfs])
        },
        row(
            ANYWHERE,
            "4 KiB reads here and there of 1 GiB of such records",
            Kind::Anywhere { record: 4096, mebibytes: BULK_MIB },
            &[Llamafs, Ext4, Xfs],
        ),
        row(
            "followed",
            "100 B unsynced, 1 process, another reads it all",
            Kind::Followed { record: 100 },
            &[Llamafs, Ext4, Xfs],
        ),
        row("crash", "mount after a crash", Kind::Crash { mebibytes: SMALL_MIB }, &[Llamafs, Ext4, Xfs]),
        row("every-100", "100 B, fdatasync after every 100", single(100, Durable::Every(100)), &[Llamafs, Ext4, Xfs]),
    ]
}

/// Row of reads here and there.
pub const ANYWHERE: &str = "anywhere-4k";
/// Row of the first read after a mount, in the raw data.
pub const COLD: &str = "read-cold";
/// Row of the read after it.
pub const WARM: &str = "read-warm";

/// What is compared.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Figure {
    /// Operations a second: higher is better.
    Rate,
    /// Latency of one in a thousand: the rival's by ours.
    Tail,
}

/// A ratio that is wanted.
pub struct Target {
    pub row: &'static str,
    pub rival: Contestant,
    pub figure: Figure,
    pub at_least: f64,
}

impl Target {
    /// The raw device is at least what the better of two programs makes of it.
    pub fn is_rival(&self, who: Contestant) -> bool {
        who == self.rival || (self.rival == Raw && who == Fio)
    }
}

/// Of one row and one figure.
const fn target(row: &'static str, rival: Contestant, figure: Figure, at_least: f64) -> Target {
    Target { row, rival, figure, at_least }
}

/// The ratios of the target table.
pub const TARGETS: [Target; 17] = [
    target("sync-1", Ext4, Figure::Rate, 2.0),
    target("sync-1", Xfs, Figure::Rate, 1.4),
    target("sync-1", Raw, Figure::Rate, 0.85),
    target("sync-8", Ext4, Figure::Rate, 2.0),
    target("sync-8", Xfs, Figure::Rate, 2.0),
    target("sync-8-one", Ext4, Figure::Rate, 2.0),
    target("sync-8-one", Xfs, Figure::Rate, 2.0),
    target("sync-32", Ext4, Figure::Rate, 2.0),
    target("bulk-1m", Raw, Figure::Rate, 0.90),
    target("bulk-1m", Ext4, Figure::Rate, 2.5),
    target("bulk-64k", Ext4, Figure::Rate, 1.5),
    target("unsynced-100", Null, Figure::Rate, 0.95),
    target("unsynced-100", NullUring, Figure::Rate, 0.95),
    target("unsynced-100-dev", Null, Figure::Rate, 0.95),
    target(COLD, Raw, Figure::Rate, 0.85),
    target(WARM, Ext4, Figure::Rate, 0.9),
    target("sync-8", Ext4, Figure::Tail, 1.0),
];

/// Bytes of log space for each byte of payload: row, at most.
pub const SPACE: [(&str, f64); 3] = [("sync-1", 1.8), ("unsynced-100", 1.5), ("unsynced-4k", 1.02)];
/// Resident memory of the daemon, in MiB, under any of the loads.
pub const MEMORY_MIB: f64 = 64.0;
