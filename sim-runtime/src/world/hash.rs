//! The one mixing function behind every hash that decides or identifies: the same on every machine and build.
//!
//! Not cryptographic. Draws that need quality come from ChaCha ([`super::draws`]); this serves orders, identities and
//! the rolling digest, where it runs for every event.

/// Odd constants with balanced bits (digits of pi, and of the golden ratio).
pub(crate) const K0: u64 = 0x243f_6a88_85a3_08d3;
pub(crate) const K1: u64 = 0x1319_8a2e_0370_7345;
pub(crate) const K2: u64 = 0xa409_3822_299f_31d1;
pub(crate) const K3: u64 = 0x9e37_79b9_7f4a_7c15;

/// The two halves of the 128-bit product, folded.
#[inline]
pub(crate) const fn fold(a: u64, b: u64) -> u64 {
    let product = (a as u128) * (b as u128);
    (product as u64) ^ ((product >> 64) as u64)
}

/// Mixes two words into one; every bit of both reaches every bit of the result.
#[inline]
pub(crate) const fn mix(a: u64, b: u64) -> u64 {
    let once = fold(a ^ K0, b ^ K1);
    fold(once.wrapping_add(a) ^ K2, K3 ^ b.rotate_left(32))
}

/// Mixes any number of words, in order; the length counts.
#[inline]
pub(crate) const fn mix_all(words: &[u64]) -> u64 {
    let mut state = K3 ^ (words.len() as u64);
    let mut index = 0;
    while index < words.len() {
        state = mix(state, words[index]);
        index += 1;
    }
    state
}

/// Hashes a text; usable in constants.
pub(crate) const fn text(text: &str) -> u64 {
    let bytes = text.as_bytes();
    let mut state = K2 ^ (bytes.len() as u64);
    let mut index = 0;
    while index < bytes.len() {
        let mut word = 0;
        let mut shift = 0;
        while shift < 64 && index < bytes.len() {
            word |= (bytes[index] as u64) << shift;
            shift += 8;
            index += 1;
        }
        state = mix(state, word);
    }
    state
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One flipped input bit changes about half of the output bits, wherever it is.
    #[test]
    fn every_input_bit_reaches_the_whole_output() {
        for bit in 0..64 {
            let mut flipped = [0u32; 2];
            for sample in 0..256u64 {
                let (a, b) = (sample.wrapping_mul(K3), sample.wrapping_mul(K1));
                flipped[0] += (mix(a, b) ^ mix(a ^ (1 << bit), b)).count_ones();
                flipped[1] += (mix(a, b) ^ mix(a, b ^ (1 << bit))).count_ones();
            }
            for total in flipped {
                let mean = total / 256;
                assert!((28..=36).contains(&mean), "bit {bit} flips {mean} bits on average");
            }
        }
    }

    #[test]
    fn order_and_length_count() {
        assert_ne!(mix_all(&[1, 2]), mix_all(&[2, 1]));
        assert_ne!(mix_all(&[0]), mix_all(&[0, 0]));
        assert_ne!(text("ab"), text("ab\0"));
        assert_ne!(text("disk"), text("desk"));
    }
}
