use std::hash::{BuildHasher, Hasher};

/// Digits of pi after the point, made odd: numbers with nothing up their sleeve.
const PI: [u64; 4] =
    [0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7345, 0xa409_3822_299f_31d1, 0x082e_fa98_ec4e_6c89];

/// Makes [`FoldHasher`]s. All of them are alike.
#[derive(Clone, Copy, Debug, Default)]
pub struct FoldBuildHasher;

impl BuildHasher for FoldBuildHasher {
    type Hasher = FoldHasher;

    fn build_hasher(&self) -> FoldHasher {
        FoldHasher { state: PI[0] }
    }
}

/// A hasher that multiplies 64 by 64 bits and folds the product's halves into
/// each other, one multiplication for sixteen bytes of key.
///
/// It is not keyed: see the crate's notes on hashing before giving it keys that
/// outsiders choose. Its values may change between versions.
#[derive(Clone, Debug)]
pub struct FoldHasher {
    state: u64,
}

fn fold(left: u64, right: u64) -> u64 {
    let product = u128::from(left) * u128::from(right);
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the low half is wanted, the high half is folded into it"
    )]
    let low = product as u64;
    low ^ (product >> 64) as u64
}

fn word(bytes: &[u8], at: usize) -> u64 {
    bytes[at..].first_chunk().map_or(0, |chunk| u64::from_le_bytes(*chunk))
}

fn half_word(bytes: &[u8], at: usize) -> u64 {
    bytes[at..].first_chunk().map_or(0, |chunk| u64::from(u32::from_le_bytes(*chunk)))
}

/// Up to sixteen bytes as two words. Words overlap where there are fewer; the
/// length, which is hashed too, tells such inputs apart.
fn words(bytes: &[u8]) -> (u64, u64) {
    match bytes.len() {
        8.. => (word(bytes, 0), word(bytes, bytes.len() - 8)),
        4.. => (half_word(bytes, 0), half_word(bytes, bytes.len() - 4)),
        0 => (0, 0),
        length => {
            (u64::from(bytes[0]) << 8 | u64::from(bytes[length / 2]), u64::from(bytes[length - 1]))
        }
    }
}

impl Hasher for FoldHasher {
    fn write(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        let mut state = self.state;
        while rest.len() > 16 {
            let (chunk, after) = rest.split_at(16);
            state = fold(state ^ word(chunk, 0), PI[1] ^ word(chunk, 8));
            rest = after;
        }
        let (low, high) = words(rest);
        state = fold(state ^ low, PI[2] ^ high);
        self.state = state ^ (bytes.len() as u64).wrapping_mul(PI[3]);
    }

    fn write_u8(&mut self, value: u8) {
        self.write_u64(u64::from(value));
    }

    fn write_u16(&mut self, value: u16) {
        self.write_u64(u64::from(value));
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        self.state = fold(self.state ^ value, PI[1]);
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }

    fn finish(&self) -> u64 {
        self.state
    }
}

#[cfg(test)]
mod tests {
    use super::FoldBuildHasher;
    use std::collections::HashSet;
    use std::hash::{BuildHasher, Hash};

    fn upper_halves<K: Hash>(keys: impl Iterator<Item = K>) -> Vec<u32> {
        keys.map(|key| {
            u32::try_from(FoldBuildHasher.hash_one(key) >> 32).expect("32 bits are left")
        })
        .collect()
    }

    /// The index takes its bucket and its tag from the upper half, so that half
    /// must differ between keys that differ little.
    fn assert_spread(hashes: &[u32]) {
        let distinct: HashSet<_> = hashes.iter().collect();
        // 65,536 throws into 2^32 places collide half a time on average.
        assert!(hashes.len() - distinct.len() <= 8, "whole hashes collide");
        let mut fill = vec![0_u32; 1024];
        for hash in hashes {
            fill[usize::try_from(hash >> 22).expect("ten bits")] += 1;
        }
        let (least, most) = (fill.iter().min(), fill.iter().max());
        // 64 keys are expected in each place, with a deviation of 8.
        assert!(least > Some(&24) && most < Some(&112), "{least:?} {most:?}");
    }

    #[test]
    fn keys_that_differ_little_spread() {
        assert_spread(&upper_halves((0..65_536).map(|n| format!("run_{n:026}"))));
        assert_spread(&upper_halves((0..65_536).map(|n| format!("{n:x}"))));
        assert_spread(&upper_halves(
            (0..65_536).map(|n| format!("{n:05}-the-same-tail-for-every-key")),
        ));
        assert_spread(&upper_halves(0_u32..65_536));
        assert_spread(&upper_halves((0_u64..65_536).map(|n| n << 40)));
        assert_spread(&upper_halves((0..65_536_u32).map(|n| (n >> 8, n & 255))));
    }

    #[test]
    fn every_byte_and_every_length_counts() {
        let mut seen = HashSet::new();
        for length in 0..70 {
            let blank = vec![0_u8; length];
            assert!(seen.insert(FoldBuildHasher.hash_one(&blank)), "length {length}");
            for at in 0..length {
                let mut one = blank.clone();
                one[at] = 1;
                assert!(seen.insert(FoldBuildHasher.hash_one(&one)), "byte {at} of {length}");
            }
        }
    }

    #[test]
    fn where_one_part_of_a_key_ends_counts() {
        let hash = |key: (&str, &str)| FoldBuildHasher.hash_one(key);
        assert_ne!(hash(("ab", "c")), hash(("a", "bc")));
        assert_ne!(hash(("", "abc")), hash(("abc", "")));
    }
}
