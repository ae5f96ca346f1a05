//! Memory for what readers are given and for records that wait for room: large pieces are used again, for new pages cost
//! as much as what is put into them.

use crate::io::try_room;
use crate::sync::Mutex;

/// What is smaller is not worth keeping.
const LARGE: usize = 64 << 10;
/// What is larger is kept by nobody: no reader through a mount asks for more.
const LARGEST: usize = 2 << 20;
/// Pieces kept.
const SPARE: usize = 4;

/// Pieces that are nobody's just now.
#[derive(Default)]
pub struct Rooms {
    spare: Mutex<Vec<Vec<u8>>>,
}

impl Rooms {
    /// An empty piece with room for `len` bytes, or nothing.
    pub fn take(&self, len: usize) -> Option<Vec<u8>> {
        if len >= LARGE {
            let mut spare = self.spare.lock();
            if let Some(at) = spare.iter().position(|room| room.capacity() >= len) {
                return Some(spare.swap_remove(at));
            }
        }
        try_room(len)
    }

    /// What is in it is not wanted any more.
    pub fn give_back(&self, mut room: Vec<u8>) {
        if (LARGE..=LARGEST).contains(&room.capacity()) {
            room.clear();
            let mut spare = self.spare.lock();
            // The smallest goes: the others serve for less, too.
            if spare.len() >= SPARE {
                let smallest = spare.iter().enumerate().min_by_key(|(_, room)| room.capacity()).map(|(at, _)| at);
                if let Some(at) = smallest {
                    spare.swap_remove(at);
                }
            }
            spare.push(room);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_pieces_are_used_again_and_come_back_empty() {
        let rooms = Rooms::default();
        let mut room = rooms.take(LARGE).unwrap();
        room.extend_from_slice(&[7; LARGE]);
        let place = room.as_ptr();
        rooms.give_back(room);
        let other = rooms.take(2 * LARGE).unwrap();
        assert_ne!(other.as_ptr(), place, "too small for that");
        let again = rooms.take(LARGE).unwrap();
        assert_eq!((again.as_ptr(), again.len()), (place, 0));
    }

    #[test]
    fn few_are_kept_and_no_small_or_giant_ones() {
        let rooms = Rooms::default();
        for times in 1..10 {
            rooms.give_back(Vec::with_capacity(times * LARGE));
        }
        rooms.give_back(Vec::with_capacity(100));
        rooms.give_back(Vec::with_capacity(LARGEST + 1));
        let kept: Vec<usize> = rooms.spare.lock().iter().map(|room| room.capacity() / LARGE).collect();
        assert_eq!(kept.len(), SPARE);
        assert!(kept.iter().all(|times| *times > 5), "{kept:?}");
    }
}
