//! Bytes that a dump tool never wrote: every reader of a format gets them, by the million when it is asked for.
//!
//! What is shown: no reader panics, none takes more memory than its format needs, each gives a result or an error that says something. The
//! inputs are made from `tests/corpus` (real dumps) by changes that a seed decides, so a failure can be repeated: it prints format, number and
//! seed.

mod mutate;

use std::io::Read as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use keepsake_core::error::Result;
use keepsake_core::format::{pgc, rdb, sql, tar};
use keepsake_core::record::Record;
use peak_alloc::PeakAlloc;

use self::mutate::Mutator;

/// A reader, and the bytes of memory that it may take on top of its input.
#[derive(Debug, Clone, Copy)]
pub struct Format {
    /// Its name.
    pub name: &'static str,
    /// The file of the corpus that is changed.
    pub file: &'static str,
    /// The reader.
    pub read: fn(&[u8]) -> Result<()>,
    /// Bytes that it may take.
    pub memory: usize,
}

/// Every reader of bytes that others may have written.
pub const FORMATS: [Format; 7] = [
    Format { name: "dump.rdb", file: "dump.rdb", read: |bytes| rdb::walk(bytes).map(drop), memory: 2 << 20 },
    // The input without its checksum, the splice of it, and the walk over that.
    Format { name: "spliced.rdb", file: "dump.rdb", read: spliced, memory: 4 << 20 },
    Format { name: "dump.sql", file: "dump.sql", read: sql, memory: 2 << 20 },
    Format { name: "dump.pgc", file: "dump.pgc", read: |bytes| pgc::walk(bytes).map(drop), memory: 2 << 20 },
    Format { name: "files.tar", file: "files.tar", read: archive, memory: 4 << 20 },
    Format { name: "record.json", file: "record.json", read: |bytes| Record::parse(bytes).map(drop), memory: 2 << 20 },
    Format { name: "event.json", file: "event.json", read: event, memory: 1 << 20 },
];

/// What walks can be spliced, whatever is chosen of it, and what comes out walks again and has as many keys.
fn spliced(bytes: &[u8]) -> Result<()> {
    // A stored sum of zero means none: otherwise hardly a change would reach the structure.
    let (body, _) = bytes.split_at(bytes.len().saturating_sub(8));
    let input = || body.chain(&[0; 8][..]);
    let walked = rdb::walk(input());
    let chosen = |db: u64, name: &[u8]| name.iter().fold(db, |sum, b| sum.rotate_left(5) ^ u64::from(*b)) & 1 == 0;
    let rest = |db: u64, name: &[u8]| !chosen(db, name);
    let parts =
        vec![rdb::Part { rdb: Box::new(input()), take: &chosen }, rdb::Part { rdb: Box::new(input()), take: &rest }];
    let mut out = Vec::new();
    let made = rdb::splice(parts, &mut out);
    assert_eq!(walked.is_ok(), made.is_ok(), "the walker and the splicer do not agree");
    let (walked, made) = (walked?, made?);
    let again = rdb::walk(&out[..]).expect("what was spliced walks");
    assert_eq!(again.length, made.length);
    assert_eq!(again.databases, made.databases);
    let keys = |w: &rdb::Walked| w.databases.iter().map(|(db, k)| (*db, k.persistent)).collect::<Vec<_>>();
    assert_eq!(keys(&again), keys(&walked));
    Ok(())
}

fn sql(bytes: &[u8]) -> Result<()> {
    let mut reader = sql::Reader::new();
    // In two pieces, so that every state is left and entered again somewhere.
    let (first, second) = bytes.split_at(bytes.len() / 3);
    reader.feed(first)?;
    reader.feed(second)?;
    reader.finish().map(drop)
}

/// Bytes for the reader of archives.
struct Whole(Option<bytes::Bytes>);

impl tar::Input for Whole {
    fn next_chunk(&mut self) -> Result<Option<bytes::Bytes>> {
        Ok(self.0.take())
    }
}

