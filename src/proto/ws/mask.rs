//! Masking, which is its own inverse (RFC 6455 §5.3).

/// XORs `bytes` with `key`, in place; `offset` is where in the payload `bytes` begins.
///
/// Only `offset & 3` matters, so a payload may be masked piece by piece.
#[inline]
pub fn apply_mask(bytes: &mut [u8], key: [u8; 4], offset: usize) {
    // Read in native order, the key lies in memory as the payload does, whatever the host.
    let key: [u8; 4] = std::array::from_fn(|i| key[(offset + i) & 3]);
    if bytes.len() >= WIDE_BYTES_MIN {
        apply_wide(bytes, key);
    } else {
        apply_in_chunks::<CHUNK_BYTES>(bytes, key);
    }
}

/// With the widest vectors that this processor has.
#[cfg(target_arch = "x86_64")]
fn apply_wide(bytes: &mut [u8], key: [u8; 4]) {
    #[target_feature(enable = "avx512f")]
    fn avx512(bytes: &mut [u8], key: [u8; 4]) {
        apply_in_chunks::<128>(bytes, key);
    }
    #[target_feature(enable = "avx2")]
    fn avx2(bytes: &mut [u8], key: [u8; 4]) {
        apply_in_chunks::<64>(bytes, key);
    }
    if std::arch::is_x86_feature_detected!("avx512f") {
        // SAFETY: the processor has it, as it was just asked.
        unsafe { avx512(bytes, key) }
    } else if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has it, as it was just asked.
        unsafe { avx2(bytes, key) }
    } else {
        apply_in_chunks::<CHUNK_BYTES>(bytes, key);
    }
}

/// With the vectors that every processor of this kind has.
#[cfg(not(target_arch = "x86_64"))]
fn apply_wide(bytes: &mut [u8], key: [u8; 4]) {
    apply_in_chunks::<CHUNK_BYTES>(bytes, key);
}

/// `key` begins with the first byte; `N` is a multiple of its length.
#[inline(always)]
fn apply_in_chunks<const N: usize>(bytes: &mut [u8], key: [u8; 4]) {
    let word = u32::from_ne_bytes(key);
    let mut rest = bytes;
    if rest.len() >= N {
        let wide: [u8; N] = std::array::from_fn(|i| key[i & 3]);
        // Fixed-size chunks without a carried value: the compiler turns this into vector XORs.
        let (chunks, tail) = rest.as_chunks_mut::<N>();
        for chunk in chunks {
            for (byte, mask) in chunk.iter_mut().zip(wide) {
                *byte ^= mask;
            }
        }
        rest = tail;
    }
    let (words, tail) = rest.as_chunks_mut::<4>();
    for chunk in words {
        *chunk = (u32::from_ne_bytes(*chunk) ^ word).to_ne_bytes();
    }
    for (byte, mask) in tail.iter_mut().zip(key) {
        *byte ^= mask;
    }
}

/// Two SSE2 registers, or one of AVX2; a multiple of the key's length.
const CHUNK_BYTES: usize = 32;
/// From here on it pays to ask for wider vectors.
const WIDE_BYTES_MIN: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// §5.3, to the letter.
    fn reference(bytes: &mut [u8], key: [u8; 4], offset: usize) {
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte ^= key[(offset + i) % 4];
        }
    }

    #[test]
    fn equals_the_reference_at_every_alignment_phase_and_short_length() {
        let key = [0x37, 0xfa, 0x21, 0x3d];
        let source: Vec<u8> = (0..200).map(|i| (i * 7) as u8).collect();
        for start in 0..33 {
            for len in 0..=130 {
                for phase in 0..4 {
                    let mut got = source.clone();
                    let mut expected = source.clone();
                    apply_mask(&mut got[start..start + len], key, phase);
                    reference(&mut expected[start..start + len], key, phase);
                    assert_eq!(got, expected, "start {start} len {len} phase {phase}");
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn equals_the_reference_in_any_two_pieces(
            source in proptest::collection::vec(any::<u8>(), 0..2000),
            key: [u8; 4],
            offset in 0usize..1 << 40,
            cut: prop::sample::Index,
        ) {
            let cut = cut.index(source.len() + 1);
            let mut got = source.clone();
            let mut expected = source;
            let (head, tail) = got.split_at_mut(cut);
            apply_mask(head, key, offset);
            apply_mask(tail, key, offset + cut);
            reference(&mut expected, key, offset);
            prop_assert_eq!(got, expected);
        }
    }
}
