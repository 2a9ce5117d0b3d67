//! Draws: every random choice of a run is a pure function of (seed, purpose, entity, ordinal).
//!
//! ChaCha8 with the seed as key, a hash of purpose and entity as stream, the ordinal as position. One more draw in one
//! place therefore changes none elsewhere, which is what makes shrinking work and keeps neighbouring seeds
//! uncorrelated. All distributions are integer arithmetic, so that no platform's `ln` decides a run.
//!
//! Two readers share the distributions: [`Stream`] walks the ordinals of one entity; [`Dice`] expands the single draw of
//! one ordinal, for an event that needs several numbers and must not shift those of the next event.

use super::hash;

/// What a draw is for. Two purposes never share a draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Purpose(pub &'static str);

impl Purpose {
    const fn stream_of(self, entity: u64) -> u64 {
        hash::mix(hash::text(self.0), entity)
    }
}

/// Mixes several ids into one stable entity. Order and number count.
pub fn entity(ids: &[u64]) -> u64 {
    hash::mix_all(ids)
}

/// The ChaCha key of a seed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key([u32; 8]);

impl Key {
    pub fn of_seed(seed: u64) -> Key {
        let mut key = [0; 8];
        for (index, pair) in key.chunks_exact_mut(2).enumerate() {
            let word = hash::mix(seed, index as u64);
            pair[0] = low(word);
            pair[1] = low(word >> 32);
        }
        Key(key)
    }

    pub fn draw(&self, purpose: Purpose, entity: u64, ordinal: u64) -> u64 {
        chacha8(&self.0, purpose.stream_of(entity), ordinal / 8)[index_in_block(ordinal)]
    }

    pub fn stream(&self, purpose: Purpose, entity: u64) -> Stream {
        Stream { key: *self, stream: purpose.stream_of(entity), ordinal: 0, block: [0; 8] }
    }
}

fn index_in_block(ordinal: u64) -> usize {
    (ordinal % 8) as usize
}

fn low(word: u64) -> u32 {
    (word & 0xffff_ffff) as u32
}

/// One block of ChaCha with 8 rounds: 64 bytes as eight little-endian words. `stream` is the nonce, `block` the counter.
fn chacha8(key: &[u32; 8], stream: u64, block: u64) -> [u64; 8] {
    const SIGMA: [u32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];
    let [k0, k1, k2, k3, k4, k5, k6, k7] = *key;
    let input: [Row; 4] =
        [SIGMA, [k0, k1, k2, k3], [k4, k5, k6, k7], [low(block), low(block >> 32), low(stream), low(stream >> 32)]];
    let [mut a, mut b, mut c, mut d] = input;
    for _ in 0..4 {
        quarters(&mut a, &mut b, &mut c, &mut d);
        // The diagonals become columns.
        (b, c, d) = (turn(b, 1), turn(c, 2), turn(d, 3));
        quarters(&mut a, &mut b, &mut c, &mut d);
        (b, c, d) = (turn(b, 3), turn(c, 2), turn(d, 1));
    }
    let output = [a, b, c, d];
    std::array::from_fn(|index| {
        let word = |at: usize| u64::from(output[at / 4][at % 4].wrapping_add(input[at / 4][at % 4]));
        word(2 * index) | word(2 * index + 1) << 32
    })
}

/// Four words that are treated alike, so that the compiler uses one register for them.
type Row = [u32; 4];

/// Four quarter rounds, one per column.
#[inline(always)]
fn quarters(a: &mut Row, b: &mut Row, c: &mut Row, d: &mut Row) {
    let add = |x: &mut Row, y: &Row| (0..4).for_each(|lane| x[lane] = x[lane].wrapping_add(y[lane]));
    let mix = |x: &mut Row, y: &Row, by: u32| (0..4).for_each(|lane| x[lane] = (x[lane] ^ y[lane]).rotate_left(by));
    add(a, b);
    mix(d, a, 16);
    add(c, d);
    mix(b, c, 12);
    add(a, b);
    mix(d, a, 8);
    add(c, d);
    mix(b, c, 7);
}

#[inline(always)]
fn turn(row: Row, by: usize) -> Row {
    std::array::from_fn(|lane| row[(lane + by) % 4])
}

/// Reads the draws of one (purpose, entity) in order: ordinals 0, 1, 2, ...
#[derive(Clone, Debug)]
pub struct Stream {
    key: Key,
    stream: u64,
    ordinal: u64,
    block: [u64; 8],
}

