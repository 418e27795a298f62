//! Where a file on disk has data, and where holes.

use std::os::fd::BorrowedFd;

use keepsake_core::format::tar::Extent;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use super::tree::Node;

/// How many pieces are told apart; with more, the smallest holes are stored as zeros.
const MOST: usize = 16 * 1024;

/// The pieces that have data; `None` when there are no holes worth telling.
///
/// # Errors
/// The system cannot say. A filesystem without holes is no error.
pub(super) fn extents(file: BorrowedFd<'_>, node: &Node) -> Result<Option<Vec<Extent>>, Errno> {
    if node.allocated >= node.size {
        return Ok(None);
    }
    let mut found = Pieces::default();
    let mut at = 0;
    while at < node.size {
        let data = match seek(file, SeekFrom::Data(at)) {
            Ok(data) => data,
            // Nothing but a hole from here on.
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(None),
            Err(e) => return Err(e),
        };
        if data >= node.size {
            break;
        }
        let hole = match seek(file, SeekFrom::Hole(data)) {
            Ok(hole) => hole.min(node.size),
            // The file became shorter meanwhile; reading it will notice.
            Err(Errno::NXIO) => node.size,
            Err(e) => return Err(e),
        };
        found.add(data, hole, node.size);
        at = hole.max(data.saturating_add(1));
    }
    let whole = found.extents.first() == Some(&Extent { at: 0, len: node.size });
    Ok((!whole).then_some(found.extents))
}

/// Pieces in ascending order, at most [`MOST`].
#[derive(Debug, Default)]
struct Pieces {
    extents: Vec<Extent>,
    /// Holes smaller than this are not told, bytes.
    least: u64,
}

impl Pieces {
    /// Adds the piece between two offsets, widened to blocks of 512: readers of the format expect pieces to begin there.
    fn add(&mut self, from: u64, to: u64, size: u64) {
        let from = from - from % 512;
        let to = to.div_ceil(512).saturating_mul(512).min(size);
        if self.extents.len() >= MOST {
            self.least = (self.least * 2).max(4096);
            for extent in std::mem::take(&mut self.extents) {
                self.join(extent.at, extent.at + extent.len);
            }
        }
        self.join(from, to);
    }

    fn join(&mut self, from: u64, to: u64) {
        match self.extents.last_mut() {
            Some(last) if from <= (last.at + last.len).saturating_add(self.least) => {
                last.len = to.saturating_sub(last.at).max(last.len);
            }
            _ => self.extents.push(Extent { at: from, len: to.saturating_sub(from) }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_pieces_lose_their_smallest_holes() {
        let mut pieces = Pieces::default();
        let size = 100_000 * 16_384;
        for n in 0..100_000_u64 {
            // Every hundredth hole is large.
            let gap = if n % 100 == 0 { 0 } else { 12_288 };
            pieces.add(n * 16_384 + gap, (n + 1) * 16_384 - 1, size);
        }
        assert!(pieces.extents.len() <= MOST);
        let ordered = pieces.extents.windows(2).all(|w| w[0].at + w[0].len < w[1].at);
        assert!(ordered, "pieces overlap");
        assert!(pieces.extents.iter().all(|e| e.at % 512 == 0 && e.at + e.len <= size));
    }

    #[test]
    fn pieces_begin_at_blocks() {
        let mut pieces = Pieces::default();
        pieces.add(1000, 1300, 5000);
        pieces.add(4900, 5000, 5000);
        assert_eq!(pieces.extents, [Extent { at: 512, len: 1024 }, Extent { at: 4608, len: 392 }]);
    }
}
