//! CRC32c, the checksum of PROXY headers (RFC 4960, appendix B).

/// The checksum of `parts`, one behind the other.
pub(super) fn crc32c(parts: &[&[u8]]) -> u32 {
    let mut sum = !0;
    for byte in parts.iter().copied().flatten() {
        sum = TABLE[usize::from(sum as u8 ^ byte)] ^ (sum >> 8);
    }
    !sum
}

/// What each low byte adds.
const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut n = 0;
    while n < table.len() {
        let mut sum = n as u32;
        let mut bit = 0;
        while bit < 8 {
            sum = (sum >> 1) ^ (POLYNOMIAL & (sum & 1).wrapping_neg());
            bit += 1;
        }
        table[n] = sum;
        n += 1;
    }
    table
};

/// Castagnoli's, its bits reversed.
const POLYNOMIAL: u32 = 0x82f6_3b78;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sums_are_those_of_rfc_3720() {
        // RFC 3720, appendix B.4.
        let ascending: Vec<u8> = (0..32).collect();
        assert_eq!(crc32c(&[&[0; 32]]), 0x8a91_36aa);
        assert_eq!(crc32c(&[&[0xff; 32]]), 0x62a8_ab43);
        assert_eq!(crc32c(&[&ascending]), 0x46dd_794e);
        assert_eq!(crc32c(&[&ascending[..7], &ascending[7..]]), 0x46dd_794e);
        assert_eq!(crc32c(&[b"123456789"]), 0xe306_9283);
    }
}
