//! A disk in memory that remembers in what order it was written, and what was flushed when.

use std::io;
use std::sync::{Arc, Mutex};

use redb::StorageBackend;

#[derive(Clone, Debug, Default)]
pub(super) struct Disk(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    bytes: Vec<u8>,
    log: Vec<Step>,
    fails: bool,
}

#[derive(Clone, Debug)]
enum Step {
    Write { offset: usize, data: Vec<u8> },
    SetLength(usize),
    Sync,
}

impl Step {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Step::Write { offset, data } => {
                let end = offset + data.len();
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[*offset..end].copy_from_slice(data);
            }
            Step::SetLength(length) => bytes.resize(*length, 0),
            Step::Sync => {}
        }
    }
}

impl Disk {
    /// From now on it takes nothing, as if it were full.
    pub(super) fn fail(&self, fails: bool) {
        self.0.lock().unwrap().fails = fails;
    }

    /// Steps taken so far.
    pub(super) fn writes(&self) -> usize {
        self.0.lock().unwrap().log.len()
    }

    /// A disk as it would be found if the power was cut after so many steps: all up to the last flush is there, and of
    /// the later writes those that `survives` says. A length that was set is there; it is not the disk's to forget
    /// only that.
    pub(super) fn after_power_cut(&self, steps: usize, mut survives: impl FnMut(usize) -> bool) -> Disk {
        let inner = self.0.lock().unwrap();
        let log = &inner.log[..steps.min(inner.log.len())];
        let flushed = log
            .iter()
            .rposition(|step| matches!(step, Step::Sync))
            .map_or(0, |at| at + 1);
        let mut bytes = Vec::new();
        for step in &log[..flushed] {
            step.apply(&mut bytes);
        }
        for (number, step) in log[flushed..].iter().enumerate() {
            if matches!(step, Step::SetLength(_)) || survives(number) {
                step.apply(&mut bytes);
            }
        }
        Disk(Arc::new(Mutex::new(Inner {
            bytes,
            ..Inner::default()
        })))
    }

    fn write_step(&self, step: Step) -> io::Result<()> {
        let mut inner = self.0.lock().unwrap();
        if inner.fails {
            return Err(io::ErrorKind::StorageFull.into());
        }
        step.apply(&mut inner.bytes);
        inner.log.push(step);
        Ok(())
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().bytes.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let inner = self.0.lock().unwrap();
        let offset = usize::try_from(offset).unwrap();
        let from = inner
            .bytes
            .get(offset..offset + out.len())
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(from);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.write_step(Step::SetLength(usize::try_from(length).unwrap()))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.write_step(Step::Sync)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.write_step(Step::Write {
            offset: usize::try_from(offset).unwrap(),
            data: data.to_vec(),
        })
    }
}