impl Stream {
    /// The next draw; equal to `draw(purpose, entity, ordinal)`.
    pub fn next_u64(&mut self) -> u64 {
        let index = index_in_block(self.ordinal);
        if index == 0 {
            self.block = chacha8(&self.key.0, self.stream, self.ordinal / 8);
        }
        self.ordinal += 1;
        self.block[index]
    }

    /// The ordinal of the next draw.
    pub fn ordinal(&self) -> u64 {
        self.ordinal
    }
}

/// Several numbers out of one draw.
#[derive(Clone, Copy, Debug)]
pub struct Dice(u64);

impl Dice {
    pub fn new(draw: u64) -> Dice {
        Dice(draw)
    }

    /// The next number: SplitMix64 from the draw.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(hash::K3);
        let word = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }
}

macro_rules! distributions {
    ($reader:ty) => {
        impl $reader {
            /// Uniform in `0..bound`, without bias (Lemire, 2019).
            ///
            /// # Panics
            /// If `bound` is 0.
            pub fn below(&mut self, bound: u64) -> u64 {
                assert!(bound > 0, "a draw below 0 asked for");
                let mut product = u128::from(self.next_u64()) * u128::from(bound);
                if (product as u64) < bound {
                    let reject_below = bound.wrapping_neg() % bound;
                    while (product as u64) < reject_below {
                        product = u128::from(self.next_u64()) * u128::from(bound);
                    }
                }
                (product >> 64) as u64
            }

            /// Uniform in `low..high`; `low` when the range is empty.
            pub fn range(&mut self, low: u64, high: u64) -> u64 {
                if high <= low { low } else { low + self.below(high - low) }
            }

            /// True with a probability in millionths. 0 never, 1 000 000 always.
            pub fn chance(&mut self, ppm: u32) -> bool {
                ppm > 0 && self.below(1_000_000) < u64::from(ppm)
            }

            /// One element, uniformly; `None` of an empty slice.
            pub fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
                if of.is_empty() { None } else { of.get(self.below(of.len() as u64) as usize) }
            }

            /// An index, with probability proportional to its weight; `None` when all weights are 0.
            pub fn weighted(&mut self, weights: &[u32]) -> Option<usize> {
                let total: u64 = weights.iter().copied().map(u64::from).sum();
                if total == 0 {
                    return None;
                }
                let mut left = self.below(total);
                weights.iter().position(|&weight| match left.checked_sub(u64::from(weight)) {
                    Some(rest) => {
                        left = rest;
                        false
                    }
                    None => true,
                })
            }

            /// Shuffles in place, uniformly.
            pub fn shuffle<T>(&mut self, items: &mut [T]) {
                for last in (1..items.len()).rev() {
                    items.swap(last, self.below(last as u64 + 1) as usize);
                }
            }

            /// Exponentially distributed with this mean, at most 44 times the mean.
            pub fn exponential(&mut self, mean: u64) -> u64 {
                scale(negative_ln(self.next_u64()), mean)
            }

            /// `fast` (low, high) usually, `slow` (low, high) with a probability in millionths.
            pub fn bimodal(&mut self, fast: (u64, u64), slow_ppm: u32, slow: (u64, u64)) -> u64 {
                let (low, high) = if self.chance(slow_ppm) { slow } else { fast };
                self.range(low, high)
            }
        }
    };
}

distributions!(Stream);
distributions!(Dice);

/// `-ln((word + 1) / 2^64)` in units of 2^-32.
fn negative_ln(word: u64) -> u64 {
    const LN2: u64 = 0xb172_17f8; // ln 2 in units of 2^-32
    const FRACTION_BITS: u32 = 24;
    let value = word.saturating_add(1);
    let zeros = value.leading_zeros();
    // log2 of the mantissa in [1, 2), bit by bit: squaring doubles the logarithm.
    let mut mantissa = value << zeros;
    let mut fraction = 0u64;
    for _ in 0..FRACTION_BITS {
        let square = (u128::from(mantissa) * u128::from(mantissa)) >> 63;
        fraction <<= 1;
        if square >> 64 == 0 {
            mantissa = square as u64;
        } else {
            fraction |= 1;
            mantissa = (square >> 1) as u64;
        }
    }
    let log2 = (u64::from(63 - zeros) << FRACTION_BITS) | fraction;
    let negative = (64u64 << FRACTION_BITS).saturating_sub(log2);
    ((u128::from(negative) * u128::from(LN2)) >> FRACTION_BITS) as u64
}

