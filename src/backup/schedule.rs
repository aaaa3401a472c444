//! Backups that nobody asks for: on a thread of their own, which a disk may hold up as long as it likes.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use super::create::unix_s;
use super::{BackupError, Subject, Target, Values, create, is_shown, list, retention};
use crate::security::keys;
use crate::store::{ArchiveSecret, AskForLeave, DurableStore, Progress};

/// How often it is looked whether one is due. So soon one that could not be made is tried again, and one that was made by hand is
/// seen.
const LOOK_EVERY: Duration = Duration::from_secs(600);
const WAIT_STEP: Duration = Duration::from_millis(10);

/// When, and where to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeeperConfig {
    /// Where backups go.
    pub directory: PathBuf,
    /// Time between two of them.
    pub interval: Duration,
    /// So many are kept.
    pub keep: usize,
}

/// What became of them, for whoever scrapes.
#[derive(Debug, Default)]
pub struct BackupGauge {
    last_unix_s: AtomicU64,
    failures: AtomicU64,
}

impl BackupGauge {
    /// When the newest one was made, in Unix time; 0 where there is none.
    pub fn last_unix_s(&self) -> u64 {
        self.last_unix_s.load(Relaxed)
    }

    /// Times that one was due and could not be made.
    pub fn failures(&self) -> u64 {
        self.failures.load(Relaxed)
    }
}

/// The thread, and how to end it.
pub struct BackupKeeper {
    desk: Arc<Desk>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Desk {
    config: KeeperConfig,
    subject: Subject,
    store: Option<Arc<DurableStore>>,
    leave: AskForLeave,
    gauge: Arc<BackupGauge>,
    progress: Progress,
    ends: Mutex<bool>,
    changed: Condvar,
}

impl BackupKeeper {
    /// Begins. The first one is made at once, where one is due.
    pub fn start(
        config: KeeperConfig,
        subject: Subject,
        store: Option<Arc<DurableStore>>,
        leave: AskForLeave,
        gauge: Arc<BackupGauge>,
    ) -> BackupKeeper {
        let desk = Arc::new(Desk {
            config,
            subject,
            store,
            leave,
            gauge,
            progress: Progress::default(),
            ends: Mutex::new(false),
            changed: Condvar::new(),
        });
        let desk_there = desk.clone();
        let thread = std::thread::Builder::new()
            .name("backup".into())
            .spawn(move || desk_there.work_until_the_end());
        if let Err(error) = &thread {
            tracing::error!(%error, "no backups are made: their thread could not be started");
        }
        BackupKeeper {
            desk,
            thread: Mutex::new(thread.ok()),
        }
    }

    /// Ends what it does as soon as it can.
    pub fn begin_to_stop(&self) {
        *self.desk.ends() = true;
        self.desk.progress.stop.store(true, Relaxed);
        self.desk.changed.notify_all();
    }

    /// Waits for that, but not for a disk that hangs: what it had begun there is cleared away before the next one.
    pub fn wait(&self, most: Duration) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(thread) = thread else { return };
        let began = Instant::now();
        while !thread.is_finished() && began.elapsed() < most {
            std::thread::sleep(WAIT_STEP);
        }
    }
}

impl Desk {
    fn work_until_the_end(&self) {
        loop {
            self.look();
            let ends = self.ends();
            let waited = self
                .changed
                .wait_timeout_while(ends, LOOK_EVERY, |ends| !*ends)
                .unwrap_or_else(PoisonError::into_inner);
            if *waited.0 {
                return;
            }
        }
    }

    fn look(&self) {
        if let Err(error) = self.make_one_that_is_due()
            && !*self.ends()
        {
            self.gauge.failures.fetch_add(1, Relaxed);
            let directory = self.config.directory.display();
            tracing::warn!(%error, %directory, "no backup could be made; it is tried again in 10 minutes");
        }
    }

