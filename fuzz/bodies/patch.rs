//! What an input does to a valid store: a list of patches, either damage (bits flipped, pieces lost or misdirected;
//! no checksum is ever right by design) or forgery (fields set, and the checksums put right).

use std::ops::Range;

use llamafs::format::{
    CatalogChange, CatalogEntry, CatalogRecord, Checkpoint, NodeKind, ROOT_ID, SavedRange, SegmentHeader, SegmentState,
    Summarised, Summary, Superblock,
};
use llamafs::io::SimDevice;
use llamafs::store::FrameInfo;

use super::forge;
use super::images::{LOG, SEGMENT, Shape, UUID};
use super::input::Input;

/// Patches of one input, at most.
const MOST: usize = 24;
const BLOCK: usize = 4096;
const HEADER_BYTES: usize = 512;

/// Places on the device that were changed.
#[derive(Default)]
pub struct Patched {
    pub places: Vec<Range<u64>>,
}

impl Patched {
    pub fn touches(&self, place: &Range<u64>) -> bool {
        self.places.iter().any(|patched| patched.start < place.end && place.start < patched.end)
    }

    fn poke(&mut self, device: &SimDevice, at: u64, bytes: &[u8]) {
        let old = device.peek(at, bytes.len());
        let differs = |(a, b): (&u8, &u8)| a != b;
        let Some(first) = old.iter().zip(bytes).position(differs) else { return };
        let last = old.iter().zip(bytes).rposition(differs).unwrap_or(first);
        device.poke(at, bytes);
        self.places.push(at + first as u64..at + last as u64 + 1);
    }

    fn edit(&mut self, device: &SimDevice, at: u64, len: usize, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = device.peek(at, len);
        change(&mut bytes);
        bytes.truncate(len);
        self.poke(device, at, &bytes);
    }
}

/// Bits flipped, runs zeroed, pieces copied elsewhere.
pub fn damage(shape: &Shape, device: &SimDevice, input: &mut Input<'_>) -> Patched {
    let mut patched = Patched::default();
    for _ in 0..MOST {
        if input.is_empty() {
            break;
        }
        let kind = input.u8();
        let (at, len) = place(shape, kind >> 2, input);
        match kind & 3 {
            0 | 1 => {
                let from = input.below(len);
                let count = 1 + usize::from(input.u8() % 32);
                let flips = input.bytes(count).to_vec();
                patched.edit(device, at, len, |bytes| {
                    bytes.iter_mut().skip(from).zip(flips).for_each(|(byte, flip)| *byte ^= flip);
                });
            }
            2 => {
                let (from, count, fill) = (input.below(len), 1 + usize::from(input.u16()), input.u8());
                let fill = if fill < 240 { 0 } else { 0xff };
                patched.edit(device, at, len, |bytes| bytes.iter_mut().skip(from).take(count).for_each(|b| *b = fill));
            }
            _ => {
                // A write that went elsewhere.
                let kind = input.u8();
                let (source, source_len) = place(shape, kind, input);
                let bytes = device.peek(source, source_len.min(len));
                patched.poke(device, at, &bytes);
            }
        }
    }
    patched
}

/// One of the store's structures: its place and length.
fn place(shape: &Shape, kind: u8, input: &mut Input<'_>) -> (u64, usize) {
    let superblock = &shape.superblock;
    let which = input.u8();
    match kind % 8 {
        0 => (u64::from(which & 1) * 65_536, BLOCK),
        1 => (
            superblock.checkpoint_start + u64::from(which & 1) * superblock.checkpoint_bytes,
            superblock.checkpoint_bytes as usize,
        ),
        2 => (superblock.data_start + u64::from(which) % superblock.segment_count * SEGMENT as u64, HEADER_BYTES),
        3 => {
            let block = u64::from(which) << 8 | u64::from(input.u8());
            (block % (superblock.device_bytes / BLOCK as u64) * BLOCK as u64, BLOCK)
        }
        _ => {
            let frame = frame(shape, usize::from(which) << 8 | usize::from(input.u8()));
            (frame.device_offset, frame.total as usize)
        }
    }
}

fn frame(shape: &Shape, which: usize) -> &FrameInfo {
    &shape.frames[which % shape.frames.len()]
}

