//! Bytes as decisions: what a fuzzer changes, a harness reads as choices.

/// Bytes that are read from the front. At their end everything reads as zero, so that every input is a whole one.
#[derive(Clone, Debug)]
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// All of `bytes`.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Whether nothing is left.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        let Some((byte, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *byte
    }

    /// The next eight bytes, little endian.
    pub fn number(&mut self) -> u64 {
        (0..8).fold(0, |number, at| number | u64::from(self.byte()) << (8 * at))
    }

    /// One of `count` places, from the next byte or two; 0 if there is none to choose.
    pub fn index(&mut self, count: usize) -> usize {
        let choice =
            if count > 256 { usize::from(self.byte()) << 8 | usize::from(self.byte()) } else { self.byte().into() };
        choice.checked_rem(count).unwrap_or(0)
    }

    /// One of these, or `None` of nothing.
    pub fn pick<'b, T>(&mut self, choices: &'b [T]) -> Option<&'b T> {
        choices.get(self.index(choices.len()))
    }

    /// At most `max` of the bytes that are left, as many as the next byte says.
    pub fn some(&mut self, max: usize) -> &'a [u8] {
        let len = usize::from(self.byte()).min(max).min(self.0.len());
        let (some, rest) = self.0.split_at(len);
        self.0 = rest;
        some
    }

    /// Everything that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
}
