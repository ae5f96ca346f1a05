//! The kernel's first request: which protocol is spoken, and which of its parts are wanted.

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;

use super::answer::{Answer, Fields, From};
use super::body::{Body, Header};
use super::numbers::OP_INIT;
use super::{BUFFER_BYTES, MAX_WRITE, PAGE, REQUEST_PAGES};
use crate::fs::types::Errno;

/// The protocol that is spoken. The kernel goes down to it, and we ask for nothing newer than `LEAST_MINOR` has.
const MAJOR: u32 = 7;
const MINOR: u32 = 40;
/// Largest requests that can be asked for are in it.
const LEAST_MINOR: u32 = 28;
/// Bytes of the answer that are reserved.
const RESERVED: [u8; 24] = [0; 24];

const ASYNC_READ: u32 = 1 << 0;
const POSIX_LOCKS: u32 = 1 << 1;
const BIG_WRITES: u32 = 1 << 5;
const FLOCK_LOCKS: u32 = 1 << 10;
const DO_READDIRPLUS: u32 = 1 << 13;
const READDIRPLUS_AUTO: u32 = 1 << 14;
const PARALLEL_DIROPS: u32 = 1 << 18;
const MAX_PAGES: u32 = 1 << 22;
/// More flags follow.
const INIT_EXT: u32 = 1 << 30;
/// Of those that follow: requests over io_uring.
const OVER_IO_URING: u32 = 1 << 9;
/// Without these no record is whole or absent.
const NEEDED: u32 = BIG_WRITES | MAX_PAGES;
/// What serves locks.
const LOCKS: u32 = POSIX_LOCKS | FLOCK_LOCKS;
/// What else is asked for. What would change what we have to serve is not.
const WANTED: u32 = NEEDED | ASYNC_READ | DO_READDIRPLUS | READDIRPLUS_AUTO | PARALLEL_DIROPS;

/// Requests that the kernel may have in flight in the background, and from how many on it holds them back.
const MAX_BACKGROUND: u32 = super::super::MAX_BACKGROUND as u32;
const CONGESTED: u32 = MAX_BACKGROUND * 3 / 4;

/// What is asked of the kernel.
#[derive(Debug, Clone, Copy)]
pub struct Wish {
    /// To pass locks on.
    pub locks: bool,
    /// To send requests over io_uring, if it does that.
    pub uring: bool,
    /// To send requests of many pieces.
    pub pieces: bool,
}

/// What was agreed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreed {
    /// Requests come over io_uring.
    pub uring: bool,
    /// Bytes that a request over io_uring has to have room for: more than it ever holds.
    pub data: usize,
}

/// Answer it.
pub fn greet(device: &Arc<File>, wish: Wish) -> io::Result<Agreed> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let len = match (&**device).read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        let (header, body) = buffer.get(..len).and_then(Header::split).ok_or(io::ErrorKind::InvalidData)?;
        let answer = Answer::to(From::Device(device.clone()), header.unique);
        if header.opcode != OP_INIT {
            return Err(io::Error::other("the kernel did not begin with a greeting"));
        }
        match reply(body, wish) {
            Ok((fields, agreed)) => {
                answer.fields(fields);
                if let Some(agreed) = agreed {
                    return Ok(agreed);
                }
            }
            Err(text) => {
                answer.error(Errno(libc::EPROTO));
                return Err(io::Error::other(text));
            }
        }
    }
}

