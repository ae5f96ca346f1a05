//! Every decoder of the format on any bytes, as they are and with their checksum put right: no panic, nothing large
//! allocated, and what decodes is encoded to the same again.

use llamafs::format::catalog::is_valid_name;
use llamafs::format::frame::{decode, decode_epoch, encode_mark, encode_pad, encode_void, infer_epoch, peek};
use llamafs::format::{
    CatalogEntry, CatalogRecord, Checkpoint, EpochRecord, FRAME_ALIGN, FrameHead, FrameKind, FrameSeed, Kind,
    SegmentHeader, Summary, Superblock, frame, known_signature,
};

use super::forge;
use super::input::Input;

const UUID: [u8; 16] = *b"a store of fuzz!";
/// Epochs looked at of the endless run that a byte may mean.
const EPOCHS: usize = 1000;

pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let decoder = match input.u8() {
        240.. => summary,
        n => numbered(n % 7),
    };
    decoder(input);
}

fn numbered(n: u8) -> fn(Input<'_>) {
    match n {
        0 => superblock,
        1 => segment,
        2 => frame_at,
        3 => checkpoint,
        4 => entry,
        5 => signature,
        _ => epochs,
    }
}

fn summary(mut input: Input<'_>) {
    let bytes = input.rest();
    let Ok(summary) = Summary::decode(bytes) else { return };
    assert_eq!(summary.encode(), bytes, "there is one way to write it");
    assert_eq!(Summary::encoded_len(summary.ranges.len()), bytes.len());
}

fn superblock(mut input: Input<'_>) {
    let mut bytes = input.rest().to_vec();
    check_superblock(&bytes);
    forge::superblock(&mut bytes);
    check_superblock(&bytes);
}

fn check_superblock(bytes: &[u8]) {
    let Ok(superblock) = Superblock::decode(bytes) else { return };
    assert_eq!(Superblock::decode(superblock.encode().as_slice()).as_ref(), Ok(&superblock));
    // What the geometry promises to whoever computes with it.
    let last = superblock.segment_offset((superblock.segment_count - 1) as u32).expect("the last segment has a place");
    assert!(last + u64::from(superblock.segment_size) <= superblock.device_bytes);
    assert!(superblock.checkpoint_start + 2 * superblock.checkpoint_bytes <= superblock.data_start);
    assert_eq!(superblock.segment_offset(superblock.segment_count as u32), None);
}

fn segment(mut input: Input<'_>) {
    let mut bytes = input.rest().to_vec();
    check_segment(&bytes);
    forge::segment(&mut bytes);
    check_segment(&bytes);
}

fn check_segment(bytes: &[u8]) {
    let Ok(header) = SegmentHeader::decode(bytes, &UUID) else { return };
    assert_eq!(SegmentHeader::decode(&header.encode(bytes.len() as u32), &UUID), Ok(header));
}

fn frame_at(mut input: Input<'_>) {
    let epoch = input.near(7, &[]);
    let lsn = input.near(4096, &[]);
    let max_payload = input.u32() as usize;
    let mut bytes = input.rest().to_vec();
    check_frame(&bytes, epoch, lsn, max_payload);
    for lsn in [lsn, lsn & !15] {
        forge::frame(&mut bytes, &UUID, lsn, epoch);
        check_frame(&bytes, epoch, lsn, max_payload);
    }
}

fn check_frame(bytes: &[u8], epoch: u64, lsn: u64, max_payload: usize) {
    let seed = FrameSeed::new(&UUID, epoch);
    let peeked = peek(bytes);
    if let Ok(frame) = decode(&seed, lsn, bytes, max_payload) {
        let peeked = peeked.expect("what decodes has a header");
        assert_eq!((peeked.kind, peeked.total), (frame.kind, frame.total));
        assert!(frame.total > 0 && frame.total.is_multiple_of(FRAME_ALIGN as u64) && lsn.is_multiple_of(16));
        assert!(frame.payload.len() <= max_payload);
        same_again(bytes, &seed, lsn, &frame);
    }
    if let Ok((frame, record)) = decode_epoch(&UUID, lsn, bytes) {
        assert_eq!(frame.payload, record.encode());
        assert!(record.previous_epoch < record.epoch);
        same_again(bytes, &FrameSeed::new(&UUID, record.epoch), lsn, &frame);
    }
}