fn scale(fixed: u64, by: u64) -> u64 {
    u64::try_from((u128::from(fixed) * u128::from(by)) >> 32).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// draft-strombergson-chacha-test-vectors-01, TC1 (all-zero key and IV), 8 rounds, 256-bit key.
    #[test]
    fn chacha8_gives_the_published_keystream() {
        let published = [
            "3e00ef2f895f40d67f5bb8e81f09a5a12c840ec3ce9a7f3b181be188ef711a1e\
             984ce172b9216f419f445367456d5619314a42a3da86b001387bfdb80e0cfe42",
            "d2aefa0deaa5c151bf0adb6c01f2a5adc0fd581259f9a2aadcf20f8fd566a26b\
             5032ec38bbc5da98ee0c6f568b872a65a08abf251deb21bb4b56e5d8821e68aa",
        ];
        for (block, expected) in (0..).zip(published) {
            let bytes = chacha8(&[0; 8], 0, block).map(u64::to_le_bytes).concat();
            let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(text, expected, "block {block}");
        }
    }

    #[test]
    fn a_stream_reads_what_the_function_gives() {
        let key = Key::of_seed(7);
        let mut stream = key.stream(Purpose("test"), 3);
        for ordinal in 0..50 {
            assert_eq!(stream.ordinal(), ordinal);
            assert_eq!(stream.next_u64(), key.draw(Purpose("test"), 3, ordinal));
        }
    }

    #[test]
    fn seed_purpose_entity_and_ordinal_all_count() {
        let draw = |seed, purpose, entity, ordinal| Key::of_seed(seed).draw(Purpose(purpose), entity, ordinal);
        let base = draw(1, "a", 1, 1);
        for other in [draw(2, "a", 1, 1), draw(1, "b", 1, 1), draw(1, "a", 2, 1), draw(1, "a", 1, 2)] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn below_is_uniform_and_in_bounds() {
        let mut stream = Key::of_seed(0).stream(Purpose("test"), 0);
        let mut counts = [0u32; 6];
        for _ in 0..60_000 {
            counts[stream.below(6) as usize] += 1;
        }
        for count in counts {
            assert!((9_600..10_400).contains(&count), "{counts:?}");
        }
        assert!(stream.below(u64::MAX) < u64::MAX);
        assert_eq!(stream.below(1), 0);
        assert_eq!(stream.range(5, 5), 5);
    }

    #[test]
    fn chance_is_exact_at_the_ends_and_close_between() {
        let mut dice = Dice::new(1);
        assert!((0..1000).all(|_| !dice.chance(0)));
        assert!((0..1000).all(|_| dice.chance(1_000_000)));
        let hits = (0..100_000).filter(|_| dice.chance(30_000)).count();
        assert!((2_800..3_200).contains(&hits), "{hits}");
    }

    #[test]
    fn exponential_has_its_mean_and_its_median() {
        let mut stream = Key::of_seed(0).stream(Purpose("test"), 1);
        let mut values: Vec<u64> = (0..100_000).map(|_| stream.exponential(1_000_000)).collect();
        values.sort_unstable();
        let mean = values.iter().sum::<u64>() / 100_000;
        assert!((980_000..1_020_000).contains(&mean), "mean {mean}");
        let median = values[50_000];
        assert!((680_000..706_000).contains(&median), "median {median}, expected ln 2 of the mean");
        assert!(negative_ln(u64::MAX) < 1 << 10, "the smallest value is next to 0");
    }

    #[test]
    fn weighted_never_picks_weight_zero() {
        let mut dice = Dice::new(9);
        let mut counts = [0u32; 4];
        for _ in 0..10_000 {
            counts[dice.weighted(&[0, 1, 3, 0]).unwrap()] += 1;
        }
        assert_eq!((counts[0], counts[3]), (0, 0));
        assert!((7_200..7_800).contains(&counts[2]), "{counts:?}");
        assert_eq!(dice.weighted(&[0, 0]), None);
    }

    #[test]
    fn shuffle_is_a_permutation_that_differs() {
        let mut items: Vec<u32> = (0..100).collect();
        Dice::new(4).shuffle(&mut items);
        assert_ne!(items, (0..100).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..100).collect::<Vec<_>>());
    }
}