fn archive(bytes: &[u8]) -> Result<()> {
    let mut reader = tar::Reader::new(Whole(Some(bytes::Bytes::copy_from_slice(bytes))));
    let mut rules = tar::Rules::new([]);
    while let Some(entry) = reader.next_entry()? {
        rules.admit(&entry)?;
        while reader.data()?.is_some() {}
    }
    Ok(())
}

/// A run's journal is written by whoever can write the repository.
fn event(bytes: &[u8]) -> Result<()> {
    use keepsake_coordinator::run::event::Event;
    use keepsake_core::error::{Kind, ResultExt};
    use keepsake_core::repository::runs::RunEvent;
    serde_json::from_slice::<RunEvent<Event>>(bytes).map(drop).or_kind(Kind::Corrupt, "an event")
}

/// A value and a name of 64 MiB each pass through the splicer in the memory that a small one takes.
///
/// # Panics
/// When they take more.
pub fn large_ones_pass_through(memory: &PeakAlloc) -> String {
    const LARGE: u32 = 64 << 20;
    let string = || {
        let mut head = vec![0x80];
        head.extend(LARGE.to_be_bytes());
        std::io::Cursor::new(head).chain(std::io::repeat(b'x').take(u64::from(LARGE)))
    };
    let rdb = (&b"REDIS0011\x00\x01k"[..])
        .chain(string())
        .chain(&[0][..])
        .chain(string())
        .chain(&b"\x01v\xff\0\0\0\0\0\0\0\0"[..]);
    memory.reset_peak_usage();
    let before = memory.current_usage();
    let made = rdb::splice(vec![rdb::Part { rdb: Box::new(rdb), take: &|_, _| true }], std::io::sink());
    let grown = memory.peak_usage().saturating_sub(before);
    let made = made.unwrap_or_else(|e| panic!("{}", e.chain()));
    assert!(made.length > 2 * u64::from(LARGE) && made.databases[&0].persistent == 2);
    assert!(grown < 1 << 20, "it took {grown} bytes");
    format!("two of {LARGE} bytes were spliced in {grown} bytes")
}

/// Gives a reader so many inputs, and says what came of them. `memory` must be the program's allocator.
///
/// # Panics
/// When the reader panics, takes too much memory, or says nothing that helps.
pub fn run(format: &Format, inputs: u64, seed: u64, memory: &PeakAlloc) -> String {
    // A panic is caught and told once, with what made it; its own message would come thousands of times.
    std::panic::set_hook(Box::new(|_| {}));
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let good = std::fs::read(corpus.join(format.file)).expect("the corpus");
    (format.read)(&good).unwrap_or_else(|e| fail(format, seed, 0, &e.chain()));
    let mut mutator = Mutator::new(seed, good);
    let (mut refused, mut taken, mut most) = (0_u64, 0_u64, 0);
    for n in 1..=inputs {
        let input = mutator.next(format.name == "files.tar");
        memory.reset_peak_usage();
        let before = memory.current_usage();
        let read = catch_unwind(AssertUnwindSafe(|| (format.read)(input)));
        let grown = memory.peak_usage().saturating_sub(before);
        most = most.max(grown);
        match read {
            Err(_) => fail(format, seed, n, "it panicked"),
            Ok(Ok(())) => taken += 1,
            Ok(Err(e)) => {
                refused += 1;
                if e.chain().is_empty() || e.chain().len() > 2_000 {
                    fail(format, seed, n, &format!("its error has {} bytes", e.chain().len()));
                }
            }
        }
        if grown > format.memory + input.len() {
            fail(format, seed, n, &format!("it took {grown} bytes for an input of {}", input.len()));
        }
    }
    let _quiet = std::panic::take_hook();
    assert!(refused > inputs / 20, "{}: hardly anything was refused: are the inputs changed at all?", format.name);
    format!("{}: {inputs} inputs, {refused} refused, {taken} taken, at most {most} bytes", format.name)
}

/// Says how to get there again.
fn fail(format: &Format, seed: u64, n: u64, what: &str) -> ! {
    // The hook that keeps caught panics quiet would keep this one quiet, too.
    let _quiet = std::panic::take_hook();
    panic!("{} input {n} of seed {seed}: {what}", format.name)
}
