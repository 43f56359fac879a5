//! How long our own threads wait for a CPU: they are who must answer a request.

use std::ffi::OsString;
use std::path::PathBuf;

use super::parse;
use super::source::{Counter, Source, Text};

/// The threads of this process.
pub struct Threads {
    folder: PathBuf,
    threads: Vec<Thread>,
    trouble: Option<String>,
}

struct Thread {
    id: OsString,
    file: Source,
    waited_ns: Counter,
    slices: Counter,
    gone: bool,
}

impl Threads {
    pub fn new(folder: PathBuf) -> Self {
        Threads { folder, threads: Vec::new(), trouble: None }
    }

    /// Takes in new threads, and leaves out those that ended.
    pub fn find(&mut self) {
        self.threads.retain(|thread| !thread.gone);
        match std::fs::read_dir(&self.folder) {
            Ok(entries) => {
                self.trouble = None;
                for id in entries.flatten().map(|entry| entry.file_name()) {
                    if !self.threads.iter().any(|thread| thread.id == id) {
                        let file = Source::new(self.folder.join(&id).join("schedstat"));
                        let (waited_ns, slices) = (Counter::default(), Counter::default());
                        self.threads.push(Thread { id, file, waited_ns, slices, gone: false });
                    }
                }
            }
            Err(error) => self.trouble = Some(format!("{}: {error}", self.folder.display())),
        }
    }

    /// The mean wait before a slice since the last call, of the thread that waited longest; 0 if none ran.
    pub fn read(&mut self, text: &mut Text) -> Option<f64> {
        let mut worst = None;
        for thread in &mut self.threads {
            let seen = thread.file.read(text, parse::slices);
            thread.gone = seen.is_none();
            let waited_ns = thread.waited_ns.passed(seen.map(|seen| seen.waited_ns));
            let slices = thread.slices.passed(seen.map(|seen| seen.count));
            if let Some((waited_ns, slices)) = waited_ns.zip(slices) {
                let mean_ms = waited_ns as f64 / slices.max(1) as f64 / 1e6;
                worst = Some(mean_ms.max(worst.unwrap_or(0.0)));
            }
        }
        worst
    }

    /// Why nothing is known of any thread. One that ended is no trouble.
    pub fn trouble(&self) -> Option<&str> {
        let unreadable = || self.threads.iter().filter(|_| self.threads.iter().all(|thread| thread.gone));
        self.trouble.as_deref().or_else(|| unreadable().find_map(|thread| thread.file.trouble()))
    }
}
