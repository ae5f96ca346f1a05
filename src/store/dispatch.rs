//! Which filling goes to the device next, and when: in log order, few at one time, and not one at a time where the device
//! is done before the next is full.

use std::collections::BTreeMap;

use crate::ring::{FillInfo, Why};

/// Full fillings on their way to the device at one time, at least [`TOGETHER`]. A device serves what it is given side by side:
/// with all of a full ring it would be done with all of it at once, and idle until the next filling is full.
const SIDE_BY_SIDE: usize = 5;

/// Full fillings that an idle device is given together.
const TOGETHER: usize = 3;

/// Fillings of the ring for each that waits for others: most of them are for appends.
const RING_PART: usize = 4;

/// More full fillings than this without one that was sealed for a commit tell of a writer of much: the flush timer has one sealed
/// for a commit each time, so the next will be full in a moment.
const MUCH: u32 = 4;

/// Fillings that wait for an earlier one, for a later one or for the device, and the partial block the last one ended in.
pub struct Dispatch {
    ready: BTreeMap<u64, FillInfo>,
    next: u64,
    /// What the device holds of the block that the newest filling ended in.
    pub tail_block: Vec<u8>,
    /// Full fillings on their way.
    under_way: usize,
    /// See [`TOGETHER`]; fewer of a small ring.
    together: usize,
    /// Full fillings that came since the last one for a commit.
    in_a_row: u32,
    /// What is there waits for the next full filling.
    waits: bool,
}

impl Dispatch {
    /// Of a ring of so many fillings; the device holds `tail_block` of the block that the log ends in.
    pub fn new(ring_size: usize, tail_block: Vec<u8>) -> Self {
        let together = TOGETHER.min(ring_size / RING_PART);
        Self { ready: BTreeMap::new(), next: 0, tail_block, under_way: 0, together, in_a_row: 0, waits: false }
    }

    /// A filling came. `awaited`: somebody waits for what is written.
    ///
    /// Waking an idle device costs the thread that appends as much for three fillings as for one. So where the device is done
    /// before the next is full, and that will be soon, a full filling waits for it: until it comes, or [`Self::hurry`].
    pub fn arrived(&mut self, fill: FillInfo, awaited: bool) {
        self.in_a_row = if fill.why == Why::Full { self.in_a_row.saturating_add(1) } else { 0 };
        self.ready.insert(fill.number, fill);
        let soon = self.in_a_row > MUCH && self.ready.len() < self.together;
        self.waits = soon && !awaited && self.under_way == 0;
    }

    /// Nothing waits for a later filling any more: one may not come.
    pub fn hurry(&mut self) {
        self.waits = false;
    }

    /// Nothing is ever to wait for a later filling: no timer has it written should none come.
    pub fn never_wait(&mut self) {
        (self.together, self.waits) = (0, false);
    }

    /// A filling is written.
    pub fn landed(&mut self, fill: &FillInfo) {
        self.under_way -= usize::from(is_bulk(fill));
    }

    /// The next filling in order, if it is there and its turn has come.
    pub fn take(&mut self) -> Option<FillInfo> {
        let first = self.ready.first_entry().filter(|first| *first.key() == self.next)?;
        let bulk = is_bulk(first.get());
        if bulk && (self.under_way >= SIDE_BY_SIDE || self.waits) {
            return None;
        }
        self.under_way += usize::from(bulk);
        self.next += 1;
        Some(first.remove())
    }
}

