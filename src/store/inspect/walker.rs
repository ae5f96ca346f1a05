//! Walking the log of a store that nobody writes, over everything that is damaged in it, without being led astray.
//!
//! What makes this more than reading frame after frame is what a crash left behind a cut: frames that check and are no
//! part of the log any more. A mount's first frame says where the log before it was cut. With `tail=pad` that frame
//! lies on the next block, and between the two there may be such frames. Should it be damaged, the mounts that the
//! checkpoint knows tell where the cut was; of a later mount nothing does, then what lies between is called damaged too.

use std::ops::ControlFlow;

use crate::format::{FrameKind, Lsn, MountEntry, SegmentEntry, SegmentHeader};
use crate::io::{IoError, QuikIO};
use crate::store::geometry::Shape;
use crate::store::mounts::Mounts;
use crate::store::scan::{Found, Scanner, Step, Was, segment_header};

/// What is in the log, in its order.
#[derive(Debug)]
pub enum Item {
    /// A segment begins.
    Segment {
        /// As the segment table knows it.
        entry: SegmentEntry,
        /// Its header, or what is wrong with it.
        header: Result<SegmentHeader, String>,
    },
    /// A frame that checks.
    Frame {
        /// What it says.
        found: Found,
        /// Where it starts on the device.
        device_offset: u64,
    },
    /// A place that is part of the log and where no frame checks.
    Broken(Broken),
}

/// A place where no frame checks, up to the next one that does.
#[derive(Debug)]
pub struct Broken {
    /// First LSN.
    pub lsn: Lsn,
    /// Bytes.
    pub len: u64,
    /// Its place on the device.
    pub device_offset: u64,
    /// What is wrong with it.
    pub why: String,
    /// The frame that was there, if that can be told.
    pub was: Option<Was>,
}

impl Broken {
    /// Bytes of it that were a frame of which is known what it held: not a name, nor an attribute.
    pub fn explained(&self) -> u64 {
        self.was.as_ref().filter(|was| was.kind != FrameKind::Meta).map_or(0, |was| was.total)
    }
}

/// What the walk reports to.
pub type Each<'a> = dyn FnMut(Item) -> ControlFlow<()> + 'a;

/// Frames behind a broken place that may have been cut there: kept back until something tells.
struct Held {
    /// The broken place.
    from: Lsn,
    device_offset: u64,
    why: String,
    /// A mount that was cut at `from` starts here.
    until: Lsn,
    /// Epoch of the frames held.
    epoch: u64,
    /// The broken place itself, and what came behind it.
    items: Vec<Item>,
}

/// Walks the segments of a store in the order of the log.
pub struct Walker<'a> {
    io: &'a QuikIO,
    shape: Shape,
    uuid: [u8; 16],
    max_epoch: u64,
    segments: &'a [SegmentEntry],
    mounts: Mounts,
    /// The log ends here.
    end: Lsn,
    scanner: Scanner<'a>,
    held: Option<Held>,
}

impl<'a> Walker<'a> {
    /// A walk over `segments` (in the order of the log) up to `end`. `max_epoch` is the highest number of a mount;
    /// with `payloads`, frames carry theirs.
    pub fn new(
        io: &'a QuikIO,
        shape: Shape,
        uuid: [u8; 16],
        max_epoch: u64,
        segments: &'a [SegmentEntry],
        end: Lsn,
        payloads: bool,
    ) -> Self {
        let mut scanner = Scanner::new(io, shape, uuid, max_epoch, payloads);
        scanner.tolerate_errors();
        Self { io, shape, uuid, max_epoch, segments, mounts: Mounts::default(), end, scanner, held: None }
    }

    /// With what is known of the mounts that wrote the frames.
    pub fn knowing(self, mounts: Mounts) -> Self {
        Self { mounts, ..self }
    }

