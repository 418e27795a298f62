//! CRC-64 with the polynomial that Redis uses (Jones, reflected), eight bytes a step.

/// The reflected polynomial.
const POLYNOMIAL: u64 = 0x95ac_9329_ac4b_c9b5;

static TABLES: [[u64; 256]; 8] = tables();

#[expect(clippy::indexing_slicing, reason = "computed when compiling; every index is masked or below the bound")]
const fn tables() -> [[u64; 256]; 8] {
    let mut tables = [[0_u64; 256]; 8];
    let mut n = 0;
    while n < 256 {
        let mut crc = n as u64;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ POLYNOMIAL } else { crc >> 1 };
            bit += 1;
        }
        tables[0][n] = crc;
        n += 1;
    }
    let mut k = 1;
    while k < 8 {
        let mut n = 0;
        while n < 256 {
            let previous = tables[k - 1][n];
            tables[k][n] = tables[0][(previous & 0xff) as usize] ^ (previous >> 8);
            n += 1;
        }
        k += 1;
    }
    tables
}

/// The checksum so far, continued over more bytes; begins with 0.
#[expect(clippy::indexing_slicing, reason = "every index is masked to a byte, every table has 256 entries")]
pub(super) fn crc64(mut crc: u64, bytes: &[u8]) -> u64 {
    let byte = |x: u64, shift: u32| ((x >> shift) & 0xff) as usize;
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        let x = crc ^ u64::from_le_bytes(*word);
        crc = TABLES[7][byte(x, 0)]
            ^ TABLES[6][byte(x, 8)]
            ^ TABLES[5][byte(x, 16)]
            ^ TABLES[4][byte(x, 24)]
            ^ TABLES[3][byte(x, 32)]
            ^ TABLES[2][byte(x, 40)]
            ^ TABLES[1][byte(x, 48)]
            ^ TABLES[0][byte(x, 56)];
    }
    for b in rest {
        crc = TABLES[0][byte(crc ^ u64::from(*b), 0)] ^ (crc >> 8);
    }
    crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_of_redis() {
        assert_eq!(crc64(0, b"123456789"), 0xe9c6_d914_c4b8_d9ca);
    }

    #[test]
    fn any_cut_gives_the_same() {
        let bytes: Vec<u8> = (0..100).collect();
        for n in 0..=100 {
            assert_eq!(crc64(crc64(0, &bytes[..n]), &bytes[n..]), crc64(0, &bytes));
        }
    }
}
