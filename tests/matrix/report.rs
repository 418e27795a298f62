//! What a test of the matrix found: one file each, from which `table` makes the lines of the table.

use std::path::PathBuf;

use keepsake_tests::root::Root;

/// A finding in the making. Until it is said otherwise it says that the test failed.
#[derive(Debug)]
pub struct Finding {
    file: PathBuf,
    head: String,
}

/// Begins a finding: the engine, what was tried, and which test of it this is.
pub fn begin(engine: &str, subject: &str, case: &str) -> Finding {
    let folder = PathBuf::from(std::env::var_os("KEEPSAKE_MATRIX_DIR").unwrap_or_else(|| std::env::temp_dir().into()))
        .join("results");
    std::fs::create_dir_all(&folder).expect("make the folder of results");
    let name = format!("{engine} {subject} {case}").replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    let finding = Finding { file: folder.join(name), head: format!("{engine}\t{subject}\t{case}") };
    finding.write("FAILED");
    finding
}

impl Finding {
    fn write(&self, outcome: &str) {
        std::fs::write(&self.file, format!("{}\t{outcome}\n", self.head)).expect("write a result");
    }

    /// It does what it should.
    pub fn works(&self) {
        self.write("works");
    }

    /// It was refused, as it should be, in words that begin so; what can be done follows their first colon.
    pub fn refused(&self, why: &str) {
        let why = why.split_once(": ").map_or(why, |(what, _)| what);
        self.write(&format!("refused: {}", without_patches(why)));
    }

    /// There is no such server here.
    pub fn not_tried(&self) {
        eprintln!("NOT TRIED: {}", self.head.replace('\t', ", "));
        self.write("*not tried*");
    }
}

/// The root of a name; `host` is this machine.
pub fn root(name: &str) -> Option<Root> {
    if name == "host" { Some(Root::host()) } else { Root::unpacked(name) }
}

/// `10.11.18` becomes `10.11`: the table is not to change with every patch.
fn without_patches(text: &str) -> String {
    let words = text.split(' ').map(|word| {
        let digits = |c: char| c.is_ascii_digit() || c == '.';
        let number: String = word.chars().take_while(|c| digits(*c)).collect();
        let parts: Vec<&str> = number.trim_end_matches('.').split('.').collect();
        if parts.len() == 3 { word.replacen(&parts.join("."), &parts[..2].join("."), 1) } else { word.to_owned() }
    });
    words.collect::<Vec<_>>().join(" ")
}

#[test]
fn patches_are_left_out() {
    assert_eq!(without_patches("MariaDB 10.11.18, not 15 or 9.7.4."), "MariaDB 10.11, not 15 or 9.7.");
}
