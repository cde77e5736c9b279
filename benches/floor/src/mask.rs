//! Unmasking, with the widest vectors that the processor has, in place or to another place.

/// Writes `len` bytes from `from` to `to`, each XORed with the key's byte for its place, and answers
/// the key as it applies to the byte behind them. The key's first byte applies to the first byte.
///
/// # Safety
/// `from` must be readable and `to` writable for `len` bytes. They may overlap if `to <= from`.
#[inline]
pub(crate) unsafe fn unmask(from: *const u8, to: *mut u8, len: usize, key: u32) -> u32 {
    if len < WIDE {
        // SAFETY: as the caller promises.
        unsafe { chunks::<8>(from, to, len, key) };
    } else {
        // SAFETY: as the caller promises.
        unsafe { wide(from, to, len, key) };
    }
    key.rotate_right(8 * (len as u32 & 3))
}

/// From here on wide vectors are worth asking for.
const WIDE: usize = 64;

#[cfg(target_arch = "x86_64")]
unsafe fn wide(from: *const u8, to: *mut u8, len: usize, key: u32) {
    #[target_feature(enable = "avx512f")]
    unsafe fn avx512(from: *const u8, to: *mut u8, len: usize, key: u32) {
        // SAFETY: as the caller promises.
        unsafe { chunks::<64>(from, to, len, key) }
    }
    #[target_feature(enable = "avx2")]
    unsafe fn avx2(from: *const u8, to: *mut u8, len: usize, key: u32) {
        // SAFETY: as the caller promises.
        unsafe { chunks::<32>(from, to, len, key) }
    }
    // SAFETY: each is called only where the processor has it; the rest is the caller's promise.
    unsafe {
        if std::arch::is_x86_feature_detected!("avx512f") {
            avx512(from, to, len, key);
        } else if std::arch::is_x86_feature_detected!("avx2") {
            avx2(from, to, len, key);
        } else {
            chunks::<16>(from, to, len, key);
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
unsafe fn wide(from: *const u8, to: *mut u8, len: usize, key: u32) {
    // SAFETY: as the caller promises.
    unsafe { chunks::<16>(from, to, len, key) }
}

/// In chunks of `N` bytes, a multiple of four, and then byte by byte. Each chunk is read whole before
/// it is written, and what is written lies at or before what was read: what comes next is intact.
#[inline(always)]
unsafe fn chunks<const N: usize>(from: *const u8, to: *mut u8, len: usize, key: u32) {
    let key = key.to_le_bytes();
    let pattern: [u8; N] = std::array::from_fn(|i| key[i & 3]);
    let mut at = 0;
    // SAFETY: `at + N <= len`, and below `at < len`, within what the caller promises.
    unsafe {
        while at + N <= len {
            let mut chunk = from.add(at).cast::<[u8; N]>().read_unaligned();
            for (byte, mask) in chunk.iter_mut().zip(pattern) {
                *byte ^= mask;
            }
            to.add(at).cast::<[u8; N]>().write_unaligned(chunk);
            at += N;
        }
        while at < len {
            *to.add(at) = *from.add(at) ^ key[at & 3];
            at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_the_standard_at_every_length_shift_and_cut() {
        let key = [0x37, 0xfa, 0x21, 0x3d];
        for len in (0..300).chain([4096, 16384]) {
            let source: Vec<u8> = (0..len + 8).map(|i| (i * 7 + 3) as u8).collect();
            for shift in [0, 1, 4, 6, 8] {
                for cut in [0, len / 3, len / 2 + 1] {
                    let cut = cut.min(len);
                    let mut got = source.clone();
                    let (from, to) = (got.as_ptr().wrapping_add(8), got.as_mut_ptr());
                    // SAFETY: both lie in `got`, which has eight bytes more than `len`, and `to`
                    // lies at or before `from`.
                    unsafe {
                        let to = to.add(8 - shift);
                        let next = unmask(from, to, cut, u32::from_le_bytes(key));
                        unmask(from.add(cut), to.add(cut), len - cut, next);
                    }
                    for i in 0..len {
                        assert_eq!(got[8 - shift + i], source[8 + i] ^ key[i % 4]);
                    }
                }
            }
        }
    }
}
