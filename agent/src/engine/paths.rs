//! Paths of files that a dump tells besides its artifacts: those that it has, or those that rows of a database name.
//!
//! They wait in a file without a name until somebody asks, because there may be millions; it is gone with the agent. That they cannot be told is no
//! failure of the dump: whoever asks is told why.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use keepsake_core::error::{Error, Kind, Result};

/// No path, and no name of a row, is longer, bytes.
const MOST: usize = 1 << 20;

/// Takes paths; by default forgets them.
#[derive(Debug, Clone, Default)]
pub struct Paths(Option<Arc<Mutex<Spool>>>);

#[derive(Debug)]
struct Spool {
    folder: PathBuf,
    file: Option<BufWriter<File>>,
    length: u64,
    failure: Option<Error>,
}

impl Paths {
    /// Keeps them in this folder.
    pub fn kept_in(folder: &Path) -> Self {
        let spool = Spool { folder: folder.to_owned(), file: None, length: 0, failure: None };
        Self(Some(Arc::new(Mutex::new(spool))))
    }

    /// The dump tells paths, even if there should be none.
    pub fn begin(&self) {
        self.with(|spool| {
            if spool.file.is_none() {
                spool.file = Some(BufWriter::with_capacity(64 * 1024, tempfile::tempfile_in(&spool.folder)?));
            }
            Ok(())
        });
    }

    /// A path, and the row that names it, if one does; an empty path when where the row's file is cannot be told.
    pub fn add(&self, path: &[u8], row: &str) {
        self.with(|spool| {
            let Some(file) = &mut spool.file else { return Ok(()) };
            for part in [path, row.as_bytes()] {
                let length = u32::try_from(part.len()).ok().filter(|_| part.len() <= MOST);
                let length = length.ok_or(std::io::ErrorKind::FileTooLarge)?;
                file.write_all(&length.to_le_bytes())?;
                file.write_all(part)?;
                spool.length = spool.length.saturating_add(4).saturating_add(u64::from(length));
            }
            Ok(())
        });
    }

    /// Not all of them could be told.
    pub fn fail(&self, why: Error) {
        if let Some(spool) = &self.0 {
            let mut spool = spool.lock().unwrap_or_else(PoisonError::into_inner);
            spool.failure.get_or_insert(why);
        }
    }

    /// What was told; `None` when the dump tells no paths.
    ///
    /// # Errors
    /// Why they are not known, or not all.
    pub fn finish(&self) -> Result<Option<Kept>> {
        self.with(|spool| spool.file.as_mut().map_or(Ok(()), std::io::Write::flush));
        let Some(spool) = &self.0 else { return Ok(None) };
        let mut spool = spool.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(failure) = spool.failure.take() {
            return Err(failure);
        }
        let (Some(file), length) = (spool.file.take(), spool.length) else { return Ok(None) };
        let file =
            file.into_inner().map_err(|e| Error::io("keep the paths of the dump (--scratch)", e.into_error()))?;
        Ok(Some(Kept { file, length }))
    }

    fn with(&self, work: impl FnOnce(&mut Spool) -> std::io::Result<()>) {
        let Some(spool) = &self.0 else { return };
        let mut spool = spool.lock().unwrap_or_else(PoisonError::into_inner);
        if spool.failure.is_none()
            && let Err(e) = work(&mut spool)
        {
            spool.failure = Some(Error::io("keep the paths of the dump (--scratch)", e));
        }
    }
}

/// Paths that were told; they may be read any number of times, from their beginning.
#[derive(Debug)]
pub struct Kept {
    file: File,
    length: u64,
}

impl Kept {
    /// The next paths with their rows, about so many bytes of them; `at` is 0 in the beginning, and moves on. None at the end.
    ///
    /// # Errors
    /// They cannot be read any more.
    pub fn read(&self, at: &mut u64, bytes: usize) -> Result<Vec<(Vec<u8>, String)>> {
        let mut found = Vec::new();
        let mut taken = 0;
        while *at < self.length && taken < bytes {
            let (path, row) = (self.part(at)?, self.part(at)?);
            taken += path.len() + row.len() + 8;
            let row = String::from_utf8(row).map_err(|e| Error::caused(Kind::Internal, "read a row's name", e))?;
            found.push((path, row));
        }
        Ok(found)
    }

    fn part(&self, at: &mut u64) -> Result<Vec<u8>> {
        let fail = |e| Error::io("read the paths of the dump", e);
        let mut length = [0; 4];
        self.file.read_exact_at(&mut length, *at).map_err(fail)?;
        let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX).min(MOST);
        let mut part = vec![0; length];
        self.file.read_exact_at(&mut part, at.saturating_add(4)).map_err(fail)?;
        *at = at.saturating_add(4).saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
        Ok(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_is_read_in_order_and_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths::kept_in(folder.path());
        assert!(paths.finish().unwrap().is_none(), "nothing was begun");
        paths.begin();
        for n in 0..1000 {
            paths.add(format!("path/{n}\n").as_bytes(), &format!("row {n}"));
        }
        paths.add(b"\xff", "");
        let kept = paths.finish().unwrap().unwrap();
        for _ in 0..2 {
            let (mut at, mut all) = (0, Vec::new());
            loop {
                let some = kept.read(&mut at, 500).unwrap();
                if some.is_empty() {
                    break;
                }
                assert!(some.len() < 40);
                all.extend(some);
            }
            assert_eq!(all.len(), 1001);
            assert_eq!(all[999], (b"path/999\n".to_vec(), "row 999".to_owned()));
            assert_eq!(all[1000], (vec![0xff], String::new()));
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_cannot_be_kept_is_an_error_when_it_is_asked_for() {
        let paths = Paths::kept_in(Path::new("/nowhere/at/all"));
        paths.begin();
        paths.add(b"x", "");
        assert!(paths.finish().unwrap_err().chain().contains("--scratch"));
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths::kept_in(folder.path());
        paths.begin();
        paths.fail(Error::new(Kind::Busy, "on purpose"));
        assert_eq!(paths.finish().unwrap_err().kind(), Kind::Busy);
        Paths::default().begin();
        assert!(Paths::default().finish().unwrap().is_none());
    }
}
