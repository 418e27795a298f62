//! What was logged on this test's thread.

use std::io::Write;
use std::sync::{Arc, Mutex};

use tracing::subscriber::DefaultGuard;
use tracing_subscriber::fmt::MakeWriter;

/// Takes everything that is logged on this thread until it is dropped.
#[derive(Debug)]
pub struct Log {
    text: Buffer,
    _guard: DefaultGuard,
}

#[derive(Debug, Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Begins to take.
    pub fn start() -> Self {
        let text = Buffer::default();
        let subscriber = tracing_subscriber::fmt().with_writer(text.clone()).with_ansi(false).finish();
        Self { text, _guard: tracing::subscriber::set_default(subscriber) }
    }

    /// The lines so far.
    pub fn lines(&self) -> Vec<String> {
        String::from_utf8_lossy(&self.text.0.lock().expect("the log")).lines().map(str::to_owned).collect()
    }

    /// The lines that hold all of these.
    pub fn with(&self, parts: &[&str]) -> Vec<String> {
        self.lines().into_iter().filter(|line| parts.iter().all(|part| line.contains(part))).collect()
    }
}

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("the log").write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Buffer {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}
