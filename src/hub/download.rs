//! One file from the hub into a folder: begun where an earlier attempt ended, and given its name only when its content
//! is what the hub says it is.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use models::format::gguf;
use ureq::Body;
use ureq::http::Response;

use super::checksum::Hasher;
use super::{Checksum, Hub, HubError};

/// A file of a repository, of which everything is known.
#[derive(Clone, Debug)]
pub(crate) struct Download<'d> {
    pub(crate) repository: &'d str,
    /// In the repository.
    pub(crate) path: &'d str,
    /// In the folder.
    pub(crate) name: &'d str,
    pub(crate) bytes: u64,
    /// None where the hub gives none; then only the length is looked at.
    pub(crate) checksum: Option<Checksum>,
}

/// Between attempts of which none brought anything.
pub(super) const PAUSES: [Duration; 4] = [
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
];
/// Nobody waits longer because a hub says so.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Read, hashed and written at a time.
const PIECE_BYTES: usize = 256 << 10;
/// By then a GGUF file has said of which architecture it is.
const BEGINNING_BYTES: usize = 64 << 10;

/// How one attempt ended, other than well.
enum Broken {
    /// Another may go on where it ended.
    ForNow {
        reason: String,
        pause: Option<Duration>,
    },
    ForGood(HubError),
}

impl Download<'_> {
    /// Brings it, and tells how many bytes of it are there.
    pub(crate) fn run(
        &self,
        hub: &Hub,
        folder: &Path,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), HubError> {
        let part = self.part_in(folder);
        let opened = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&part);
        let mut file = opened.map_err(|source| at(&part, source))?;
        let mut began_anew = false;
        loop {
            let resumed = self.fetch(hub, &mut file, &part, progress)?;
            let whole = file.sync_all().and_then(|()| self.check(&part, progress));
            if whole.map_err(|source| at(&part, source))? {
                break;
            }
            // What lay there from before may have been damaged; once, it is worth another try from the beginning.
            let retries = resumed && !began_anew;
            began_anew = true;
            if !retries {
                fs::remove_file(&part).map_err(|source| at(&part, source))?;
                return Err(self.wrong());
            }
            file.set_len(0).map_err(|source| at(&part, source))?;
        }
        fs::rename(&part, folder.join(self.name)).map_err(|source| at(&part, source))
    }

    /// Bytes of it that lie in the folder already.
    pub(crate) fn bytes_there(&self, folder: &Path) -> u64 {
        let there = |path: PathBuf| fs::metadata(path).map_or(0, |metadata| metadata.len());
        there(folder.join(self.name))
            .max(there(self.part_in(folder)))
            .min(self.bytes)
    }

    /// Another content has another name, so that nothing is put together of two.
    fn part_in(&self, folder: &Path) -> PathBuf {
        let content = match self.checksum {
            Some(checksum) => checksum.to_string().replace(':', "-").chars().take(24).collect(),
            None => self.bytes.to_string(),
        };
        folder.join(format!("{}.{content}.part", self.name))
    }

    /// Until all of it is there. Says whether some of it had been there before.
    fn fetch(
        &self,
        hub: &Hub,
        file: &mut File,
        part: &Path,
        progress: &mut dyn FnMut(u64),
    ) -> Result<bool, HubError> {
        let length = |file: &File| {
            file.metadata()
                .map(|metadata| metadata.len())
                .map_err(|source| at(part, source))
        };
        let resumed = length(file)? > 0;
        let mut pauses = PAUSES.iter();
        loop {
            let had = length(file)?;
            if had > self.bytes {
                file.set_len(0).map_err(|source| at(part, source))?;
                continue;
            }
            progress(had);
            if had == self.bytes {
                return Ok(resumed);
            }
            let (reason, pause) = match self.attempt(hub, had, file, part, progress) {
                Ok(()) => continue,
                Err(Broken::ForGood(error)) => {
                    // What the hub does not give now it may give again.
                    if matches!(error, HubError::WrongLength { .. } | HubError::CannotRun { .. }) {
                        let _may_stay = fs::remove_file(part);
                    }
                    return Err(error);
                }
                Err(Broken::ForNow { reason, pause }) => (reason, pause),
            };
            let done = length(file)?;
            if done > had {
                pauses = PAUSES.iter();
                continue;
            }
            match pauses.next() {
                Some(usual) => std::thread::sleep(pause.unwrap_or(*usual)),
                None => {
                    return Err(HubError::Broken {
                        file: self.path.to_owned(),
                        done,
                        bytes: self.bytes,
                        reason,
                    });
                }
            }
        }
    }

    /// One request, from this byte on.
    fn attempt(
        &self,
        hub: &Hub,
        from: u64,
        file: &mut File,
        part: &Path,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), Broken> {
        let url = hub.file_url(self.repository, self.path);
        let answer = hub
            .get(&url, (from > 0).then_some(from), 10)
            .map_err(|error| Broken::ForNow {
                reason: error.to_string(),
                pause: None,
            })?;
        let status = answer.status().as_u16();
        if is_for_a_while(status) {
            return Err(Broken::ForNow {
                reason: format!("status {status}"),
                pause: pause_of(&answer),
            });
        }
        let written = match status {
            200 => {
                // It gives the whole whatever it is asked for.
                file.set_len(0).map_err(|source| self.broken(part, source))?;
                0
            }
            206 if begins_at(&answer, from, self.bytes) => from,
            206 | 416 => return Err(Broken::ForGood(self.wrong_length())),
            _ => return Err(Broken::ForGood(hub.refusal(self.repository, &url, answer))),
        };
        self.write(answer, written, file, part, progress)
    }

    fn write(
        &self,
        answer: Response<Body>,
        from: u64,
        file: &mut File,
        part: &Path,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), Broken> {
        file.seek(SeekFrom::Start(from))
            .map_err(|source| self.broken(part, source))?;
        // One byte more than there should be tells that there is more.
        let mut body = answer
            .into_body()
            .into_reader()
            .take((self.bytes - from).saturating_add(1));
        let mut piece = vec![0; PIECE_BYTES];
        let (mut written, mut beginning) = (from, Vec::new());
        while written < self.bytes {
            let count = body.read(&mut piece).map_err(|error| Broken::ForNow {
                reason: error.to_string(),
                pause: None,
            })?;
            if count == 0 {
                return Err(Broken::ForNow {
                    reason: "it ended too early".to_owned(),
                    pause: None,
                });
            }
            if written + count as u64 > self.bytes {
                return Err(Broken::ForGood(self.wrong_length()));
            }
            let bytes = &piece[..count];
            file.write_all(bytes)
                .map_err(|source| self.broken(part, source))?;
            if from == 0 && written < BEGINNING_BYTES as u64 {
                beginning.extend_from_slice(bytes);
                self.refuse_what_cannot_be_run(&beginning)?;
            }
            written += count as u64;
            progress(written);
        }
        Ok(())
    }

    /// Before gigabytes of it have come.
    fn refuse_what_cannot_be_run(&self, beginning: &[u8]) -> Result<(), Broken> {
        let architecture =
            gguf::architecture_of(beginning).filter(|_| self.name.to_ascii_lowercase().ends_with(".gguf"));
        match architecture.map(models::check_architecture) {
            Some(Err(problem)) => Err(Broken::ForGood(HubError::CannotRun {
                file: self.path.to_owned(),
                problem,
            })),
            _ => Ok(()),
        }
    }

    /// Whether what lies there is the file.
    fn check(&self, path: &Path, progress: &mut dyn FnMut(u64)) -> io::Result<bool> {
        progress(self.bytes);
        is_the_file(path, self.bytes, self.checksum)
    }

    fn wrong(&self) -> HubError {
        match self.checksum {
            Some(checksum) => HubError::WrongChecksum {
                file: self.path.to_owned(),
                checksum: checksum.to_string(),
            },
            None => self.wrong_length(),
        }
    }

    fn wrong_length(&self) -> HubError {
        HubError::WrongLength {
            file: self.path.to_owned(),
            bytes: self.bytes,
        }
    }

    fn broken(&self, part: &Path, source: io::Error) -> Broken {
        Broken::ForGood(at(part, source))
    }
}