/// Fields set to anything, with right checksums.
pub fn forgery(shape: &Shape, device: &SimDevice, input: &mut Input<'_>) -> Patched {
    let mut patched = Patched::default();
    for _ in 0..MOST {
        if input.is_empty() {
            break;
        }
        match input.u8() % 8 {
            0 => forge_superblock(shape, device, input, &mut patched),
            1 | 2 => forge_checkpoint(shape, device, input, &mut patched),
            3 => forge_segment(shape, device, input, &mut patched),
            4 | 5 => forge_frame(shape, device, input, &mut patched),
            6 => new_frame(shape, device, input, &mut patched),
            _ => forge_bytes(shape, device, input, &mut patched),
        }
    }
    patched
}

fn forge_superblock(shape: &Shape, device: &SimDevice, input: &mut Input<'_>, patched: &mut Patched) {
    let at = u64::from(input.u8() & 1) * 65_536;
    let Ok(mut superblock) = Superblock::decode(&device.peek(at, BLOCK)) else { return };
    let field = input.u8();
    let mut set = |old: &mut u64| *old = input.near(*old, &shape.known);
    let mut set32 = |old: &mut u32| {
        let mut wide = u64::from(*old);
        set(&mut wide);
        *old = wide as u32;
    };
    match field % 18 {
        0 => set(&mut superblock.generation),
        1 => set(&mut superblock.feature_compat),
        2 => set(&mut superblock.feature_ro_compat),
        3 => set(&mut superblock.feature_incompat),
        4 => set32(&mut superblock.block_size),
        5 => set32(&mut superblock.segment_size),
        6 => set(&mut superblock.segment_count),
        7 => set(&mut superblock.data_start),
        8 => set(&mut superblock.checkpoint_start),
        9 => set(&mut superblock.checkpoint_bytes),
        10 => set(&mut superblock.device_bytes),
        11 => set(&mut superblock.epoch),
        12 => superblock.clean = !superblock.clean,
        13 => superblock.worm = !superblock.worm,
        14 => set(&mut superblock.stable_lsn),
        15 => set(&mut superblock.end_lsn),
        16 => set32(&mut superblock.max_record),
        _ => superblock.label = String::from_utf8_lossy(input.bytes(usize::from(field))).into_owned(),
    }
    patched.poke(device, at, superblock.encode().as_slice());
}

fn forge_checkpoint(shape: &Shape, device: &SimDevice, input: &mut Input<'_>, patched: &mut Patched) {
    let room = shape.superblock.checkpoint_bytes;
    let at = shape.superblock.checkpoint_start + u64::from(input.u8() & 1) * room;
    let Ok(mut checkpoint) = Checkpoint::decode(&device.peek(at, room as usize), &UUID) else { return };
    let (field, which) = (input.u8(), usize::from(input.u8()));
    let nodes = checkpoint.nodes.len().max(1);
    if let Some(node) = checkpoint.nodes.get_mut(which % nodes) {
        match field % 24 {
            0 => node.id = input.near(u64::from(node.id), &[]) as u32,
            1 => node.size = input.near(node.size, &shape.known),
            2 => node.head = input.near(node.head, &shape.known),
            3 => node.name = input.bytes(which).to_vec(),
            4 => node.device_bytes = input.near(node.device_bytes, &shape.known),
            5 => node.flags = input.u32(),
            6 => {
                let more = node.clone();
                let count = 1 + which as u32 / 16;
                checkpoint.nodes.extend((0..count).map(|n| {
                    let mut node = more.clone();
                    node.id = node.id.wrapping_add(1).wrapping_add(n << (which % 16));
                    node.name = format!("more-{n}").into_bytes();
                    node.kind = [NodeKind::Log, NodeKind::Directory][n as usize % 2];
                    node
                }));
            }
            20 => node.parent = input.near(u64::from(node.parent), &[u64::from(u32::MAX)]) as u32,
            21 => node.first_lsn = input.near(node.first_lsn, &shape.known),
            22 => node.end_lsn = input.near(node.end_lsn, &shape.known),
            23 => checkpoint.next_id = input.near(u64::from(checkpoint.next_id), &[]) as u32,
            _ => {}
        }
    }
    let segment = checkpoint.segments.len().saturating_sub(1).min(which);
    if let Some(segment) = checkpoint.segments.get_mut(segment) {
        match field % 24 {
            7 => segment.sequence = input.near(segment.sequence, &shape.known),
            8 => segment.physical = input.near(u64::from(segment.physical), &[]) as u32,
            9 => segment.epoch = input.near(segment.epoch, &[]),
            10 => {
                let states = [SegmentState::Free, SegmentState::Sealed, SegmentState::Retired, SegmentState::Bad];
                segment.state = states[which % states.len()];
            }
            11 => {
                let copy = *segment;
                checkpoint.segments.push(copy);
            }
            12 => checkpoint.segments.truncate(which % 4),
            _ => {}
        }
    }
    let (offset, lsn) = (input.near(0, &shape.known), input.near(0, &shape.known));
    match field % 24 {
        13 => checkpoint.generation = lsn,
        14 => checkpoint.epoch = input.near(checkpoint.epoch, &[]),
        15 => checkpoint.recovery_lsn = lsn,
        16 => checkpoint.stable_lsn = lsn,
        17 => checkpoint.index.iter_mut().for_each(|index| index.granularity = lsn),
        18 => {
            for index in &mut checkpoint.index {
                index.points.push((offset, lsn));
                index.points.sort_unstable();
            }
        }
        19 => checkpoint.index.iter_mut().for_each(|index| index.log_id = lsn as u32),
        _ => {}
    }
    match field {
        240..248 => {
            let range = range(shape, input, LOG);
            match which.checked_rem(checkpoint.ranges.len()).filter(|_| field % 2 == 0) {
                Some(at) => checkpoint.ranges[at] = range,
                None => checkpoint.ranges.push(range),
            }
        }
        248.. => {
            if let Some(at) = which.checked_rem(checkpoint.summarised.len()) {
                let total = input.near(100, &shape.known) as u32;
                let places = [Summarised::No, Summarised::Here, Summarised::At { lsn, total }];
                checkpoint.summarised[at] = places[usize::from(input.u8()) % 3];
            }
        }
        _ => {}
    }
    let bytes = checkpoint.encode();
    if bytes.len() as u64 <= room {
        patched.poke(device, at, &bytes);
    }
}

