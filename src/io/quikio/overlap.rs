//! Overlapping writes reach the device one after the other, in the order they were asked for.
//!
//! A device may carry out requests in any order. The tail block of the store is written again and again, so a newer
//! content must never be overtaken by an older one. Each active write knows how many earlier ones it waits for, and
//! which later ones wait for it; writes that share no block know nothing of each other.

/// Writes that were accepted and are not finished.
#[derive(Debug, Default)]
pub(super) struct Overlaps {
    spans: Vec<Span>,
}

#[derive(Debug)]
struct Span {
    token: u64,
    start: u64,
    end: u64,
    /// Earlier overlapping writes that are not finished.
    blockers: usize,
    /// Later overlapping writes, in order.
    dependents: Vec<u64>,
}

impl Overlaps {
    /// Take note of a write of `start..end`. True: it may go to the device now; false: `leave` will name it.
    pub(super) fn enter(&mut self, token: u64, start: u64, end: u64) -> bool {
        let mut blockers = 0;
        for span in &mut self.spans {
            if start < span.end && span.start < end {
                span.dependents.push(token);
                blockers += 1;
            }
        }
        self.spans.push(Span { token, start, end, blockers, dependents: Vec::new() });
        blockers == 0
    }

    /// The write is finished: give each write that waited for it alone to `free`, in order.
    pub(super) fn leave(&mut self, token: u64, mut free: impl FnMut(u64)) {
        let Some(at) = self.spans.iter().position(|span| span.token == token) else {
            return;
        };
        let gone = self.spans.swap_remove(at);
        for dependent in gone.dependents {
            if let Some(span) = self.spans.iter_mut().find(|span| span.token == dependent) {
                span.blockers = span.blockers.saturating_sub(1);
                if span.blockers == 0 {
                    free(dependent);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(overlaps: &mut Overlaps, token: u64) -> Vec<u64> {
        let mut freed = Vec::new();
        overlaps.leave(token, |t| freed.push(t));
        freed
    }

    #[test]
    fn neighbours_do_not_wait() {
        let mut overlaps = Overlaps::default();
        assert!(overlaps.enter(1, 0, 4096));
        assert!(overlaps.enter(2, 4096, 8192));
        assert!(left(&mut overlaps, 1).is_empty());
    }

    #[test]
    fn a_chain_is_freed_one_by_one() {
        let mut overlaps = Overlaps::default();
        assert!(overlaps.enter(1, 0, 8192));
        assert!(!overlaps.enter(2, 4096, 12288));
        assert!(!overlaps.enter(3, 8192, 16384), "3 waits for 2, not for 1");
        assert!(!overlaps.enter(4, 0, 16384), "4 waits for all");
        assert_eq!(left(&mut overlaps, 1), [2]);
        assert_eq!(left(&mut overlaps, 2), [3]);
        assert_eq!(left(&mut overlaps, 3), [4]);
        assert!(left(&mut overlaps, 4).is_empty());
        assert!(overlaps.spans.is_empty());
    }

    #[test]
    fn independent_dependents_are_freed_together_in_order() {
        let mut overlaps = Overlaps::default();
        assert!(overlaps.enter(1, 0, 8192));
        assert!(!overlaps.enter(2, 0, 4096));
        assert!(!overlaps.enter(3, 4096, 8192));
        assert_eq!(left(&mut overlaps, 1), [2, 3]);
    }
}
