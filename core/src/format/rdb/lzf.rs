//! The beginning of what Redis compressed by LZF: enough to know a key's name or a list's length.

/// Bytes of compressed data that surely give so many in the clear: at worst every byte has a control byte of its own.
pub(super) fn needed(clear: usize) -> u64 {
    (clear as u64).saturating_mul(2).saturating_add(3)
}

/// The first bytes in the clear, at most `max`; fewer when the data ends or makes no sense.
pub(super) fn beginning(mut data: &[u8], max: usize) -> Vec<u8> {
    let mut out = Vec::new();
    while out.len() < max && step(&mut data, &mut out, max).is_some() {}
    out
}

/// One literal run or one reference to what came before.
fn step(data: &mut &[u8], out: &mut Vec<u8>, max: usize) -> Option<()> {
    let before = out.len();
    let control = usize::from(take(data)?);
    if control < 32 {
        let run = (control + 1).min(data.len());
        let (literal, rest) = data.split_at_checked(run).filter(|(l, _)| !l.is_empty())?;
        out.extend(literal.iter().take(max - before));
        *data = rest;
        return Some(());
    }
    let mut length = control >> 5;
    if length == 7 {
        length += usize::from(take(data)?);
    }
    let distance = ((control & 0x1f) << 8 | usize::from(take(data)?)) + 1;
    let from = before.checked_sub(distance)?;
    for n in 0..(length + 2).min(max - before) {
        // It may run into what it has just written.
        let byte = *out.get(from + n)?;
        out.push(byte);
    }
    Some(())
}

fn take(data: &mut &[u8]) -> Option<u8> {
    let (first, rest) = data.split_first()?;
    *data = rest;
    Some(*first)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn runs_and_references_open() {
        // "abc", then six bytes from three back, then "!".
        let data = [2, b'a', b'b', b'c', 4 << 5, 2, 0, b'!'];
        assert_eq!(beginning(&data, 100), b"abcabcabc!");
        assert_eq!(beginning(&data, 5), b"abcab");
        // A long one: seven and three more.
        let data = [0, b'x', 7 << 5, 3, 0];
        assert_eq!(beginning(&data, 100), vec![b'x'; 1 + 7 + 3 + 2]);
    }

    #[test]
    fn nonsense_ends_it() {
        assert_eq!(beginning(&[4 << 5, 2], 10), b"");
        assert_eq!(beginning(&[0, b'a', 4 << 5, 2], 10), b"a");
        assert_eq!(beginning(&[31, b'a'], 10), b"a");
        assert_eq!(beginning(&[0], 10), b"");
    }

    proptest! {
        #[test]
        fn any_bytes_give_at_most_what_was_asked(data in proptest::collection::vec(any::<u8>(), 0..400), max in 0..200_usize) {
            let whole = beginning(&data, usize::MAX >> 1);
            let some = beginning(&data, max);
            prop_assert!(some.len() <= max);
            prop_assert_eq!(&some[..], &whole[..max.min(whole.len())]);
            // As many bytes as are said to be needed are enough.
            let enough = &data[..data.len().min(usize::try_from(needed(max)).unwrap())];
            prop_assert_eq!(beginning(enough, max), some);
        }
    }
}
