//! Texts of open control files, by handle: each reader sees one moment. They lie in the daemon's memory as long as the
//! file is open, so there are limits: no user can have all of it, and no number of users can keep the mounter and root
//! from looking.

use std::collections::HashMap;

use super::open::FH_FIRST_SNAPSHOT;
use super::types::Errno;

/// All users but root and the mounter may have open so many times what one may.
pub const USERS: usize = 8;
/// Bytes of texts that one user may have open, of which one alone may be more.
pub const USER_SNAPSHOT_BYTES: usize = 4 << 20;
/// The same of all of these.
pub const ALL_SNAPSHOT_BYTES: usize = 16 << 20;

/// Handles and bytes.
#[derive(Debug, Clone, Copy, Default)]
struct Held {
    count: usize,
    bytes: usize,
}

impl Held {
    fn takes(self, bytes: usize, count: usize, limit: usize) -> bool {
        self.count < count && (self.count == 0 || self.bytes.saturating_add(bytes) <= limit)
    }

    fn add(&mut self, bytes: usize) {
        self.count += 1;
        self.bytes += bytes;
    }

    fn give(&mut self, bytes: usize) {
        self.count = self.count.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

/// One open control file.
#[derive(Debug)]
struct Snapshot {
    uid: u32,
    text: Vec<u8>,
}

/// The open control files.
#[derive(Debug, Default)]
pub struct Snapshots {
    next: u64,
    /// Who is held against their own limits alone, besides root.
    mounter: u32,
    /// So many each.
    most: usize,
    open: HashMap<u64, Snapshot>,
    users: HashMap<u32, Held>,
    all: Held,
}

impl Snapshots {
    /// Of a mount by this user, `most` for each.
    pub fn new(mounter: u32, most: usize) -> Self {
        Self { mounter, most, ..Self::default() }
    }

    fn counts(&self, uid: u32) -> bool {
        uid != 0 && uid != self.mounter
    }

    /// Whether a text of so many bytes can be kept; asked also before it is made, when its size is not known.
    pub fn check(&self, uid: u32, bytes: usize) -> Result<(), Errno> {
        let user = self.users.get(&uid).copied().unwrap_or_default();
        if !user.takes(bytes, self.most, USER_SNAPSHOT_BYTES) {
            return Err(Errno::EMFILE);
        }
        if self.counts(uid) && !self.all.takes(bytes, self.most * USERS, ALL_SNAPSHOT_BYTES) {
            return Err(Errno::ENFILE);
        }
        Ok(())
    }

    /// Keep a text for a user; the handle is never used twice.
    pub fn keep(&mut self, uid: u32, text: Vec<u8>) -> Result<u64, Errno> {
        self.check(uid, text.len())?;
        self.users.entry(uid).or_default().add(text.len());
        if self.counts(uid) {
            self.all.add(text.len());
        }
        let fh = self.next.max(FH_FIRST_SNAPSHOT);
        self.next = fh + 1;
        self.open.insert(fh, Snapshot { uid, text });
        Ok(fh)
    }

    /// The file is closed.
    pub fn forget(&mut self, fh: u64) {
        let Some(Snapshot { uid, text }) = self.open.remove(&fh) else { return };
        if let Some(user) = self.users.get_mut(&uid) {
            user.give(text.len());
            if user.count == 0 {
                self.users.remove(&uid);
            }
        }
        if self.counts(uid) {
            self.all.give(text.len());
        }
    }

    /// Part of a text.
    pub fn part(&self, fh: u64, offset: u64, len: usize) -> Option<Vec<u8>> {
        let text = &self.open.get(&fh)?.text;
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(text.len());
        let to = from.saturating_add(len).min(text.len());
        text.get(from..to).map(<[u8]>::to_vec)
    }

    /// Files that are open.
    pub fn count(&self) -> usize {
        self.open.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 100;

    #[test]
    fn a_snapshot_is_read_in_parts_until_it_is_forgotten() {
        let mut snapshots = Snapshots::new(7, MOST);
        let fh = snapshots.keep(1, b"0123456789".to_vec()).unwrap();
        assert_eq!(snapshots.part(fh, 8, 4).unwrap(), b"89");
        assert_eq!(snapshots.part(fh, u64::MAX, 4).unwrap(), b"");
        assert_ne!(snapshots.keep(1, Vec::new()).unwrap(), fh);
        snapshots.forget(fh);
        assert!(snapshots.part(fh, 0, 1).is_none());
    }

    #[test]
    fn no_user_and_no_number_of_users_has_all_of_it() {
        let mut snapshots = Snapshots::new(7, MOST);
        let mut handles = Vec::new();
        for uid in 1000.. {
            for _ in 0..MOST {
                match snapshots.keep(uid, b"text".to_vec()) {
                    Ok(fh) => handles.push(fh),
                    Err(errno) => assert_eq!(errno, Errno::ENFILE),
                }
            }
            if handles.len() == MOST * USERS {
                break;
            }
            assert_eq!(snapshots.keep(uid, Vec::new()), Err(Errno::EMFILE));
        }
        assert_eq!(snapshots.keep(999, Vec::new()), Err(Errno::ENFILE));
        assert!(snapshots.keep(0, b"root".to_vec()).is_ok() && snapshots.keep(7, b"mounter".to_vec()).is_ok());
        handles.drain(..).for_each(|fh| snapshots.forget(fh));
        assert_eq!((snapshots.count(), snapshots.all.count, snapshots.all.bytes), (2, 0, 0));
        assert!(snapshots.keep(999, Vec::new()).is_ok());
    }

    #[test]
    fn one_large_text_is_always_to_be_had() {
        let mut snapshots = Snapshots::new(7, MOST);
        let fh = snapshots.keep(1, vec![0; USER_SNAPSHOT_BYTES + 1]).unwrap();
        assert_eq!(snapshots.keep(1, vec![0]), Err(Errno::EMFILE));
        snapshots.forget(fh);
        assert!(snapshots.keep(1, vec![0]).is_ok());
    }
}
