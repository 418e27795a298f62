//! What is there and is not expected: keys of the Config, and members of its sets.
//!
//! Found in two steps. First every key of the Config, and every member of the sets in question, is listed and its fingerprint kept in a file; those
//! that are none of an expected one are surplus. Only if there are any, all is listed once more to learn their names.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use bytes::Bytes;
use keepsake_core::config::{Change, ConfigKind, Difference, Wrong, classify};
use keepsake_core::error::{Error, Kind, Result};

use super::groups::Group;
use super::pace::Pace;
use super::prints::{self, Prints};
use crate::engine::Context;
use crate::engine::config_target::Differences;
use crate::engine::redis::connection::{Batch, Reply, Server};

/// Keys that are listed together, about.
const TOGETHER: &[u8] = b"512";

/// What the search found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Keys that were listed.
    pub(super) scanned: u64,
    /// Differences that were told.
    pub(super) differences: u64,
}

/// The search.
pub(super) struct Search<'a> {
    pub(super) server: &'a Server,
    pub(super) out: &'a mut dyn Differences,
    pub(super) pace: Pace,
    pub(super) cx: &'a Context,
    /// Only keys of these kinds can be surplus.
    pub(super) kinds: &'a [ConfigKind],
    pub(super) found: Found,
}

impl Search<'_> {
    /// Finds and tells what is surplus.
    ///
    /// # Errors
    /// The server's, the reader's, or that the scratch folder is full.
    pub(super) async fn run(&mut self, mut prints: Prints, mut listed: Listed) -> Result<()> {
        self.cx.phase("looking for surplus keys", 0);
        let printer = prints.printer();
        let mut cursor = b"0".to_vec();
        loop {
            let keys = self.scan(&mut cursor).await?;
            self.found.scanned += keys.len() as u64;
            for key in &keys {
                if self.is_config(key).is_some() {
                    prints.find(printer.key(key))?;
                }
            }
            if cursor == b"0" {
                break;
            }
        }
        let mut sets = listed.read()?;
        while let Some(set) = sets.next()? {
            let mut cursor = b"0".to_vec();
            loop {
                for member in self.scan_set(&set.key, &mut cursor).await? {
                    prints.find(printer.member(&set.key, &member))?;
                }
                if cursor == b"0" {
                    break;
                }
            }
        }
        let mut surplus = prints.surplus().await?;
        while let Some(some) = surplus.next()? {
            self.name(&some, &printer, &mut listed).await?;
        }
        Ok(())
    }

    /// Lists all once more and tells those that have one of these fingerprints.
    async fn name(&mut self, surplus: &[u64], printer: &prints::Printer, listed: &mut Listed) -> Result<()> {
        let mut cursor = b"0".to_vec();
        loop {
            for key in self.scan(&mut cursor).await? {
                let Some((kind, service)) = self.is_config(&key) else { continue };
                if surplus.binary_search(&printer.key(&key)).is_ok() {
                    let (key, wrong) = (Bytes::from(key), Wrong::Surplus);
                    self.tell(Difference { kind, service, key, wrong, change: Change::Delete }).await?;
                }
            }
            if cursor == b"0" {
                break;
            }
        }
        let mut sets = listed.read()?;
        while let Some(set) = sets.next()? {
            let mut cursor = b"0".to_vec();
            loop {
                for member in self.scan_set(&set.key, &mut cursor).await? {
                    if surplus.binary_search(&printer.member(&set.key, &member)).is_ok() {
                        let (kind, service, key) = (set.kind, set.service.clone(), Bytes::from(set.key.clone()));
                        let (wrong, change) = (Wrong::Different, Change::Remove(Bytes::from(member)));
                        self.tell(Difference { kind, service, key, wrong, change }).await?;
                    }
                }
                if cursor == b"0" {
                    break;
                }
            }
        }
        Ok(())
    }

    async fn tell(&mut self, difference: Difference) -> Result<()> {
        self.found.differences += 1;
        self.out.tell(difference).await
    }

    /// The kind and the service of a key of a kind of which everything is expected.
    fn is_config(&self, key: &[u8]) -> Option<(ConfigKind, String)> {
        classify(key).filter(|(kind, _)| self.kinds.contains(kind))
    }

    async fn scan(&mut self, cursor: &mut Vec<u8>) -> Result<Vec<Vec<u8>>> {
        let mut ask = Batch::new();
        ask.add(&[b"SCAN", cursor, b"COUNT", TOGETHER]);
        self.scanned("SCAN", &ask, cursor).await
    }

    async fn scan_set(&mut self, key: &[u8], cursor: &mut Vec<u8>) -> Result<Vec<Vec<u8>>> {
        let mut ask = Batch::new();
        ask.add(&[b"SSCAN", key, cursor, b"COUNT", TOGETHER]);
        self.scanned("SSCAN", &ask, cursor).await
    }

    async fn scanned(&mut self, what: &str, ask: &Batch, cursor: &mut Vec<u8>) -> Result<Vec<Vec<u8>>> {
        let reply = self.server.batch(what, ask).await?.pop().unwrap_or(Reply::Nothing);
        let mut parts = match reply.taken(what)? {
            Reply::List(parts) => parts.into_iter(),
            Reply::Nothing | Reply::Number(_) | Reply::Bytes(_) | Reply::Refused(..) => return Err(strange(what)),
        };
        let (Some(Reply::Bytes(next)), Some(names)) = (parts.next(), parts.next()) else { return Err(strange(what)) };
        let names = names.strings(what)?;
        self.pace.list(names.len() as u64, self.cx).await?;
        *cursor = next;
        Ok(names)
    }
}

