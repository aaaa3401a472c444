//! Threads that share the work of one step. Between two pieces of a step they spin for some microseconds, because the
//! next one comes at once; after that they are parked, and an engine that nobody steps costs nothing.

use std::cell::UnsafeCell;
use std::hint;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle, Thread};

/// How often a thread looks for more before it is parked; some tens of microseconds.
const SPINS: usize = 2_000;

/// A fixed number of threads, one of which is the caller.
#[derive(Debug)]
pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

struct Shared {
    /// Counts the works that were given out. Odd numbers do not occur while nobody works.
    round: AtomicUsize,
    /// Parts of the present work that somebody has taken, and how many there are.
    taken: AtomicUsize,
    parts: AtomicUsize,
    /// Threads that have not finished the present work.
    busy: AtomicUsize,
    panicked: AtomicBool,
    ends: AtomicBool,
    /// The present work. Written by the caller alone, while `busy` is 0.
    work: UnsafeCell<Option<Work>>,
    parked: Vec<AtomicBool>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("threads", &(self.parked.len() + 1))
            .finish()
    }
}

/// A borrowed closure whose lifetime is not known to the threads; [`Pool::run`] outlives every use of it.
#[derive(Clone, Copy)]
struct Work(*const (dyn Fn(usize) + Sync));

#[allow(
    unsafe_code,
    reason = "the closure behind it is Sync, and Pool::run keeps it alive"
)]
// SAFETY: the pointer is only used to call a closure that is `Sync`, between its being set in `Pool::run` and that
// function's end.
unsafe impl Send for Work {}

#[allow(unsafe_code, reason = "who may touch `work` is said at its field")]
// SAFETY: all fields but `work` are Sync. `work` is written only by `Pool::run`, which has `&mut self`, while `busy` is
// 0, that is when no worker reads it; the release of `round` makes the write visible to those who acquire it.
unsafe impl Sync for Shared {}

impl Pool {
    /// So many threads in all, at least the caller.
    pub(crate) fn new(threads: usize) -> std::io::Result<Pool> {
        let others = threads.saturating_sub(1);
        let shared = Arc::new(Shared {
            round: AtomicUsize::new(0),
            taken: AtomicUsize::new(0),
            parts: AtomicUsize::new(0),
            busy: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            ends: AtomicBool::new(false),
            work: UnsafeCell::new(None),
            parked: (0..others).map(|_| AtomicBool::new(false)).collect(),
        });
        let mut workers = Vec::with_capacity(others);
        for index in 0..others {
            let shared = shared.clone();
            workers.push(
                thread::Builder::new()
                    .name(format!("engine-{}", index + 1))
                    .spawn(move || shared.serve(index))?,
            );
        }
        Ok(Pool { shared, workers })
    }

    /// The caller is one of them.
    pub(crate) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Has `work` done for every number below `parts`, in any order and by any thread, and returns when all is done.
    /// A panic in it is passed on to the caller.
    pub(crate) fn run(&mut self, parts: usize, work: &(dyn Fn(usize) + Sync)) {
        if self.workers.is_empty() || parts <= 1 {
            (0..parts).for_each(work);
            return;
        }
        let shared = &*self.shared;
        let pointer: *const (dyn Fn(usize) + Sync) = work;
        #[allow(unsafe_code, reason = "a lifetime that only this function knows")]
        // SAFETY: only the lifetime changes. No thread uses the pointer after `busy` is 0 again, which is waited for
        // below, also where the work panics. The cell is ours while `busy` is 0, as it is here (see `Shared::work`).
        unsafe {
            let pointer = std::mem::transmute::<
                *const (dyn Fn(usize) + Sync),
                *const (dyn Fn(usize) + Sync + 'static),
            >(pointer);
            *shared.work.get() = Some(Work(pointer));
        }
        shared.taken.store(0, Ordering::Relaxed);
        shared.parts.store(parts, Ordering::Relaxed);
        shared.busy.store(self.workers.len(), Ordering::Relaxed);
        // Sequentially consistent with the flags of those that are about to be parked: either they see this, or they
        // are woken.
        shared.round.fetch_add(1, Ordering::SeqCst);
        for (worker, parked) in self.workers.iter().zip(&shared.parked) {
            if parked.load(Ordering::SeqCst) {
                wake(worker.thread());
            }
        }
        let ours = catch_unwind(AssertUnwindSafe(|| shared.take_parts(work)));
        // The last of them is not long after us.
        let mut spins = 0;
        while shared.busy.load(Ordering::Acquire) > 0 {
            spins += 1;
            if spins > SPINS {
                thread::yield_now();
            } else {
                hint::spin_loop();
            }
        }
        match ours {
            Err(panic) => resume_unwind(panic),
            Ok(()) if shared.panicked.swap(false, Ordering::Relaxed) => {
                resume_unwind(Box::new("a thread of the engine panicked"));
            }
            Ok(()) => {}
        }
    }
}

fn wake(thread: &Thread) {
    thread.unpark();
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::SeqCst);
        self.shared.round.fetch_add(1, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // One that panicked has said so.
            let _ = worker.join();
        }
    }
}

