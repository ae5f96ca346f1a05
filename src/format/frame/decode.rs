//! Reading frames from bytes that may be anything.

use super::super::{
    FRAME_ALIGN, FRAME_HEADER, Lsn, MAX_PAYLOAD, MAX_SEGMENT, SHORT_FRAME, crc, fits_a_file, frame_len, is_zero,
};
use super::{FrameKind, FrameSeed, LongHeader, ShortHeader};
use zerocopy::FromBytes;

/// A frame that checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What it is.
    pub kind: FrameKind,
    /// The log it belongs to; 0 none.
    pub log_id: u32,
    /// Logical offset of the payload in its log.
    pub offset: u64,
    /// When it was accepted, ns since 1970.
    pub time_ns: u64,
    /// Its bytes; empty for VOID, MARK and PADD, whose bytes mean nothing.
    pub payload: &'a [u8],
    /// MARK: the stable LSN. PADD: bytes of padding, the header's 16 included. Others: the payload's length.
    pub value: u64,
    /// Bytes it takes in the log, a multiple of 16. VOID and PADD may reach past the bytes that were given.
    pub total: u64,
}

/// Why there is no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A zero kind: the log ends here.
    #[error("the log ends here")]
    End,
    /// That many bytes from the start of the frame are needed to judge it.
    #[error("frame is cut short: it needs {0} bytes")]
    NeedMore(usize),
    /// No frame starts like this.
    #[error("no frame of a known kind starts here: {0:02x?}")]
    UnknownKind([u8; 4]),
    /// Frames start on 16-byte lines, from LSN 16.
    #[error("LSN {0} is not a place for a frame")]
    Alignment(Lsn),
    /// Longer than a frame may be, or no multiple of 16 where it has to be one.
    #[error("frame has an impossible length: {0} bytes")]
    Length(u64),
    /// A record that would reach behind what a file can have.
    #[error("record at offset {0} reaches behind what a file can have")]
    Offset(u64),
    /// Low byte of another mount's epoch.
    #[error("frame is of another mount: its epoch ends in {0:#04x}")]
    Epoch(u8),
    /// Bits have changed, or the frame is from another store, place, lap or mount.
    #[error("frame does not check: checksum is {computed:08x}, should be {stored:08x}")]
    Checksum {
        /// What the frame says.
        stored: u32,
        /// What its bytes give.
        computed: u32,
    },
    /// Bytes between the payload and the next line are not zero.
    #[error("frame has bytes in its padding")]
    Padding,
    /// An EPOC frame with a payload that can't be.
    #[error("epoch frame makes no sense")]
    EpochRecord,
}

/// A header that could be one; nothing about it is proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peek {
    /// What it claims to be.
    pub kind: FrameKind,
    /// Bytes it claims to take.
    pub total: u64,
    /// Low byte of the epoch it claims; short frames carry none.
    pub epoch8: Option<u8>,
}

/// Reads the frame at `lsn` from `bytes`, which start with it and may go on behind it. Give no bytes from behind the
/// segment: a frame that doesn't fit them gets `NeedMore`, and for VOID and PADD compare `total`.
///
/// A payload longer than `max_payload` is refused unread.
pub fn decode<'a>(seed: &FrameSeed, lsn: Lsn, bytes: &'a [u8], max_payload: usize) -> Result<Frame<'a>, FrameError> {
    if lsn == 0 || !lsn.is_multiple_of(FRAME_ALIGN as u64) {
        return Err(FrameError::Alignment(lsn));
    }
    let kind = kind_of(bytes)?;
    if kind.is_short() {
        decode_short(seed, lsn, kind, bytes)
    } else {
        decode_long(seed, lsn, kind, bytes, max_payload)
    }
}

fn kind_of(bytes: &[u8]) -> Result<FrameKind, FrameError> {
    match bytes.first_chunk::<4>() {
        None => Err(FrameError::NeedMore(SHORT_FRAME)),
        Some([0, 0, 0, 0]) => Err(FrameError::End),
        Some(tag) => FrameKind::from_tag(*tag).ok_or(FrameError::UnknownKind(*tag)),
    }
}