fn forge_segment(shape: &Shape, device: &SimDevice, input: &mut Input<'_>, patched: &mut Patched) {
    let physical = u64::from(input.u8()) % shape.superblock.segment_count;
    let at = shape.superblock.data_start + physical * SEGMENT as u64;
    let mut header = SegmentHeader::decode(&device.peek(at, BLOCK), &UUID).unwrap_or(SegmentHeader {
        uuid: UUID,
        sequence: physical + 1,
        first_lsn: (physical + 1) * SEGMENT as u64,
        epoch: 2,
        physical: physical as u32,
        next_physical: None,
        created_ns: 1,
        stable_lsn: 0,
    });
    match input.u8() % 6 {
        0 => header.sequence = input.near(header.sequence, &[]),
        1 => header.first_lsn = input.near(header.first_lsn, &shape.known),
        2 => header.epoch = input.near(header.epoch, &[]),
        3 => header.next_physical = Some(input.near(physical, &[]) as u32),
        4 => header.stable_lsn = input.near(header.stable_lsn, &shape.known),
        _ => {
            header.sequence = input.near(header.sequence, &[]);
            header.first_lsn = header.sequence.wrapping_mul(SEGMENT as u64);
        }
    }
    patched.poke(device, at, &header.encode(BLOCK as u32));
}

/// Change bytes of a frame and put its checksum right.
fn forge_frame(shape: &Shape, device: &SimDevice, input: &mut Input<'_>, patched: &mut Patched) {
    let frame = frame(shape, usize::from(input.u16()));
    let rest = SEGMENT - (frame.device_offset - shape.superblock.data_start) as usize % SEGMENT;
    let (from, count) = (input.below(rest.min(96)), usize::from(input.u8() % 24));
    let new = input.bytes(count);
    let epoch = if input.u8() < 200 { frame.epoch } else { input.near(frame.epoch, &[]) };
    patched.edit(device, frame.device_offset, rest, |bytes| {
        bytes.iter_mut().skip(from).zip(new).for_each(|(byte, new)| *byte = *new);
        forge::frame(bytes, &UUID, frame.lsn, epoch);
    });
}

