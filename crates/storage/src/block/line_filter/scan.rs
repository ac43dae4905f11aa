//! Finds the id-like tokens and the words of a page, 64 bytes at a time.
//!
//! Of each byte three bits are computed: whether it is a digit, whether it *continues* a token, that is: it and the
//! byte before it are letters or digits of the same line, and whether it continues a word: both are letters. A token
//! of at least eight bytes then is a byte that continues none, followed by seven that do; the rest is shifting words.

use super::{ID_LEN, WORD_LEN};

/// Bit sets over the bytes of a page, kept from page to page.
#[derive(Default)]
pub struct Masks {
    continues: Vec<u64>,
    digit: Vec<u64>,
    /// Whether a byte continues a word.
    letters: Vec<u64>,
}

impl Masks {
    /// Classifies the bytes of a page: lines of these lengths, one after the other.
    pub fn fill(&mut self, data: &[u8], lengths: &[u32]) {
        self.classify(data);
        let mut at = 0;
        for length in lengths {
            // A line's first byte continues nothing.
            if let (Some(token), Some(word)) =
                (self.continues.get_mut(at / 64), self.letters.get_mut(at / 64))
            {
                *token &= !(1 << (at % 64));
                *word &= !(1 << (at % 64));
            }
            at += *length as usize;
        }
    }

    /// Calls `each` with the start and the end of every id-like token of the page.
    pub(super) fn for_each_id(&self, mut each: impl FnMut(usize, usize)) {
        for i in 0..self.continues.len().saturating_sub(1) {
            let mut starts = self.long_starts(i);
            while starts != 0 {
                let start = i * 64 + starts.trailing_zeros() as usize;
                starts &= starts - 1;
                let end = self.end_of(start);
                if self.has_digit(start, end) {
                    each(start, end);
                }
            }
        }
    }

    /// Calls `each` with the start and the length of every run of at least [`WORD_LEN`] letters of the page. Lengths
    /// of 64 and more are not told apart.
    #[inline]
    pub(super) fn for_each_word(&self, mut each: impl FnMut(usize, usize)) {
        for (i, pair) in self.letters.windows(2).enumerate() {
            let (this, next) = (pair[0], pair[1]);
            let mut starts = !this;
            for n in 1..WORD_LEN {
                starts &= (this >> n) | (next << (64 - n));
            }
            while starts != 0 {
                let bit = starts.trailing_zeros();
                starts &= starts - 1;
                // What follows the first letter, 64 bytes of it.
                let following = ((this >> bit) >> 1) | (next << (63 - bit));
                each(i * 64 + bit as usize, 1 + following.trailing_ones() as usize);
            }
        }
    }

    fn classify(&mut self, data: &[u8]) {
        let words = data.len().div_ceil(64);
        // One more word, so that each has a next.
        for set in [&mut self.continues, &mut self.digit, &mut self.letters] {
            set.clear();
            set.reserve(words + 1);
        }
        let (mut carry, mut letter_carry) = (0, 0);
        let mut add = |chunk: &[u8; 64]| {
            let (alnum, digit) = classify(chunk);
            let letter = alnum & !digit;
            self.continues.push(alnum & ((alnum << 1) | carry));
            self.digit.push(digit);
            self.letters.push(letter & ((letter << 1) | letter_carry));
            (carry, letter_carry) = (alnum >> 63, letter >> 63);
        };
        let (chunks, rest) = data.as_chunks::<64>();
        chunks.iter().for_each(&mut add);
        if !rest.is_empty() {
            let mut last = [0; 64];
            last[..rest.len()].copy_from_slice(rest);
            add(&last);
        }
        self.continues.push(0);
        self.digit.push(0);
        self.letters.push(0);
    }

    /// The bytes of word `i` that begin tokens of at least eight bytes.
    #[inline]
    fn long_starts(&self, i: usize) -> u64 {
        let both = u128::from(self.continues[i]) | u128::from(self.continues[i + 1]) << 64;
        let one = both >> 1;
        let two = one & (one >> 1);
        let four = two & (two >> 2);
        let seven = four & (four >> 3);
        seven as u64 & !self.continues[i]
    }

    /// The end of the token of at least eight bytes at `start`.
    #[inline]
    fn end_of(&self, start: usize) -> usize {
        let from = start + ID_LEN;
        let (mut i, bit) = (from / 64, from % 64);
        let mut stops = !self.continues[i] >> bit << bit;
        while stops == 0 {
            i += 1;
            stops = !self.continues[i];
        }
        i * 64 + stops.trailing_zeros() as usize
    }

