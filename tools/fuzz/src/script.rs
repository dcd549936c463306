//! A fuzzer's input, read as a script: a byte here, a number there, and zeros once it has ended.

/// What is left of an input.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Script<'a> {
    rest: &'a [u8],
}

impl<'a> Script<'a> {
    pub(crate) fn new(input: &'a [u8]) -> Script<'a> {
        Script { rest: input }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Up to `count` bytes.
    pub(crate) fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(count.min(self.rest.len()));
        self.rest = rest;
        taken
    }

    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.number::<1>() as u8
    }

    pub(crate) fn short(&mut self) -> usize {
        self.number::<2>() as usize
    }

    /// A little-endian number of `N` bytes, eight at most.
    pub(crate) fn number<const N: usize>(&mut self) -> u64 {
        let mut bytes = [0; 8];
        let taken = self.take(N);
        bytes[..taken.len()].copy_from_slice(taken);
        u64::from_le_bytes(bytes)
    }

    /// One of `count` places.
    pub(crate) fn place(&mut self, count: usize) -> usize {
        self.byte() as usize % count.max(1)
    }
}