/// A frame that was never written, at the place of another or at the end of the log.
fn new_frame(shape: &Shape, device: &SimDevice, input: &mut Input<'_>, patched: &mut Patched) {
    let which = usize::from(input.u16());
    let near = frame(shape, which);
    let (mut lsn, mut at) = (near.lsn, near.device_offset);
    if which >= 0x8000 {
        let last = &shape.frames[shape.frames.len() - 1];
        (lsn, at) = (last.lsn + last.total, last.device_offset + last.total);
    }
    let rest = SEGMENT - (at - shape.superblock.data_start) as usize % SEGMENT;
    let kinds = [*b"DATA", *b"META", *b"EPOC", *b"VOID", *b"MARK", *b"PADD"];
    let kind = match input.u8() {
        240..248 => *b"MOVD",
        248.. => *b"SUMM",
        n => kinds[usize::from(n) % kinds.len()],
    };
    let (log, epoch) = (input.near(u64::from(LOG), &[]) as u32, input.near(near.epoch, &[]));
    let mut bytes = kind.to_vec();
    bytes.extend([0; 4]);
    if matches!(&kind, b"MARK" | b"PADD") {
        bytes.extend(input.near(near.total, &shape.known).to_le_bytes());
    } else {
        let (offset, time) = (input.near(near.offset + near.len, &shape.known), input.u32());
        let payload = match &kind {
            b"EPOC" => {
                [epoch, input.near(near.epoch, &[]), input.near(lsn, &shape.known), input.near(lsn, &shape.known)]
                    .iter()
                    .flat_map(|number| number.to_le_bytes())
                    .collect()
            }
            b"META" => meta(shape, input, log),
            b"SUMM" => summary(shape, input, log),
            _ => {
                let count = usize::from(input.u16()) % 2000;
                let mut payload = input.bytes(count).to_vec();
                payload.resize(count, b'f');
                payload
            }
        };
        bytes.extend((payload.len() as u32).to_le_bytes());
        bytes.extend(log.to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        bytes.extend(u64::from(time).to_le_bytes());
        bytes.extend(payload);
    }
    bytes.resize(bytes.len().next_multiple_of(16), 0);
    bytes.truncate(rest);
    forge::frame(&mut bytes, &UUID, lsn, epoch);
    patched.poke(device, at, &bytes);
}

/// A run of records that may be anywhere.
fn range(shape: &Shape, input: &mut Input<'_>, log_id: u32) -> SavedRange {
    SavedRange {
        log_id: input.near(u64::from(log_id), &[]) as u32,
        len: input.near(1000, &shape.known) as u32,
        bytes: input.near(1000, &shape.known) as u32,
        offset: input.near(0, &shape.known),
        lsn: input.near(SEGMENT as u64, &shape.known),
        time_ns: input.near(0, &[]),
    }
}

fn summary(shape: &Shape, input: &mut Input<'_>, log_id: u32) -> Vec<u8> {
    let sequence = input.near(1, &[2, 3, 9]);
    let count = input.u8() % 8;
    Summary { sequence, ranges: (0..count).map(|_| range(shape, input, log_id)).collect() }.encode()
}

/// A catalog record with some fields set, once or several times.
fn meta(shape: &Shape, input: &mut Input<'_>, log_id: u32) -> Vec<u8> {
    let size = input.near(shape.log.len() as u64, &shape.known);
    let name_len = usize::from(input.u8());
    let mut name = input.bytes(name_len).to_vec();
    if name.is_empty() {
        name = b"log".to_vec();
    }
    let entry = CatalogEntry {
        id: log_id,
        parent: if input.u8() < 200 { ROOT_ID } else { input.u32() },
        kind: [NodeKind::Log, NodeKind::Directory][usize::from(input.u8()) % 2],
        mode: input.u32() & 0o17777,
        flags: u32::from(input.u8()),
        size,
        head: input.near(0, &shape.known),
        device_bytes: input.near(0, &shape.known),
        first_lsn: input.near(0, &shape.known),
        end_lsn: input.near(0, &shape.known),
        name,
        ..CatalogEntry::default()
    };
    let changes = [CatalogChange::Attributes, CatalogChange::Named, CatalogChange::Gone];
    let record = CatalogRecord { change: changes[usize::from(input.u8()) % 3], entry };
    record.encode().repeat(1 + usize::from(input.u8() % 3))
}

/// Change bytes anywhere, and put the checksum of whatever structure begins there right.
fn forge_bytes(shape: &Shape, device: &SimDevice, input: &mut Input<'_>, patched: &mut Patched) {
    let kind = input.u8() % 3;
    let (at, len) = place(shape, kind, input);
    let (from, count) = (input.below(len), usize::from(input.u8() % 48));
    let new = input.bytes(count);
    patched.edit(device, at, len, |bytes| {
        bytes.iter_mut().skip(from).zip(new).for_each(|(byte, new)| *byte = *new);
        match kind {
            0 => forge::superblock(bytes),
            1 => forge::checkpoint(bytes),
            _ => forge::segment(bytes),
        }
    });
}