    #[inline]
    fn has_digit(&self, start: usize, end: usize) -> bool {
        let (mut i, bit) = (start / 64, start % 64);
        let mut word = self.digit[i] >> bit << bit;
        loop {
            if word != 0 {
                return i * 64 + (word.trailing_zeros() as usize) < end;
            }
            i += 1;
            if i * 64 >= end {
                return false;
            }
            word = self.digit[i];
        }
    }
}

/// Which of 64 bytes are ASCII letters or digits, and which are digits.
#[inline]
fn classify(chunk: &[u8; 64]) -> (u64, u64) {
    // Ones and zeros, byte by byte: the compiler makes vector instructions of it.
    let (mut alnum, mut digit) = ([0u8; 64], [0u8; 64]);
    for ((byte, alnum), digit) in chunk.iter().zip(&mut alnum).zip(&mut digit) {
        *digit = u8::from(byte.wrapping_sub(b'0') < 10);
        *alnum = *digit | u8::from((byte | 0x20).wrapping_sub(b'a') < 26);
    }
    (gather(&alnum), gather(&digit))
}

/// A word with the lowest bit of each of 64 bytes, which are zero or one.
#[inline]
fn gather(ones: &[u8; 64]) -> u64 {
    let words = ones.as_chunks::<8>().0.iter().enumerate();
    words.fold(0, |all, (i, word)| {
        // The product's highest byte collects the eight bytes' lowest bits.
        all | (u64::from_le_bytes(*word).wrapping_mul(0x0102_0408_1020_4080) >> 56) << (8 * i)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_byte_is_classified() {
        for b in 0..=255u8 {
            for at in [0, 7, 8, 15, 16, 63] {
                let mut chunk = [b' '; 64];
                chunk[at] = b;
                let expected =
                    (u64::from(b.is_ascii_alphanumeric()) << at, u64::from(b.is_ascii_digit()) << at);
                assert_eq!(classify(&chunk), expected, "{b}");
            }
        }
    }

    fn by_hand(lines: &[Vec<u8>]) -> Vec<(usize, usize)> {
        let (mut out, mut base) = (vec![], 0);
        for line in lines {
            let mut at = 0;
            for token in line.split(|b| !b.is_ascii_alphanumeric()) {
                if token.len() >= 8 && token.iter().any(u8::is_ascii_digit) {
                    out.push((base + at, base + at + token.len()));
                }
                at += token.len() + 1;
            }
            base += line.len();
        }
        out
    }

    proptest! {
        #[test]
        fn finds_the_tokens_that_splitting_finds(
            lines in proptest::collection::vec("([a-z]{1,9}|[0-9A-F]{3,80}|[ é\n=]|[a-f0-9]{8}){0,12}", 0..12)
        ) {
            let lines: Vec<Vec<u8>> = lines.into_iter().map(String::into_bytes).collect();
            let lengths: Vec<u32> = lines.iter().map(|l| l.len() as u32).collect();
            let (mut masks, mut found) = (Masks::default(), vec![]);
            masks.fill(&lines.concat(), &lengths);
            masks.for_each_id(|s, e| found.push((s, e)));
            prop_assert_eq!(found, by_hand(&lines));
        }

        #[test]
        fn finds_the_words_that_splitting_finds(
            lines in proptest::collection::vec("([a-zA-Z]{1,9}|[a-z]{60,70}|[ é\n=7]|[a-f0-9]{8}){0,12}", 0..12)
        ) {
            let lines: Vec<Vec<u8>> = lines.into_iter().map(String::into_bytes).collect();
            let lengths: Vec<u32> = lines.iter().map(|l| l.len() as u32).collect();
            let (mut masks, mut found, mut expected, mut base) = (Masks::default(), vec![], vec![], 0);
            masks.fill(&lines.concat(), &lengths);
            masks.for_each_word(|s, len| found.push((s, len)));
            for line in &lines {
                let mut at = base;
                for word in line.split(|b| !b.is_ascii_alphabetic()) {
                    if word.len() >= WORD_LEN {
                        expected.push((at, word.len().min(64)));
                    }
                    at += word.len() + 1;
                }
                base += line.len();
            }
            found.iter_mut().for_each(|f| f.1 = f.1.min(64));
            prop_assert_eq!(found, expected);
        }
    }
}
