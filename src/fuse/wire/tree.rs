//! Names and directories: what is made, moved and listed. With `-o parallel` each log is told of under a number of its own,
//! and its name holds for that one call.

use super::answer::{Answer, Fields};
use super::body::{Body, Header};
use super::serve::open_fields;
use crate::fs::LlamaFs;
use crate::fs::types::{Attr, Entry, Errno, Kind, New, Opened};

/// Entries lie on this boundary.
const ALIGNMENT: usize = 8;
/// Longest text of one answer: the kernel asks for a few pages.
const LONGEST: usize = 1 << 20;

/// Each entry that the kernel gets is one that it will forget.
pub fn entry(fs: &LlamaFs, result: Result<Attr, Errno>, answer: Answer) {
    match result {
        Ok(attr) if !fs.remember(attr.ino) => answer.error(Errno::ENOENT),
        Ok(attr) => answer.fields(Fields::default().entry(fs.entry(attr.ino), &attr)),
        Err(errno) => answer.error(errno),
    }
}

/// The kernel has applied the umask.
fn new<'a>(header: &Header, mode: u32, name: &'a [u8]) -> New<'a> {
    New { parent: header.node, name, mode, uid: header.uid, gid: header.gid }
}

/// `mknod`.
pub fn mknod(fs: &LlamaFs, header: &Header, body: &mut Body<'_>, answer: Answer) -> Option<()> {
    let (mode, _device, _umask, _) = (body.u32()?, body.u32()?, body.u32()?, body.u32()?);
    let me = fs.clone();
    fs.mknod(&new(header, mode, body.name()?), move |result| entry(&me, result, answer));
    Some(())
}

/// `mkdir`.
pub fn mkdir(fs: &LlamaFs, header: &Header, body: &mut Body<'_>, answer: Answer) -> Option<()> {
    let (mode, _umask) = (body.u32()?, body.u32()?);
    let me = fs.clone();
    fs.mkdir(&new(header, mode, body.name()?), move |result| entry(&me, result, answer));
    Some(())
}

/// `open` with `O_CREAT`.
pub fn create(fs: &LlamaFs, header: &Header, body: &mut Body<'_>, answer: Answer) -> Option<()> {
    let (flags, mode, _umask, _) = (body.i32()?, body.u32()?, body.u32()?, body.u32()?);
    let me = fs.clone();
    let done = move |result: Result<(Attr, Opened), Errno>| match result {
        Ok((attr, how)) => {
            // It is open, so it is there.
            me.remember(attr.ino);
            answer.fields(open_fields(&me, Fields::default().entry(me.entry(attr.ino), &attr), &how));
        }
        Err(errno) => answer.error(errno),
    };
    fs.create(&new(header, mode, body.name()?), flags, done);
    Some(())
}

/// `rename`, and `renameat2` where `with_flags`.
pub fn rename(fs: &LlamaFs, header: &Header, body: &mut Body<'_>, with_flags: bool, answer: Answer) -> Option<()> {
    let to = body.u64()?;
    let flags = if with_flags { (body.u32()?, body.u32()?).0 } else { 0 };
    let (old, new) = (body.name()?, body.name()?);
    fs.rename((header.node, old), (to, new), flags, |result| answer.result(result));
    Some(())
}

/// A directory's text, up to a length.
struct Listing {
    text: Vec<u8>,
    limit: usize,
}

impl Listing {
    /// The request's place, and a text of the length that it asks for.
    fn asked(body: &mut Body<'_>) -> Option<(u64, Self)> {
        let (_fh, from, len) = (body.u64()?, body.u64()?, body.u32()?);
        Some((from, Self { text: Vec::new(), limit: LONGEST.min(len as usize) }))
    }

    /// Add an entry behind what goes in front of it. True: it is full, and this one is not in it.
    fn add(&mut self, before: Fields, entry: &Entry) -> bool {
        let kind = match entry.kind {
            Kind::Directory => libc::DT_DIR,
            Kind::File => libc::DT_REG,
        };
        let name_len = u32::try_from(entry.name.len()).unwrap_or_default();
        let fields = before.u64(entry.ino).u64(entry.next).u32(name_len).u32(u32::from(kind)).bytes(&entry.name);
        let padded = fields.0.len().next_multiple_of(ALIGNMENT);
        if self.text.len() + padded > self.limit {
            return true;
        }
        self.text.extend(fields.0);
        self.text.resize(self.text.len().next_multiple_of(ALIGNMENT), 0);
        false
    }

    fn answer(self, result: Result<(), Errno>, answer: Answer) {
        match result {
            Ok(()) => answer.data(self.text),
            Err(errno) => answer.error(errno),
        }
    }
}

/// `readdir`.
pub fn readdir(fs: &LlamaFs, node: u64, body: &mut Body<'_>, answer: Answer) -> Option<()> {
    let (from, mut listing) = Listing::asked(body)?;
    let result = fs.readdir(node, from, |entry| listing.add(Fields::default(), entry));
    listing.answer(result, answer);
    Some(())
}

/// `readdir`, with attributes. With `-o parallel` a log's are not given: whoever looks at it looks its name up, and only then
/// is it told of under a number.
pub fn readdirplus(fs: &LlamaFs, node: u64, body: &mut Body<'_>, answer: Answer) -> Option<()> {
    let (from, mut listing) = Listing::asked(body)?;
    let result = fs.readdirplus(node, from, |entry, attr| {
        // The kernel takes no entry of `.` and `..`.
        let named = entry.name != b"." && entry.name != b"..";
        let told = named && (entry.kind == Kind::Directory || !fs.parallel());
        // What is gone meanwhile is left out.
        if told && !fs.remember(entry.ino) {
            return false;
        }
        let number = if told { fs.entry(entry.ino) } else { Default::default() };
        let full = listing.add(Fields::default().entry(number, attr), entry);
        if full && told {
            fs.forget(entry.ino, 1);
        }
        full
    });
    listing.answer(result, answer);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_ends_before_the_entry_that_is_too_much() {
        let entry = |name: &[u8]| Entry { ino: 9, next: 4, kind: Kind::File, name: name.to_vec() };
        let mut listing = Listing { text: Vec::new(), limit: 32 + 24 };
        assert!(!listing.add(Fields::default(), &entry(b"12345678")));
        assert!(listing.add(Fields::default(), &entry(b"1")));
        assert!(!listing.add(Fields::default(), &entry(b"")));
        assert_eq!((listing.text.len(), &listing.text[24..32]), (56, &b"12345678"[..]));
    }
}
