//! A table by id that grows without moving what is in it: whoever looks something up takes no lock.
//!
//! Ids are never used twice, so in time they are far apart: small nodes keep the table small for those that are left.

use std::sync::OnceLock;

/// Bits of an id that choose a place in an inner node or a leaf.
const BITS: u32 = 4;
/// Places of an inner node or a leaf.
const FAN: usize = 1 << BITS;
/// Bits of an id below the top.
const BELOW_TOP: u32 = 24;

/// A node below the top.
#[derive(Debug)]
enum Node<T> {
    Inner(Box<[OnceLock<Node<T>>; FAN]>),
    Leaf(Box<[T; FAN]>),
}

impl<T: Default> Node<T> {
    /// A node for the ids that differ in their lowest `bits` bits.
    fn new(bits: u32) -> Self {
        if bits <= BITS {
            Self::Leaf(Box::new(std::array::from_fn(|_| T::default())))
        } else {
            Self::Inner(Box::new(std::array::from_fn(|_| OnceLock::new())))
        }
    }
}

/// A slot for every id that was ever asked for.
#[derive(Debug)]
pub struct IdTable<T> {
    top: Box<[OnceLock<Node<T>>]>,
}

impl<T: Default> Default for IdTable<T> {
    fn default() -> Self {
        Self { top: (0..1usize << (u32::BITS - BELOW_TOP)).map(|_| OnceLock::new()).collect() }
    }
}

/// The place of `id` in a node whose ids differ in their lowest `bits` bits.
fn place(id: u32, bits: u32) -> usize {
    (id >> (bits - BITS)) as usize % FAN
}

impl<T: Default> IdTable<T> {
    /// The slot of `id`, if it was ever made.
    #[inline]
    pub fn get(&self, id: u32) -> Option<&T> {
        let mut node = self.top.get((id >> BELOW_TOP) as usize)?.get()?;
        let mut bits = BELOW_TOP;
        loop {
            match node {
                Node::Leaf(slots) => return slots.get(id as usize % FAN),
                Node::Inner(below) => node = below.get(place(id, bits))?.get()?,
            }
            bits -= BITS;
        }
    }

    /// The slot of `id`; made if it was not there.
    pub fn make(&self, id: u32) -> Option<&T> {
        let mut bits = BELOW_TOP;
        let mut node = self.top.get((id >> BELOW_TOP) as usize)?.get_or_init(|| Node::new(bits));
        loop {
            match node {
                Node::Leaf(slots) => return slots.get(id as usize % FAN),
                Node::Inner(below) => {
                    let cell = below.get(place(id, bits))?;
                    node = cell.get_or_init(|| Node::new(bits - BITS));
                }
            }
            bits -= BITS;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn every_id_has_a_slot_of_its_own() {
        let table = IdTable::<AtomicU32>::default();
        let ids = (0..5000).chain([65_535, 65_536, 1 << 24, (1 << 24) - 1, 0x1234_5678, u32::MAX - 1, u32::MAX]);
        for id in ids.clone() {
            assert_eq!(table.make(id).unwrap().swap(id, Ordering::Relaxed), 0, "{id}");
        }
        for id in ids {
            assert_eq!(table.get(id).unwrap().load(Ordering::Relaxed), id);
            assert!(std::ptr::eq(table.get(id).unwrap(), table.make(id).unwrap()));
        }
        assert!(table.get(0x2345_6789).is_none());
    }
}
