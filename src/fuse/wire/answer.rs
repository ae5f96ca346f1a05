//! The answer to one request: sent once, from any thread, and an error if it is forgotten.

use std::fs::File;
use std::io::{IoSlice, Write};
use std::sync::Arc;
use std::time::Duration;

use super::super::PAGE;
use super::inbox::{Inbox, Ready};
use crate::fs::Lent;
use crate::fs::types::{Attr, Errno, Kind};

/// Bytes of an answer's header.
const HEADER_BYTES: usize = 16;
/// ns in a second.
const SECOND: u64 = 1_000_000_000;

/// Where a request came from, and its answer goes.
#[derive(Clone)]
pub enum From {
    /// This descriptor.
    Device(Arc<File>),
    /// An entry of a queue, whose thread answers what lies in the inbox.
    Queue(Arc<Inbox>, u32),
}

/// What an answer says.
pub enum Bytes {
    /// Fields, a name, a list.
    Ours(Vec<u8>),
    /// What a read gave.
    Lent(Lent),
}

impl Bytes {
    fn none() -> Self {
        Self::Ours(Vec::new())
    }

    /// How many they are.
    pub fn len(&self) -> usize {
        match self {
            Self::Ours(bytes) => bytes.len(),
            Self::Lent(bytes) => bytes.len(),
        }
    }

    /// All of them, one slice behind the other.
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> {
        let (ours, lent) = match self {
            Self::Ours(bytes) => (Some(&**bytes), None),
            Self::Lent(bytes) => (None, Some(bytes.slices())),
        };
        ours.into_iter().chain(lent.into_iter().flatten())
    }
}

/// Who waits for it.
pub struct Answer {
    from: From,
    unique: u64,
    sent: bool,
}

impl Answer {
    /// To the request of this number.
    pub fn to(from: From, unique: u64) -> Self {
        Self { from, unique, sent: false }
    }

    /// Its number.
    pub fn unique(&self) -> u64 {
        self.unique
    }

    /// It goes by a descriptor, from whichever thread gives it.
    pub fn by_device(&self) -> bool {
        matches!(self.from, From::Device(_))
    }

    /// Done.
    pub fn ok(self) {
        self.data(Vec::new());
    }

    /// Failed.
    pub fn error(mut self, errno: Errno) {
        self.send(-errno.0, Bytes::none());
    }

    /// These bytes.
    pub fn data(mut self, data: Vec<u8>) {
        self.send(0, Bytes::Ours(data));
    }

    /// What a read gave, which goes back when the kernel has it.
    pub fn read(mut self, data: Lent) {
        self.send(0, Bytes::Lent(data));
    }

    /// These fields.
    pub fn fields(self, fields: Fields) {
        self.data(fields.0);
    }

    /// Done, or failed.
    pub fn result(self, result: Result<(), Errno>) {
        match result {
            Ok(()) => self.ok(),
            Err(errno) => self.error(errno),
        }
    }

    fn send(&mut self, error: i32, data: Bytes) {
        self.sent = true;
        match &self.from {
            From::Queue(inbox, entry) => inbox.put(Ready { entry: *entry, error, unique: self.unique, data }),
            From::Device(device) => {
                let header = header(error, self.unique, data.len());
                // One call: the kernel takes it whole or not at all.
                let parts: Vec<_> = [header.as_slice()].into_iter().chain(data.slices()).map(IoSlice::new).collect();
                if let Err(error) = (&**device).write_vectored(&parts) {
                    // Nobody waits for it any more.
                    log::debug!("answer to request {}: {error}", self.unique);
                }
            }
        }
    }
}

/// What goes in front of an answer of so many bytes.
pub fn header(error: i32, unique: u64, bytes: usize) -> [u8; HEADER_BYTES] {
    let len = u32::try_from(HEADER_BYTES.saturating_add(bytes)).unwrap_or(u32::MAX);
    let fields = len.to_ne_bytes().into_iter().chain(error.to_ne_bytes()).chain(unique.to_ne_bytes());
    let mut header = [0; HEADER_BYTES];
    header.iter_mut().zip(fields).for_each(|(place, byte)| *place = byte);
    header
}

