//! A file of the kernel's that stays open, and a counter in it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// The longest text that is looked at: `/proc/stat` has a line for each of some hundred CPUs before anything else.
const LONGEST: usize = 64 << 10;

/// Where texts are read to.
pub struct Text(Vec<u8>);

impl Default for Text {
    fn default() -> Self {
        Text(vec![0; LONGEST])
    }
}

/// A file, and what is wrong with it.
pub struct Source {
    path: PathBuf,
    file: Option<File>,
    trouble: Option<String>,
}

impl Source {
    /// Opens it if it is there.
    pub fn new(path: PathBuf) -> Self {
        let mut source = Source { path, file: None, trouble: None };
        source.reopen();
        source
    }

    /// Opens it if it is not open.
    pub fn reopen(&mut self) {
        if self.file.is_none() {
            match File::open(&self.path) {
                Ok(file) => (self.file, self.trouble) = (Some(file), None),
                Err(error) => self.trouble = Some(format!("{}: {error}", self.path.display())),
            }
        }
    }

    /// What `parse` makes of it. A file that vanished is opened anew, once; then it is left to `reopen`.
    pub fn read<T>(&mut self, text: &mut Text, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let read = match self.pread(text) {
            Err(_) if self.file.take().is_some() => {
                self.reopen();
                self.pread(text)
            }
            read => read,
        };
        match read {
            Ok(length) => {
                let whole = text.0.get(..length).and_then(|bytes| std::str::from_utf8(bytes).ok());
                let value = whole.and_then(parse);
                let odd = || format!("{}: not understood", self.path.display());
                self.trouble = value.is_none().then(odd);
                value
            }
            Err(error) => {
                if self.file.take().is_some() {
                    self.trouble = Some(format!("{}: {error}", self.path.display()));
                }
                None
            }
        }
    }

    fn pread(&self, text: &mut Text) -> io::Result<usize> {
        match &self.file {
            Some(file) => file.read_at(&mut text.0, 0),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Why it has no value; one line.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }
}

/// A number that goes up. One that goes back is another counter's, and so is one after a gap.
#[derive(Debug, Default)]
pub struct Counter(Option<u64>);

impl Counter {
    /// By how much, if both ends are known.
    pub fn passed(&mut self, now: Option<u64>) -> Option<u64> {
        let before = std::mem::replace(&mut self.0, now);
        now?.checked_sub(before?)
    }
}
