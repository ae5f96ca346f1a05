//! What a request says: its header, and the fields behind it one after the other, in this machine's byte order.

/// The head of each request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What is asked for.
    pub opcode: u32,
    /// Under which number it is answered.
    pub unique: u64,
    /// The inode, under the number that the kernel was told of it.
    pub node: u64,
    /// Who asks.
    pub uid: u32,
    /// Their group.
    pub gid: u32,
    /// The thread that asks; 0 if it has no number here.
    pub pid: u32,
}

impl Header {
    /// Bytes of it.
    pub const BYTES: usize = 40;

    /// A request's header and what is behind it.
    pub fn split(request: &[u8]) -> Option<(Self, Body<'_>)> {
        let (head, fields) = request.split_at_checked(Self::BYTES)?;
        Self::of_three(head, fields, &[])
    }

    /// A request that comes in three pieces: its header, the fields behind it, and the bytes that follow them.
    pub fn of_three<'a>(head: &[u8], fields: &'a [u8], rest: &'a [u8]) -> Option<(Self, Body<'a>)> {
        let bytes = head.len().checked_add(fields.len())?.checked_add(rest.len())?;
        let mut body = Body(head, &[]);
        let len = body.u32()?;
        let (opcode, unique, node) = (body.u32()?, body.u64()?, body.u64()?);
        let (uid, gid, pid) = (body.u32()?, body.u32()?, body.u32()?);
        // The length of extensions that nobody asked for.
        body.u32()?;
        let header = Self { opcode, unique, node, uid, gid, pid };
        (usize::try_from(len) == Ok(bytes)).then_some((header, Body(fields, rest)))
    }
}

/// What is left of a request: of its first piece, and its second. No field lies in both.
#[derive(Debug, Clone, Copy)]
pub struct Body<'a>(&'a [u8], &'a [u8]);

impl<'a> Body<'a> {
    /// The piece that the next field is in.
    fn piece(&mut self) -> &'a [u8] {
        if self.0.is_empty() {
            self.0 = std::mem::take(&mut self.1);
        }
        self.0
    }

    fn chunk<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (chunk, rest) = self.piece().split_first_chunk()?;
        self.0 = rest;
        Some(*chunk)
    }

    /// The next field.
    pub fn u32(&mut self) -> Option<u32> {
        self.chunk().map(u32::from_ne_bytes)
    }

    /// The next field.
    pub fn i32(&mut self) -> Option<i32> {
        self.chunk().map(i32::from_ne_bytes)
    }

    /// The next field.
    pub fn u64(&mut self) -> Option<u64> {
        self.chunk().map(u64::from_ne_bytes)
    }

    /// A name, which ends in a zero byte.
    pub fn name(&mut self) -> Option<&'a [u8]> {
        let piece = self.piece();
        let end = piece.iter().position(|byte| *byte == 0)?;
        let (name, rest) = piece.split_at_checked(end)?;
        self.0 = rest.get(1..)?;
        Some(name)
    }

    /// Exactly so many bytes.
    pub fn bytes(&mut self, len: u32) -> Option<&'a [u8]> {
        let (bytes, rest) = self.piece().split_at_checked(usize::try_from(len).ok()?)?;
        self.0 = rest;
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_taken_apart_and_never_read_past_its_end() {
        let mut request = Vec::new();
        for word in [53u32, 17] {
            request.extend(word.to_ne_bytes());
        }
        for word in [0x1122_3344_5566u64, 9] {
            request.extend(word.to_ne_bytes());
        }
        for word in [1000u32, 100, 4711, 0] {
            request.extend(word.to_ne_bytes());
        }
        assert_eq!(request.len(), 40);
        request.extend(*b"old\0new\0\x07\0\0\0");
        request.push(1);
        let (header, mut body) = Header::split(&request).unwrap();
        assert_eq!(header, Header { opcode: 17, unique: 0x1122_3344_5566, node: 9, uid: 1000, gid: 100, pid: 4711 });
        assert_eq!((body.name(), body.name()), (Some(&b"old"[..]), Some(&b"new"[..])));
        assert_eq!((body.u32(), body.u32(), body.bytes(2), body.bytes(1)), (Some(7), None, None, Some(&[1][..])));
        assert_eq!((body.name(), body.u64(), body.i32()), (None, None, None));
        for len in 0..request.len() {
            assert!(Header::split(&request[..len]).is_none(), "{len} of {} bytes", request.len());
        }
    }

    #[test]
    fn a_request_in_pieces_says_the_same() {
        let mut request = vec![0; 40];
        request.extend(7u64.to_ne_bytes());
        request.extend(*b"name\0bytes");
        let len = request.len() as u32;
        request[..4].copy_from_slice(&len.to_ne_bytes());
        for at in [40, 48] {
            let (header, mut body) = Header::of_three(&request[..40], &request[40..at], &request[at..]).unwrap();
            assert_eq!(Header::split(&request).unwrap().0, header);
            assert_eq!((body.u64(), body.name(), body.bytes(5)), (Some(7), Some(&b"name"[..]), Some(&b"bytes"[..])));
            assert_eq!((body.name(), body.bytes(1), body.u32()), (None, None, None));
            assert!(Header::of_three(&request[..40], &request[40..at], &request[at + 1..]).is_none());
        }
        // A field that would lie in two pieces is none.
        let (_, mut body) = Header::of_three(&request[..40], &request[40..44], &request[44..]).unwrap();
        assert_eq!((body.u64(), body.u32()), (None, Some(7)));
    }
}