impl Drop for Answer {
    fn drop(&mut self) {
        if !self.sent {
            self.send(-libc::EIO, Bytes::none());
        }
    }
}

/// Fields of an answer, in this machine's byte order.
#[derive(Debug, Default)]
pub struct Fields(pub Vec<u8>);

impl Fields {
    /// The next field.
    pub fn u32(mut self, field: u32) -> Self {
        self.0.extend(field.to_ne_bytes());
        self
    }

    /// The next field.
    pub fn i32(self, field: i32) -> Self {
        self.u32(field.cast_unsigned())
    }

    /// The next field.
    pub fn u64(mut self, field: u64) -> Self {
        self.0.extend(field.to_ne_bytes());
        self
    }

    /// Bytes as they are.
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    /// An inode under a name: its number for the kernel, how long the name holds, and its attributes.
    pub fn entry(self, (node, name_valid): (u64, Duration), attr: &Attr) -> Self {
        let generation = 0;
        let fields = self.u64(node).u64(generation).u64(name_valid.as_secs()).u64(attr.valid.as_secs());
        fields.u32(name_valid.subsec_nanos()).u32(attr.valid.subsec_nanos()).attr(attr)
    }

    /// Attributes, and how long they hold.
    pub fn valid_attr(self, attr: &Attr) -> Self {
        self.u64(attr.valid.as_secs()).u32(attr.valid.subsec_nanos()).u32(0).attr(attr)
    }

    fn attr(self, attr: &Attr) -> Self {
        let kind = match attr.kind {
            Kind::Directory => libc::S_IFDIR,
            Kind::File => libc::S_IFREG,
        };
        let times = [attr.mtime_ns, attr.mtime_ns, attr.ctime_ns];
        let fields = self.u64(attr.ino).u64(attr.size).u64(attr.blocks);
        let fields = times.iter().fold(fields, |fields, ns| fields.u64(ns / SECOND));
        let nanos = |ns: u64| u32::try_from(ns % SECOND).unwrap_or_default();
        let fields = times.iter().fold(fields, |fields, ns| fields.u32(nanos(*ns)));
        let (device, flags) = (0, 0);
        let fields = fields.u32(kind | attr.mode & 0o7777).u32(attr.nlink).u32(attr.uid).u32(attr.gid);
        fields.u32(device).u32(PAGE).u32(flags)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn ends() -> (Arc<File>, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Arc::new(File::from(OwnedFd::from(ours))), theirs)
    }

    #[test]
    fn every_request_is_answered_exactly_once() {
        let (device, mut kernel) = ends();
        let answer = |unique| Answer::to(From::Device(device.clone()), unique);
        answer(7).data(b"bytes".to_vec());
        answer(8).error(Errno::EPERM);
        drop(answer(9));
        drop(device);
        let mut all = Vec::new();
        kernel.read_to_end(&mut all).unwrap();
        let expected = Fields::default().u32(21).u32(0).u64(7).bytes(b"bytes");
        let expected = expected.u32(16).i32(-libc::EPERM).u64(8).u32(16).i32(-libc::EIO).u64(9);
        assert_eq!(all, expected.0);
    }

    #[test]
    fn an_entry_has_the_number_it_is_told_under_and_the_one_that_stat_shows() {
        let attr = Attr {
            ino: 0x101,
            kind: Kind::File,
            mode: 0o644,
            uid: 1,
            gid: 2,
            nlink: 1,
            size: 3,
            blocks: 8,
            mtime_ns: 5 * SECOND + 6,
            ctime_ns: 7,
            btime_ns: 0,
            valid: Duration::ZERO,
        };
        let entry = Fields::default().entry((0x9999, Duration::from_secs(60)), &attr).0;
        assert_eq!(entry.len(), 128);
        let word = |at: usize| u64::from_ne_bytes(entry[at..at + 8].try_into().unwrap());
        assert_eq!((word(0), word(16), word(24), word(40), word(48), word(72)), (0x9999, 60, 0, 0x101, 3, 5));
        assert_eq!(Fields::default().valid_attr(&attr).0.len(), 104);
    }
}