fn strange(what: &str) -> Error {
    Error::new(Kind::Internal, format!("{what}: the server answers something else than a cursor and names"))
}

/// Sets that are to be looked through member by member, in a file: there may be very many.
#[derive(Debug)]
pub(super) struct Listed {
    file: BufWriter<File>,
}

/// One of them.
pub(super) struct ListedSet {
    kind: ConfigKind,
    service: String,
    key: Vec<u8>,
}

impl Listed {
    /// None, in a file without a name in this folder.
    ///
    /// # Errors
    /// It cannot be made there.
    pub(super) fn new(scratch: &Path) -> Result<Self> {
        Ok(Self { file: prints::file(scratch)? })
    }

    /// One more.
    ///
    /// # Errors
    /// It cannot be written down.
    pub(super) fn add(&mut self, group: &Group) -> Result<()> {
        let kind = ConfigKind::ALL.iter().position(|k| *k == group.kind).unwrap_or_default() as u64;
        for part in [&kind.to_le_bytes()[..], group.service.as_bytes(), &group.key] {
            let length = (part.len() as u64).to_le_bytes();
            self.file.write_all(&length).and_then(|()| self.file.write_all(part)).map_err(prints::full)?;
        }
        Ok(())
    }

    /// From the first.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn read(&mut self) -> Result<ListedSets> {
        self.file.flush().map_err(prints::full)?;
        let mut file = self.file.get_ref().try_clone().map_err(prints::full)?;
        file.seek(SeekFrom::Start(0)).map_err(prints::full)?;
        Ok(ListedSets(BufReader::new(file)))
    }
}

/// The sets in order.
pub(super) struct ListedSets(BufReader<File>);

impl ListedSets {
    fn next(&mut self) -> Result<Option<ListedSet>> {
        let Some(kind) = self.part()? else { return Ok(None) };
        let lost = || Error::new(Kind::Internal, "the list of sets is cut short");
        let (service, key) = (self.part()?.ok_or_else(lost)?, self.part()?.ok_or_else(lost)?);
        let kind = kind.try_into().map(u64::from_le_bytes).ok().and_then(|n| usize::try_from(n).ok());
        let kind = kind.and_then(|n| ConfigKind::ALL.get(n).copied()).ok_or_else(lost)?;
        let service = String::from_utf8(service).map_err(|_| lost())?;
        Ok(Some(ListedSet { kind, service, key }))
    }

    fn part(&mut self) -> Result<Option<Vec<u8>>> {
        let mut length = [0; 8];
        match self.0.read_exact(&mut length) {
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read.map_err(prints::full)?,
        }
        let mut part = vec![0; usize::try_from(u64::from_le_bytes(length)).unwrap_or(0)];
        self.0.read_exact(&mut part).map_err(prints::full)?;
        Ok(Some(part))
    }
}