    /// Report everything, in order, until `each` breaks.
    pub fn walk(mut self, each: &mut Each<'_>) -> Result<(), IoError> {
        let mut epoch = 0;
        let segments = self.segments;
        for (at, entry) in segments.iter().enumerate() {
            if self.shape.segment_start(entry.sequence) >= self.end {
                break;
            }
            let header = segment_header(self.io, &self.shape, &self.uuid, entry.physical, Some(entry.sequence));
            if self.report(Item::Segment { entry: *entry, header }, each).is_break() {
                return Ok(());
            }
            self.scanner.enter(self.shape.first_frame(entry.sequence), entry.physical, entry.epoch.max(epoch));
            if self.segment(segments.get(at + 1), each)?.is_break() {
                return Ok(());
            }
            epoch = self.scanner.epoch();
        }
        // The log ends where it should: nothing behind these frames says that they were cut.
        let _ = self.release(each);
        Ok(())
    }

    fn segment(&mut self, next: Option<&SegmentEntry>, each: &mut Each<'_>) -> Result<ControlFlow<()>, IoError> {
        let stop = self.end.min(self.scanner.segment_end());
        while self.scanner.place() < stop {
            let place = self.scanner.place();
            // What a mount has cut is no part of the log, whether it checks or not.
            let over = self.mounts.over_gap(place);
            if over > place {
                let cut = self.mounts.next_behind(place).map_or(place, |mount| mount.cut_lsn);
                if self.cut(cut, each).is_break() {
                    return Ok(ControlFlow::Break(()));
                }
                self.scanner.go_to(over.min(self.scanner.segment_end()));
                continue;
            }
            let flow = match self.scanner.step()? {
                Step::Frame(found) => self.frame(found, each),
                Step::SegmentEnd => break,
                Step::Broken(why) => self.broken(place, stop, why.to_string(), next, each)?,
            };
            if flow.is_break() {
                return Ok(flow);
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Report, or keep back behind what is kept back already.
    fn report(&mut self, item: Item, each: &mut Each<'_>) -> ControlFlow<()> {
        match &mut self.held {
            Some(held) => held.items.push(item),
            None => return each(item),
        }
        ControlFlow::Continue(())
    }

    /// What was kept back is part of the log.
    fn release(&mut self, each: &mut Each<'_>) -> ControlFlow<()> {
        self.held.take().into_iter().flat_map(|held| held.items).try_for_each(each)
    }

    /// The log was cut at `cut`: what was kept back from there on is no part of it.
    fn cut(&mut self, cut: Lsn, each: &mut Each<'_>) -> ControlFlow<()> {
        let items = self.held.take().into_iter().flat_map(|held| held.items);
        items.filter(|item| item.lsn().is_none_or(|lsn| lsn < cut)).try_for_each(each)
    }

    /// Whether what was kept back was cut can't be told: all of it, up to `next`, is called damaged.
    fn doubt(&mut self, next: Lsn, each: &mut Each<'_>) -> ControlFlow<()> {
        let Some(held) = self.held.take() else { return ControlFlow::Continue(()) };
        let segment_end = self.shape.segment_end(held.from);
        each(Item::Broken(Broken {
            lsn: held.from,
            len: next.min(segment_end) - held.from,
            device_offset: held.device_offset,
            why: held.why,
            was: None,
        }))?;
        held.items.into_iter().filter(|item| item.lsn().is_none_or(|lsn| lsn >= segment_end)).try_for_each(each)
    }

    fn frame(&mut self, found: Found, each: &mut Each<'_>) -> ControlFlow<()> {
        // The mount that began here has lost its first frame: what an older one left is no part of the log, though it checks.
        if self.mounts.epoch_at(found.lsn).is_some_and(|epoch| found.epoch < epoch) {
            return ControlFlow::Continue(());
        }
        if let Some(held) = &self.held {
            match &found.record {
                Some(record) if record.epoch > held.epoch => {
                    // Of the mount that follows it alone: the cut of any other says nothing of these.
                    if record.previous_epoch == held.epoch {
                        self.cut(record.cut_lsn, each)?;
                    } else {
                        self.doubt(found.lsn, each)?;
                    }
                }
                // A mount that was cut in front of this frame would have written over it.
                _ if found.lsn + found.total > held.until => self.release(each)?,
                _ => {}
            }
        }
        let device_offset = self.scanner.device_offset(found.lsn);
        self.report(Item::Frame { found, device_offset }, each)
    }

    fn broken(
        &mut self,
        place: Lsn,
        stop: Lsn,
        why: String,
        next: Option<&SegmentEntry>,
        each: &mut Each<'_>,
    ) -> Result<ControlFlow<()>, IoError> {
        if let Some(start) = self.next_mount(place, next)? {
            self.scanner.go_to(start);
            return Ok(self.release(each));
        }
        let epoch = self.scanner.epoch();
        let device_offset = self.scanner.device_offset(place);
        let most = self.mounts.end_of(place, self.scanner.segment_end());
        let behind = self.scanner.behind(place, most)?;
        let found = behind.next.filter(|next| *next < stop);
        let to = found.unwrap_or(stop);
        self.scanner.go_to(to);
        let newer = match found {
            Some(_) => self.scanner.epoch() > epoch,
            None => next.is_some_and(|next| next.epoch > epoch),
        };
        let item = Item::Broken(Broken {
            lsn: place,
            len: to - place,
            device_offset,
            why: why.clone(),
            was: behind.was.clone(),
        });
        if let Some(held) = &self.held {
            let flow = match behind.was.as_ref().and_then(|was| was.record.as_ref()) {
                Some(record) if record.previous_epoch == held.epoch => self.cut(record.cut_lsn, each),
                _ if newer && let Some(mount) = self.known_behind(held) => self.cut(mount.cut_lsn, each),
                _ if newer && place < self.shape.segment_end(held.from) => return Ok(self.doubt(to, each)),
                _ if newer => self.doubt(place, each),
                _ if to >= held.until => self.release(each),
                _ => ControlFlow::Continue(()),
            };
            if flow.is_break() {
                return Ok(flow);
            }
        }
        let until = self.shape.block_up(place);
        if self.held.is_none() && !newer && to < until {
            self.held = Some(Held { from: place, device_offset, why, until, epoch, items: Vec::new() });
        }
        Ok(self.report(item, each))
    }

    /// The mount behind what was kept back, if it is known where it cut.
    fn known_behind(&self, held: &Held) -> Option<MountEntry> {
        let mount = *self.mounts.next_behind(held.from)?;
        let follows = self.mounts.epoch_at(held.from) == Some(held.epoch);
        (follows && self.tells_its_cut(&mount)).then_some(mount)
    }

    /// A mount whose first frame was damaged already when it was noted is known from the frame behind it on, and not
    /// where it cut.
    fn tells_its_cut(&self, mount: &MountEntry) -> bool {
        if mount.cut_lsn < mount.first_lsn {
            return true;
        }
        let sequence = self.shape.sequence(mount.first_lsn);
        let Some(segment) = self.segments.iter().find(|segment| segment.sequence == sequence) else { return false };
        let mut there = Scanner::new(self.io, self.shape, self.uuid, self.max_epoch, false);
        there.tolerate_errors();
        there.enter(mount.first_lsn, segment.physical, mount.epoch);
        match there.frame_at(mount.first_lsn) {
            Ok(Ok(found)) => found.kind == FrameKind::Epoch,
            Ok(Err(_)) => true,
            Err(_) => false,
        }
    }

    /// Where the mount starts that cut the log at `place`: on the next block, or in the next segment.
    fn next_mount(&mut self, place: Lsn, next: Option<&SegmentEntry>) -> Result<Option<Lsn>, IoError> {
        let start = self.shape.block_up(place);
        if start < self.scanner.segment_end() {
            let cut_here = start > place && self.scanner.mount_at(start)?.is_some_and(|record| record.cut_lsn == place);
            return Ok(cut_here.then_some(start));
        }
        let Some(next) = next.filter(|next| self.shape.segment_start(next.sequence) == self.scanner.segment_end())
        else {
            return Ok(None);
        };
        let mut ahead = Scanner::new(self.io, self.shape, self.uuid, self.max_epoch, false);
        ahead.tolerate_errors();
        let first = self.shape.first_frame(next.sequence);
        ahead.enter(first, next.physical, self.scanner.epoch());
        let cut_here = ahead.mount_at(first)?.is_some_and(|record| record.cut_lsn == place);
        Ok(cut_here.then_some(self.scanner.segment_end()))
    }
}

impl Item {
    /// Where it lies, for what can be cut: not the header of a segment.
    fn lsn(&self) -> Option<Lsn> {
        match self {
            Self::Segment { .. } => None,
            Self::Frame { found, .. } => Some(found.lsn),
            Self::Broken(broken) => Some(broken.lsn),
        }
    }
}