/// What to answer, and what is agreed; if nothing is, the kernel greets once more, in our words.
fn reply(mut body: Body<'_>, wish: Wish) -> Result<(Fields, Option<Agreed>), &'static str> {
    let short = "the kernel's greeting is too short";
    let mut next = || body.u32().ok_or(short);
    let (major, minor, read_ahead) = (next()?, next()?, next()?);
    if major > MAJOR {
        return Ok((Fields::default().u32(MAJOR).u32(MINOR), None));
    }
    if (major, minor) < (MAJOR, LEAST_MINOR) {
        return Err("a newer kernel is needed (4.20)");
    }
    let has = next()?;
    if has & NEEDED != NEEDED {
        return Err("this kernel splits large writes: a newer one is needed (4.20)");
    }
    if wish.locks && has & LOCKS != LOCKS {
        return Err("`parallel` needs a kernel that passes locks on: mount without it");
    }
    let more = if has & INIT_EXT != 0 { body.u32().unwrap_or_default() } else { 0 };
    let uring = wish.uring && more & OVER_IO_URING != 0;
    let locks = if wish.locks { LOCKS } else { 0 };
    let (more, ext) = if uring { (OVER_IO_URING, INIT_EXT) } else { (0, 0) };
    // Those of a write of many pieces are not full.
    let pages = MAX_WRITE.max(read_ahead).div_ceil(PAGE).max(if wish.pieces { REQUEST_PAGES } else { 0 });
    let pages = pages.min(u32::from(u16::MAX));
    let map_alignment = 0;
    let fields = Fields::default().u32(MAJOR).u32(MINOR).u32(read_ahead).u32(has & (WANTED | locks | ext));
    let fields = fields.u32(pair(MAX_BACKGROUND, CONGESTED)).u32(MAX_WRITE);
    let (time_granularity, stack_depth) = (1, 0);
    let fields = fields.u32(time_granularity).u32(pair(pages, map_alignment)).u32(more).u32(stack_depth);
    let agreed = Agreed { uring, data: (pages * PAGE) as usize };
    Ok((fields.bytes(&RESERVED), Some(agreed)))
}

/// Two fields of 16 bits, the first of them first in memory.
fn pair(first: u32, second: u32) -> u32 {
    let [first, second] = [first, second].map(|field| u16::try_from(field).unwrap_or(u16::MAX).to_ne_bytes());
    u32::from_ne_bytes([first[0], first[1], second[0], second[1]])
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARALLEL: Wish = Wish { locks: true, uring: false, pieces: false };
    const URING: Wish = Wish { locks: false, uring: true, pieces: true };

    fn greet(words: &[u32], wish: Wish) -> Result<(Vec<u8>, Option<Agreed>), &'static str> {
        let mut request: Vec<u8> = (words.len() as u32 * 4 + 40).to_ne_bytes().to_vec();
        request.resize(40, 0);
        words.iter().for_each(|word| request.extend(word.to_ne_bytes()));
        let (_, body) = Header::split(&request).unwrap();
        reply(body, wish).map(|(fields, agreed)| (fields.0, agreed))
    }

    #[test]
    fn only_what_is_wanted_and_offered_is_asked_for() {
        let (answer, agreed) = greet(&[7, 45, 131_072, u32::MAX, u32::MAX, 0], PARALLEL).unwrap();
        assert_eq!(agreed, Some(Agreed { uring: false, data: 257 * 4096 }));
        assert_eq!(answer.len(), 64);
        assert_eq!(answer[12..16], (WANTED | LOCKS).to_ne_bytes());
        assert_eq!((&answer[16..20], &answer[32..36]), (&[64, 0, 48, 0][..], &[0; 4][..]));
        let (answer, _) = greet(&[7, 31, 131_072, NEEDED | LOCKS], PARALLEL).unwrap();
        assert_eq!(answer[12..16], (NEEDED | LOCKS).to_ne_bytes());
    }

    #[test]
    fn requests_come_over_io_uring_where_the_kernel_offers_it() {
        let (answer, agreed) = greet(&[7, 45, 131_072, u32::MAX, OVER_IO_URING | 1], URING).unwrap();
        assert_eq!(agreed, Some(Agreed { uring: true, data: 2304 * 4096 }));
        assert_eq!(answer[12..16], (WANTED | INIT_EXT).to_ne_bytes(), "and no locks");
        assert_eq!(answer[32..36], OVER_IO_URING.to_ne_bytes());
        for offered in
            [&[7, 45, 0, u32::MAX, !OVER_IO_URING][..], &[7, 45, 0, !INIT_EXT, OVER_IO_URING], &[7, 31, 0, NEEDED]]
        {
            let (answer, agreed) = greet(offered, URING).unwrap();
            assert!(!agreed.unwrap().uring);
            assert_eq!((&answer[32..36], answer[15] & 0x40), (&[0; 4][..], 0));
        }
    }

    #[test]
    fn other_kernels_are_told_so() {
        assert_eq!(greet(&[8, 0, 0], PARALLEL).unwrap().1, None, "and greet again");
        assert!(greet(&[7, 27, 0, u32::MAX], PARALLEL).unwrap_err().contains("newer kernel"));
        assert!(greet(&[7, 40, 0, !FLOCK_LOCKS], PARALLEL).unwrap_err().contains("locks"));
        assert!(greet(&[7, 40, 0, !MAX_PAGES], URING).unwrap_err().contains("large writes"));
        assert!(greet(&[7, 40], PARALLEL).is_err());
    }
}
