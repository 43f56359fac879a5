//! Tables: validated and published, read back.

use std::collections::BTreeMap;
use std::os::fd::{BorrowedFd, OwnedFd};

use pannier_decide::policy;
use pannier_table::kind::Kind;
use pannier_table::map::{Access, Mapping};
use pannier_table::snapshot::{ReadError, Reader, SEGMENT_BYTES, Snapshot, Writer};
use pannier_table::{Error, counters, hot, layout, ring, segments};
use pyo3::exceptions::{PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;

/// A segment's trouble as Python's own kind of error.
pub fn translate(error: Error) -> PyErr {
    match error {
        Error::Os(e) => PyOSError::new_err(e.to_string()),
        Error::TooLarge(_) => PyValueError::new_err(error.to_string()),
        Error::Fenced | Error::Layout(_) | Error::Full => PyRuntimeError::new_err(error.to_string()),
    }
}

fn duplicate(fd: i32) -> PyResult<OwnedFd> {
    if fd < 0 {
        return Err(PyValueError::new_err(format!("{fd} is no file descriptor")));
    }
    // SAFETY: borrowed for the length of this call only; the kernel answers EBADF for a number that is not open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    borrowed.try_clone_to_owned().map_err(Into::into)
}

/// Maps a descriptor that Python keeps; the mapping has a duplicate of its own.
pub fn map(fd: i32, bytes: usize, access: Access) -> PyResult<Mapping> {
    Mapping::new(duplicate(fd)?, bytes, access).map_err(translate)
}

fn kind_of(name: &str) -> PyResult<Kind> {
    Kind::from_name(name).ok_or_else(|| PyValueError::new_err(format!("no table is called {name:?}")))
}

pub fn segments() -> BTreeMap<String, usize> {
    segments::all().into_iter().collect()
}

pub fn kinds() -> Vec<&'static str> {
    Kind::ALL.iter().map(|k| k.name()).collect()
}

#[pyfunction]
pub fn initialise(name: &str, fd: i32) -> PyResult<()> {
    let bytes = match name {
        "hot" => hot::SEGMENT_BYTES,
        "counters" => counters::SEGMENT_BYTES,
        "rings" => ring::SEGMENT_BYTES,
        _ => name.strip_prefix("table.").map_or(Ok(0), |kind| kind_of(kind).map(|_| SEGMENT_BYTES))?,
    };
    if bytes == 0 {
        return Err(PyValueError::new_err(format!("no segment is called {name:?}")));
    }
    layout::initialise(&map(fd, bytes, Access::Write)?, name).map_err(translate)
}

#[pyfunction]
pub fn validate(kind: &str, payload: &[u8]) -> PyResult<()> {
    policy::validate(kind_of(kind)?, payload).map_err(PyValueError::new_err)
}

#[pyclass(module = "pannier._native")]
pub struct TableWriter {
    kind: Kind,
    writer: Writer,
}

#[pymethods]
impl TableWriter {
    #[new]
    fn new(kind: &str, fd: i32) -> PyResult<Self> {
        let kind = kind_of(kind)?;
        let map = map(fd, SEGMENT_BYTES, Access::Write)?;
        Ok(TableWriter { kind, writer: Writer::take_over(map, kind).map_err(translate)? })
    }

    fn publish(&mut self, py: Python<'_>, payload: &[u8]) -> PyResult<u64> {
        py.detach(|| {
            policy::validate(self.kind, payload).map_err(PyValueError::new_err)?;
            self.writer.publish(payload).map_err(translate)
        })
    }

    fn withdraw(&mut self) -> PyResult<u64> {
        self.writer.withdraw().map_err(translate)
    }

    fn heartbeat(&mut self, py: Python<'_>) {
        py.detach(|| self.writer.heartbeat());
    }
}

#[pyclass(module = "pannier._native")]
pub struct TableReader {
    reader: Reader,
}

#[pymethods]
impl TableReader {
    #[new]
    fn new(kind: &str, fd: i32) -> PyResult<Self> {
        let map = map(fd, SEGMENT_BYTES, Access::Read)?;
        Ok(TableReader { reader: Reader::new(map, kind_of(kind)?).map_err(translate)? })
    }

    fn generation(&self) -> u64 {
        self.reader.generation()
    }

    fn read(&self, py: Python<'_>) -> PyResult<Option<Vec<u8>>> {
        for _ in 0..100 {
            match py.detach(|| self.reader.read()) {
                Ok((_, Snapshot::Absent)) => return Ok(None),
                Ok((_, Snapshot::Payload(payload))) => return Ok(Some(payload)),
                Err(ReadError::Lapped) => {}
                Err(ReadError::Damaged) => {
                    return Err(PyRuntimeError::new_err("the snapshot is damaged: its checksum does not hold"));
                }
            }
        }
        Err(PyRuntimeError::new_err("the writer published faster than the table could be read, 100 times"))
    }

    fn writer(&self) -> (u32, u64) {
        let (owner, heartbeat) = self.reader.writer();
        (owner.pid(), heartbeat)
    }

    fn epoch(&self) -> u64 {
        self.reader.epoch()
    }
}
