//! Finding a byte fast: blocks that the compiler turns into vector instructions.

/// Bytes looked at together.
const BLOCK: usize = 32;

/// Where the first of either byte stands, or the length.
pub(super) fn find2(bytes: &[u8], one: u8, other: u8) -> usize {
    let (blocks, _) = bytes.as_chunks::<BLOCK>();
    let mut at = 0;
    for block in blocks {
        // No early exit inside the block, so that it is one vector comparison.
        let hit = block.iter().fold(0, |hits, byte| hits | u8::from(*byte == one) | u8::from(*byte == other));
        if hit != 0 {
            break;
        }
        at += BLOCK;
    }
    let rest = bytes.get(at..).unwrap_or_default();
    at + rest.iter().position(|byte| *byte == one || *byte == other).unwrap_or(rest.len())
}

#[cfg(test)]
mod tests {
    use super::find2;

    #[test]
    fn it_finds_what_a_plain_search_finds() {
        for length in [0, 1, 31, 32, 33, 64, 100] {
            let mut bytes = vec![b'x'; length];
            assert_eq!(find2(&bytes, b'a', b'b'), length);
            for at in 0..length {
                bytes[at] = if at % 2 == 0 { b'a' } else { b'b' };
                assert_eq!(find2(&bytes, b'a', b'b'), at);
                bytes[at] = b'x';
            }
        }
    }
}