/// Whether a file has this length and this content.
pub(crate) fn is_the_file(path: &Path, bytes: u64, checksum: Option<Checksum>) -> io::Result<bool> {
    let mut file = File::open(path)?;
    if file.metadata()?.len() != bytes {
        return Ok(false);
    }
    let Some(checksum) = checksum else {
        return Ok(true);
    };
    let mut hasher = Hasher::new(checksum, bytes);
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(hasher.matches()),
            count => hasher.update(&piece[..count]),
        }
    }
}

/// Too much to do, or something between that does not work just now.
pub(super) fn is_for_a_while(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500 | 502 | 503 | 504)
}

/// How long the hub asks to be left alone.
pub(super) fn pause_of(answer: &Response<Body>) -> Option<Duration> {
    let seconds = answer
        .headers()
        .get("retry-after")?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST_PAUSE))
}

/// Whether a part is the one that was asked for, of a file of this length.
fn begins_at(answer: &Response<Body>, from: u64, bytes: u64) -> bool {
    let range = answer
        .headers()
        .get("content-range")
        .and_then(|value| value.to_str().ok());
    let Some((range, whole)) = range.and_then(|range| range.strip_prefix("bytes ")?.split_once('/')) else {
        return false;
    };
    let begins = range
        .split('-')
        .next()
        .and_then(|begin| begin.trim().parse().ok());
    begins == Some(from) && (whole.trim() == "*" || whole.trim().parse() == Ok(bytes))
}

fn at(path: &Path, source: io::Error) -> HubError {
    HubError::Io {
        path: path.to_owned(),
        source,
    }
}