    fn make_one_that_is_due(&self) -> Result<(), BackupError> {
        let listed = list(&self.config.directory)?;
        let times: Vec<u64> = listed.iter().map(|backup| backup.made_at_unix_s).collect();
        let now = unix_s(SystemTime::now())?;
        let newest = retention::newest(&times, now).unwrap_or(0);
        self.gauge.last_unix_s.store(newest, Relaxed);
        if !retention::is_due(&times, now, self.config.interval) {
            return Ok(());
        }
        let waits = || !*self.ends();
        let _leave = (self.leave)(&waits);
        if !waits() {
            return Ok(());
        }
        let dir = self.subject.dir();
        let (key, is_new) = keys::load_or_create_backup_key(dir)?;
        if is_new {
            tracing::info!("the key that backups are sealed under was made");
        }
        let values = match &self.store {
            Some(store) => Values::Running(store),
            None => Values::None,
        };
        let target = Target::Directory(self.config.directory.clone(), self.config.keep);
        let secret = ArchiveSecret::Key(key);
        let made = create(
            &self.subject,
            &values,
            &secret,
            &target,
            SystemTime::now(),
            &self.progress,
        )?;
        self.gauge
            .last_unix_s
            .store(made.summary.head.made_at_unix_s, Relaxed);
        let damaged = made.summary.store.as_ref().map_or(0, |store| store.damaged);
        tracing::info!(
            file = %made.file.display(),
            bytes = made.bytes,
            removed = made.removed,
            damaged,
            "a backup was made"
        );
        if let Some(error) = made.trouble {
            tracing::warn!(error, "older backups could not be removed");
        }
        if !is_shown(dir) {
            tracing::warn!(
                data_dir = %dir.root().display(),
                "nobody has seen the key of the backups: run `clawdbot backup key show` with this --data-dir and as this \
                 user, and write it down, since without it they open nothing once this disk is gone"
            );
        }
        Ok(())
    }

    fn ends(&self) -> MutexGuard<'_, bool> {
        // Nothing panics while it is held.
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::security::DataDir;
    use crate::settings::Settings;

    #[test]
    fn one_is_made_when_it_is_due_and_a_place_that_is_not_there_is_tried_again() {
        let temp = tempfile::tempdir().unwrap();
        let (root, directory) = (temp.path().join("data"), temp.path().join("disk"));
        let dir = DataDir::prepare(&root).unwrap();
        keys::load_or_create(&dir).unwrap();
        let desk = Desk {
            config: KeeperConfig {
                directory: directory.clone(),
                interval: Duration::from_secs(3600),
                keep: 3,
            },
            subject: Subject::of(&Settings::default_for_tests(&root), dir),
            store: None,
            leave: Box::new(|_| None),
            gauge: Arc::default(),
            progress: Progress::default(),
            ends: Mutex::new(false),
            changed: Condvar::new(),
        };
        desk.look();
        assert_eq!((desk.gauge.failures(), desk.gauge.last_unix_s()), (1, 0));
        assert!(!directory.exists(), "a disk that is not mounted");
        fs::create_dir(&directory).unwrap();
        desk.look();
        desk.look();
        assert_eq!(desk.gauge.failures(), 1);
        assert!(desk.gauge.last_unix_s() > 0);
        assert_eq!(list(&directory).unwrap().len(), 1, "it was due once");
        // One that was due and is told to end is no failure.
        fs::remove_dir_all(&directory).unwrap();
        *desk.ends() = true;
        desk.look();
        assert_eq!(desk.gauge.failures(), 1);
    }

    #[test]
    fn it_ends_when_it_is_told() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("data");
        let dir = DataDir::prepare(&root).unwrap();
        keys::load_or_create(&dir).unwrap();
        let config = KeeperConfig {
            directory: temp.path().to_path_buf(),
            interval: Duration::from_secs(3600),
            keep: 3,
        };
        let subject = Subject::of(&Settings::default_for_tests(&root), dir);
        let gauge = Arc::<BackupGauge>::default();
        let keeper = BackupKeeper::start(config, subject, None, Box::new(|_| None), gauge.clone());
        let deadline = Instant::now() + Duration::from_secs(60);
        while gauge.last_unix_s() == 0 {
            assert!(Instant::now() < deadline);
            std::thread::sleep(WAIT_STEP);
        }
        keeper.begin_to_stop();
        let began = Instant::now();
        keeper.wait(Duration::from_secs(60));
        assert!(began.elapsed() < Duration::from_secs(50));
    }
}