/// Nobody waits for it in particular.
pub fn is_bulk(fill: &FillInfo) -> bool {
    fill.why != Why::Commit
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(number: u64, why: Why) -> FillInfo {
        FillInfo { number, slot: 0, base_lsn: number << 20, start: 0, end: 1 << 20, trailer: 0, why }
    }

    /// What goes to the device when these come, one after the other.
    fn come(dispatch: &mut Dispatch, numbers: std::ops::Range<u64>, awaited: bool) -> Vec<Vec<u64>> {
        let one = |number| {
            dispatch.arrived(fill(number, Why::Full), awaited);
            std::iter::from_fn(|| dispatch.take()).map(|fill| fill.number).collect()
        };
        numbers.map(one).collect()
    }

    fn land(dispatch: &mut Dispatch, count: usize) {
        (0..count).for_each(|_| dispatch.landed(&fill(0, Why::Full)));
    }

    /// A dispatch that has seen four full fillings, all of which are written.
    fn much(ring_size: usize) -> Dispatch {
        let mut dispatch = Dispatch::new(ring_size, Vec::new());
        assert_eq!(come(&mut dispatch, 0..4, false), [[0], [1], [2], [3]], "no sign of much yet");
        land(&mut dispatch, 4);
        dispatch
    }

    #[test]
    fn an_idle_device_is_given_three_together_of_much() {
        let mut dispatch = much(12);
        assert_eq!(come(&mut dispatch, 4..7, false), [vec![], vec![], vec![4, 5, 6]]);
        assert_eq!(come(&mut dispatch, 7..9, false), [[7], [8]], "a busy one is given each");
        land(&mut dispatch, 5);
        assert_eq!(come(&mut dispatch, 9..10, true), [[9]], "somebody waits");
    }

    #[test]
    fn what_waits_goes_when_there_is_a_hurry_or_a_commit_behind_it() {
        let mut dispatch = much(12);
        assert_eq!(come(&mut dispatch, 4..5, false), [[0; 0]]);
        dispatch.hurry();
        assert_eq!(dispatch.take().map(|fill| fill.number), Some(4));
        land(&mut dispatch, 1);
        assert_eq!(come(&mut dispatch, 5..6, false), [[0; 0]]);
        dispatch.arrived(fill(6, Why::Commit), true);
        assert_eq!([dispatch.take(), dispatch.take()].map(|fill| fill.map(|fill| fill.number)), [Some(5), Some(6)]);
        land(&mut dispatch, 1);
        assert_eq!(come(&mut dispatch, 7..8, false), [[7]], "no sign of much any more");
    }

    #[test]
    fn the_last_filling_before_the_end_does_not_wait() {
        let mut dispatch = much(12);
        dispatch.arrived(fill(4, Why::Close), false);
        assert_eq!(dispatch.take().map(|fill| fill.number), Some(4));
    }

    #[test]
    fn of_a_small_ring_fewer_wait_or_none() {
        assert_eq!(come(&mut much(8), 4..6, false), [vec![], vec![4, 5]]);
        assert_eq!(come(&mut much(7), 4..6, false), [[4], [5]]);
        assert_eq!(come(&mut much(2), 4..6, false), [[4], [5]]);
    }

    #[test]
    fn without_a_timer_none_waits() {
        let mut dispatch = much(12);
        assert_eq!(come(&mut dispatch, 4..5, false), [[0; 0]]);
        dispatch.never_wait();
        assert_eq!(come(&mut dispatch, 5..7, false), [vec![4, 5], vec![6]]);
        const { assert!(TOGETHER <= SIDE_BY_SIDE) };
    }

    #[test]
    fn few_are_on_their_way_at_one_time_and_in_order() {
        let mut dispatch = Dispatch::new(12, Vec::new());
        assert_eq!(come(&mut dispatch, 0..7, false), [vec![0], vec![1], vec![2], vec![3], vec![4], vec![], vec![]]);
        dispatch.landed(&fill(0, Why::Commit));
        assert!(dispatch.take().is_none(), "what somebody waits for takes nobody's place");
        land(&mut dispatch, 1);
        assert_eq!(dispatch.take().map(|fill| fill.number), Some(5));
        let mut dispatch = Dispatch::new(12, Vec::new());
        assert_eq!(come(&mut dispatch, 1..2, false), [[0; 0]], "the first is missing");
        assert_eq!(come(&mut dispatch, 0..1, false), [[0, 1]]);
    }
}