impl Shared {
    fn take_parts(&self, work: &(dyn Fn(usize) + Sync)) {
        let parts = self.parts.load(Ordering::Relaxed);
        loop {
            let part = self.taken.fetch_add(1, Ordering::Relaxed);
            if part >= parts {
                return;
            }
            work(part);
        }
    }

    fn serve(&self, index: usize) {
        let mut seen = 0;
        loop {
            self.await_round(seen, index);
            seen = self.round.load(Ordering::Acquire);
            if self.ends.load(Ordering::Relaxed) {
                return;
            }
            #[allow(unsafe_code, reason = "who may touch `work` is said at its field")]
            // SAFETY: a round has begun, so that it was written before and is not written again until `busy` is 0,
            // which needs this thread's decrement below; for so long `Pool::run` keeps the closure alive.
            let work = unsafe { (*self.work.get()).map(|work| &*work.0) };
            if let Some(work) = work
                && catch_unwind(AssertUnwindSafe(|| self.take_parts(work))).is_err()
            {
                self.panicked.store(true, Ordering::Relaxed);
            }
            self.busy.fetch_sub(1, Ordering::Release);
        }
    }

    fn await_round(&self, seen: usize, index: usize) {
        for _ in 0..SPINS {
            if self.round.load(Ordering::Acquire) != seen {
                return;
            }
            hint::spin_loop();
        }
        let parked = self.parked.get(index);
        loop {
            if let Some(parked) = parked {
                parked.store(true, Ordering::SeqCst);
            }
            if self.round.load(Ordering::SeqCst) != seen {
                break;
            }
            thread::park();
        }
        if let Some(parked) = parked {
            parked.store(false, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_done_once_by_however_many_threads() {
        for threads in [1, 2, 5] {
            let mut pool = Pool::new(threads).unwrap();
            for parts in [0, 1, 2, 7, 1000] {
                let done: Vec<AtomicUsize> = (0..parts).map(|_| AtomicUsize::new(0)).collect();
                for round in 1..=20 {
                    pool.run(parts, &|part| {
                        done[part].fetch_add(1, Ordering::Relaxed);
                    });
                    assert!(done.iter().all(|count| count.load(Ordering::Relaxed) == round));
                }
            }
        }
    }

    #[test]
    fn threads_that_were_parked_come_back() {
        let mut pool = Pool::new(3).unwrap();
        for _ in 0..5 {
            let count = AtomicUsize::new(0);
            pool.run(64, &|_| {
                count.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(count.into_inner(), 64);
            // Long enough to be parked, whether or not they are.
            thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
        let mut pool = Pool::new(2).unwrap();
        for bad in [0, 99] {
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                pool.run(100, &|part| assert_ne!(part, bad));
            }));
            assert!(outcome.is_err());
        }
        let count = AtomicUsize::new(0);
        pool.run(10, &|_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(count.into_inner(), 10);
    }
}