/// The frame is the only way to write what it says.
fn same_again(bytes: &[u8], seed: &FrameSeed, lsn: u64, frame: &llamafs::format::Frame<'_>) {
    let kind = match frame.kind {
        FrameKind::Mark => return assert_eq!(bytes[..16], encode_mark(seed, lsn, frame.value)),
        FrameKind::Pad => return assert_eq!(bytes[..16], encode_pad(seed, lsn, frame.value)),
        FrameKind::Void => {
            // Its other fields mean nothing, but are kept.
            let void = encode_void(seed, lsn, frame.value as usize);
            return assert_eq!(bytes[8..12], void[8..12]);
        }
        FrameKind::Data => Kind::Data,
        FrameKind::Meta => Kind::Meta,
        FrameKind::Epoch => Kind::Epoch,
        FrameKind::Moved => Kind::Moved,
        FrameKind::Summary => Kind::Summary,
    };
    let head = FrameHead { kind, log_id: frame.log_id, offset: frame.offset, time_ns: frame.time_ns };
    let mut again = vec![0xff; frame.total as usize];
    frame::write_frame(&mut again, seed, lsn, &head, frame.payload).expect("what was a frame fits one");
    assert_eq!(again, bytes[..again.len()]);
}

fn checkpoint(mut input: Input<'_>) {
    let mut bytes = input.rest().to_vec();
    check_checkpoint(&bytes);
    forge::checkpoint(&mut bytes);
    check_checkpoint(&bytes);
}

fn check_checkpoint(bytes: &[u8]) {
    let Ok(checkpoint) = Checkpoint::decode(bytes, &UUID) else { return };
    // Not to the same bytes: older versions of its parts are read, and never written. Nor is a checkpoint without the
    // id that comes next.
    let again = Checkpoint { next_id: checkpoint.next_id.max(1), ..checkpoint };
    assert_eq!(Checkpoint::encoded_len(&again.encode()), Ok(again.encode().len() as u64));
    assert_eq!(Checkpoint::decode(&again.encode(), &UUID), Ok(again));
}

fn entry(mut input: Input<'_>) {
    let bytes = input.rest();
    assert_eq!(is_valid_name(bytes), std::str::from_utf8(bytes).map_or(is_valid_name(bytes), name_by_hand));
    if let Ok(entry) = CatalogEntry::decode(bytes) {
        assert!(entry.is_root() == entry.name.is_empty() && entry.head <= entry.size && entry.id != 0);
        assert_eq!(CatalogEntry::decode(&entry.encode()), Ok(entry));
    }
    if let Ok(records) = CatalogRecord::decode_all(bytes) {
        let again: Vec<u8> = records.iter().flat_map(CatalogRecord::encode).collect();
        assert_eq!(CatalogRecord::decode_all(&again), Ok(records));
    }
}

fn name_by_hand(name: &str) -> bool {
    !name.is_empty() && name.len() <= 255 && !name.contains(['/', '\0']) && ![".", ".."].contains(&name)
}

/// A few bytes at any place of the first 128 KiB.
fn signature(mut input: Input<'_>) {
    let mut front = vec![0; input.u32() as usize % (128 << 10)];
    while !input.is_empty() {
        let at = input.u32() as usize % front.len().max(1);
        let len = usize::from(input.u8());
        for (to, from) in front.iter_mut().skip(at).zip(input.bytes(len)) {
            *to = *from;
        }
    }
    if let Some(whose) = known_signature(&front) {
        assert!(whose.starts_with("a ") || whose.starts_with("an ") || whose.starts_with("swap"), "{whose}");
    }
}

fn epochs(mut input: Input<'_>) {
    let (current, low) = (input.near(0, &[]), input.u8());
    let max = input.near(current, &[current]);
    let mut last = None;
    for epoch in infer_epoch(current, max, low).take(EPOCHS) {
        assert!(epoch >= current && epoch <= max && epoch as u8 == low && last < Some(epoch));
        last = Some(epoch);
    }
    let _ = EpochRecord::decode(input.rest()).map(|record| assert!(record.previous_epoch < record.epoch));
}
