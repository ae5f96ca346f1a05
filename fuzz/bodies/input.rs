//! A fuzzer's input as a stream of numbers and runs of bytes; behind its end everything is zero.

/// What is left of an input.
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Up to `len` bytes.
    pub fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    pub fn u8(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }

    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.u8(), self.u8()])
    }

    pub fn u32(&mut self) -> u32 {
        u32::from(self.u16()) | u32::from(self.u16()) << 16
    }

    pub fn u64(&mut self) -> u64 {
        u64::from(self.u32()) | u64::from(self.u32()) << 32
    }

    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        usize::from(self.u16()) % n.max(1)
    }

    /// A 64-bit number that is near something: `old`, one of `known`, a power of two, zero or the largest.
    pub fn near(&mut self, old: u64, known: &[u64]) -> u64 {
        match self.u8() % 8 {
            0 => self.u64(),
            1 => old.wrapping_add_signed(i64::from(self.u8() as i8)),
            2 => old.wrapping_add_signed(16 * i64::from(self.u8() as i8)),
            3 => {
                let base = known.get(self.below(known.len())).copied().unwrap_or(old);
                base.wrapping_add_signed(i64::from(self.u8() as i8))
            }
            4 => u64::from(self.u8()),
            5 => u64::MAX - u64::from(self.u8()),
            6 => 1u64.rotate_left(u32::from(self.u8())).wrapping_sub(u64::from(self.u8())),
            _ => u64::from(self.u32()),
        }
    }
}
