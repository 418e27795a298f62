//! Which keys and members are expected and which were found, as 64-bit fingerprints in files.
//!
//! Each pass has a key of its own, made at random. What was found and whose fingerprint is none of an expected one is certainly not expected, so nothing that
//! is expected is ever taken for surplus. That two fingerprints agree by chance can hide a surplus key from one pass, and not from the next: with seven
//! million expected keys and members and a thousand surplus ones, from about one pass in two thousand million.

use std::fs::File;
use std::hash::{BuildHasher as _, RandomState};
use std::io::{BufReader, BufWriter, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use keepsake_core::error::{Error, Kind, Result, ResultExt as _};

/// Files for each side. A million applications have about seven million fingerprints, so a bucket is below 1 MB.
const BUCKETS: u64 = 64;
/// What is buffered for each file.
const BUFFER: usize = 4 << 10;
/// Surplus fingerprints that are in memory at the same time; 8 bytes each.
const AT_ONCE: usize = 1 << 19;

/// Makes the fingerprints of one pass.
#[derive(Debug, Clone)]
pub(super) struct Printer(RandomState);

impl Printer {
    /// Of a key.
    pub(super) fn key(&self, key: &[u8]) -> u64 {
        self.0.hash_one(key)
    }

    /// Of a member of a set.
    pub(super) fn member(&self, key: &[u8], member: &[u8]) -> u64 {
        self.0.hash_one((key, member))
    }
}

/// Both sides of one pass.
#[derive(Debug)]
pub(super) struct Prints {
    printer: Printer,
    expected: Vec<BufWriter<File>>,
    found: Vec<BufWriter<File>>,
    surplus: BufWriter<File>,
}

impl Prints {
    /// Empty ones, in files without a name in this folder.
    ///
    /// # Errors
    /// They cannot be made there.
    pub(super) fn new(scratch: &Path) -> Result<Self> {
        let files = || (0..BUCKETS).map(|_| file(scratch)).collect::<Result<Vec<_>>>();
        let printer = Printer(RandomState::new());
        Ok(Self { printer, expected: files()?, found: files()?, surplus: file(scratch)? })
    }

    /// What makes the fingerprints.
    pub(super) fn printer(&self) -> Printer {
        self.printer.clone()
    }

    /// Something is expected.
    ///
    /// # Errors
    /// It cannot be written down.
    pub(super) fn expect(&mut self, print: u64) -> Result<()> {
        put(&mut self.expected, print)
    }

    /// Something was found.
    ///
    /// # Errors
    /// It cannot be written down.
    pub(super) fn find(&mut self, print: u64) -> Result<()> {
        put(&mut self.found, print)
    }

    /// What was found and is not expected.
    ///
    /// # Errors
    /// The files cannot be read.
    pub(super) async fn surplus(self) -> Result<Surplus> {
        let joined = tokio::task::spawn_blocking(move || self.join()).await;
        joined.or_kind(Kind::Internal, "compare fingerprints")?
    }

    fn join(mut self) -> Result<Surplus> {
        let mut left = 0;
        for (expected, found) in self.expected.into_iter().zip(self.found) {
            let mut known = Vec::new();
            let mut expected = again(expected)?;
            while let Some(print) = next(&mut expected)? {
                known.push(print);
            }
            known.sort_unstable();
            let mut found = again(found)?;
            while let Some(print) = next(&mut found)? {
                if known.binary_search(&print).is_err() {
                    self.surplus.write_all(&print.to_le_bytes()).map_err(full)?;
                    left += 1;
                }
            }
        }
        Ok(Surplus { file: again(self.surplus)?, left })
    }
}

/// Fingerprints of what is surplus.
#[derive(Debug)]
pub(super) struct Surplus {
    file: BufReader<File>,
    left: u64,
}

impl Surplus {
    /// The next ones, sorted; as many as are looked for in one pass. `None` when there are no more.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn next(&mut self) -> Result<Option<Vec<u64>>> {
        let mut some = Vec::new();
        while some.len() < AT_ONCE && self.left > 0 {
            let print = next(&mut self.file)?;
            some.push(print.ok_or_else(|| Error::new(Kind::Internal, "fingerprints are lost"))?);
            self.left -= 1;
        }
        some.sort_unstable();
        some.dedup();
        Ok((!some.is_empty()).then_some(some))
    }
}

/// A file without a name, gone when it is closed.
pub(super) fn file(scratch: &Path) -> Result<BufWriter<File>> {
    let file = tempfile::tempfile_in(scratch)
        .map_err(|e| Error::io(format!("make a file in the scratch folder {}", scratch.display()), e))?;
    Ok(BufWriter::with_capacity(BUFFER, file))
}

/// The same file from its beginning.
pub(super) fn again(written: BufWriter<File>) -> Result<BufReader<File>> {
    let mut file = written.into_inner().map_err(|e| full(e.into_error()))?;
    file.seek(SeekFrom::Start(0)).map_err(full)?;
    Ok(BufReader::with_capacity(BUFFER, file))
}

/// What is said when the scratch folder does not take it.
pub(super) fn full(error: std::io::Error) -> Error {
    Error::io("keep fingerprints in the scratch folder (name another with --scratch)", error)
}

fn put(files: &mut [BufWriter<File>], print: u64) -> Result<()> {
    // The upper bits say the bucket.
    let bucket = usize::try_from(print / (u64::MAX / BUCKETS + 1)).unwrap_or(0);
    let file = files.get_mut(bucket).ok_or_else(|| Error::new(Kind::Internal, "there is no such bucket"))?;
    file.write_all(&print.to_le_bytes()).map_err(full)
}

fn next(file: &mut BufReader<File>) -> Result<Option<u64>> {
    let mut bytes = [0; 8];
    match file.read_exact(&mut bytes) {
        Ok(()) => Ok(Some(u64::from_le_bytes(bytes))),
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Ok(None),
        Err(e) => Err(full(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_expected_is_never_surplus_and_everything_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let mut prints = Prints::new(folder.path()).unwrap();
        let printer = prints.printer();
        for n in 0..20_000_u32 {
            prints.expect(printer.key(format!("key {n}").as_bytes())).unwrap();
            prints.expect(printer.member(b"set", format!("member {n}").as_bytes())).unwrap();
        }
        for n in 0..20_000_u32 {
            prints.find(printer.key(format!("key {n}").as_bytes())).unwrap();
            // The same member of another set.
            prints.find(printer.member(b"set", format!("member {}", n + 19_998).as_bytes())).unwrap();
        }
        for extreme in [0, u64::MAX] {
            prints.find(extreme).unwrap();
        }
        let mut surplus = prints.surplus().await.unwrap();
        let found = surplus.next().unwrap().unwrap();
        assert_eq!(found.len(), 19_998 + 2);
        assert!(found.binary_search(&printer.member(b"set", b"member 20000")).is_ok());
        assert!(found.binary_search(&printer.member(b"set", b"member 19999")).is_err());
        assert_eq!(surplus.next().unwrap(), None);
        let other = Prints::new(folder.path()).unwrap().printer();
        assert_ne!(printer.key(b"key 1"), other.key(b"key 1"), "each pass has a key of its own");
        // The ends of a key and its member are told apart.
        assert_ne!(printer.member(b"ab", b"c"), printer.member(b"a", b"bc"));
    }
}