fn decode_short<'a>(seed: &FrameSeed, lsn: Lsn, kind: FrameKind, bytes: &[u8]) -> Result<Frame<'a>, FrameError> {
    let (header, _) = ShortHeader::read_from_prefix(bytes).map_err(|_| FrameError::NeedMore(SHORT_FRAME))?;
    check(header.crc.get(), header.crc(seed, lsn))?;
    let value = header.value.get();
    let total = short_total(kind, value).ok_or(FrameError::Length(value))?;
    Ok(Frame { kind, log_id: 0, offset: 0, time_ns: 0, payload: &[], value, total })
}

fn decode_long<'a>(
    seed: &FrameSeed,
    lsn: Lsn,
    kind: FrameKind,
    bytes: &'a [u8],
    max_payload: usize,
) -> Result<Frame<'a>, FrameError> {
    let (header, rest) = LongHeader::read_from_prefix(bytes).map_err(|_| FrameError::NeedMore(FRAME_HEADER))?;
    let (len, epoch8) = header.len_and_epoch();
    if epoch8 != seed.epoch8() {
        return Err(FrameError::Epoch(epoch8));
    }
    if !fits_a_file(kind, header.offset.get(), len as u64) {
        return Err(FrameError::Offset(header.offset.get()));
    }
    let total = frame_len(len);
    let crc = header.crc(seed, lsn);
    let payload: &[u8] = if kind == FrameKind::Void {
        // What a reservation held that was given up is undefined, so its header has to speak for itself. It may be
        // as long as any frame: its length is not that of a record.
        check(header.crc.get(), crc)?;
        &[]
    } else {
        if len > max_payload.min(MAX_PAYLOAD) {
            return Err(FrameError::Length(len as u64));
        }
        let more = FrameError::NeedMore(total);
        let (payload, behind) = rest.split_at_checked(len).ok_or(more)?;
        let padding = behind.get(..total - FRAME_HEADER - len).ok_or(more)?;
        check(header.crc.get(), crc::append(crc, payload))?;
        if !is_zero(padding) {
            return Err(FrameError::Padding);
        }
        payload
    };
    Ok(header.frame(kind, payload))
}

fn check(stored: u32, computed: u32) -> Result<(), FrameError> {
    if stored == computed { Ok(()) } else { Err(FrameError::Checksum { stored, computed }) }
}

/// Bytes a short frame takes; `None` if it can't.
pub(super) fn short_total(kind: FrameKind, value: u64) -> Option<u64> {
    let line = FRAME_ALIGN as u64;
    match kind {
        FrameKind::Pad => {
            (value >= line && value.is_multiple_of(line) && value <= u64::from(MAX_SEGMENT)).then_some(value)
        }
        _ => Some(line),
    }
}

impl LongHeader {
    /// The frame that it heads: of this kind, and with this payload (none for VOID, whose bytes mean nothing).
    pub(super) fn frame<'a>(&self, kind: FrameKind, payload: &'a [u8]) -> Frame<'a> {
        let (len, _) = self.len_and_epoch();
        Frame {
            kind,
            log_id: self.log_id.get(),
            offset: self.offset.get(),
            time_ns: self.time_ns.get(),
            payload,
            value: len as u64,
            total: frame_len(len) as u64,
        }
    }

    pub(super) fn len_and_epoch(&self) -> (usize, u8) {
        let both = self.len_epoch.get();
        ((both & MAX_PAYLOAD as u32) as usize, (both >> 24) as u8)
    }
}

/// Bytes in front of the first place, of those a short frame apart, that begins like a frame.
pub fn find_tag(bytes: &[u8]) -> Option<usize> {
    bytes.chunks_exact(SHORT_FRAME).position(|place| kind_of(place).is_ok()).map(|number| number * SHORT_FRAME)
}

/// What a frame here would be if its header told the truth. For finding the way again behind damage, and for `dump`.
pub fn peek(bytes: &[u8]) -> Option<Peek> {
    let kind = kind_of(bytes).ok()?;
    if kind.is_short() {
        let (header, _) = ShortHeader::read_from_prefix(bytes).ok()?;
        let total = short_total(kind, header.value.get())?;
        return Some(Peek { kind, total, epoch8: None });
    }
    let (header, _) = LongHeader::read_from_prefix(bytes).ok()?;
    let (len, epoch8) = header.len_and_epoch();
    Some(Peek { kind, total: frame_len(len) as u64, epoch8: Some(epoch8) })
}
