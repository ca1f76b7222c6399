//! Threads that a model owns. Work is cut into parts beforehand, so the result never depends on their number.
//!
//! A token is some hundred short products, one after the other, and each is handed to the threads anew. So a hand-over
//! must cost little: it is one counter that waiting threads watch. They watch it only for [`SPIN`], which outlasts what
//! a token does between two products, and then sleep until they are woken.
//!
//! The caller works too, and whoever is free takes the next item. A thread that comes late, because it slept or the
//! system ran something else, finds the job withdrawn and nobody waits for it.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use std::{hint, io};

use crate::error::Error;

/// How long a thread watches before it sleeps: longer than the serial steps between two products, short enough that
/// an idle program uses no power.
const SPIN: Duration = Duration::from_micros(100);
/// Looks before a thread offers its CPU to others, perhaps to the one it waits for.
const LOOKS: usize = 300;
/// An offer that takes longer was taken: others need this CPU, so the thread sleeps. More offers would only put it
/// behind them for longer.
const CROWDED: Duration = Duration::from_micros(10);

/// How threads are begun: given a name of at most 15 bytes and what to do, which does not panic, it returns how to wait for
/// the end. [`spawn`] is Rust's; in C programs it must not abort where memory is refused.
pub type Spawn = fn(&str, Box<dyn FnOnce() + Send>) -> io::Result<Join>;
/// Waits for the end of a thread.
pub type Join = Box<dyn FnOnce() + Send + Sync>;

/// A fixed number of threads, the caller's own among them.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<Join>,
}

/// A thread of Rust's library.
pub fn spawn(name: &str, work: Box<dyn FnOnce() + Send>) -> io::Result<Join> {
    let thread = thread::Builder::new().name(name.to_owned()).spawn(work)?;
    // A worker catches the panics of its jobs and has none of its own.
    Ok(Box::new(move || drop(thread.join())))
}

impl Pool {
    /// A pool of `threads` threads (0 counts as 1); they end with it.
    pub(crate) fn new(threads: usize, spawn: Spawn) -> Result<Self, Error> {
        let threads = threads.max(1);
        let mut pool = Pool { shared: Arc::new(Shared::new()), workers: Vec::with_capacity(threads - 1) };
        for i in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let worker = spawn(&format!("spr-{i}"), Box::new(move || shared.serve()));
            pool.workers.push(worker.map_err(|_| Error::Threads { threads })?);
        }
        Ok(pool)
    }

    /// How many threads.
    pub(crate) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `work(index, item)` for every item, on all threads. The caller does all of it where the threads are busy
    /// with another call, an outer one or another session's. A panic in `work` is the caller's, once all is at rest.
    pub(crate) fn for_each<T: Send>(&self, items: &mut [T], work: impl Fn(usize, &mut T) + Sync) {
        let alone = self.workers.is_empty() || items.len() < 2;
        let left = Mutex::new(items.iter_mut().enumerate());
        let take = || left.lock().unwrap_or_else(PoisonError::into_inner).next();
        let work_off = || {
            while let Some((i, item)) = take() {
                work(i, item);
            }
        };
        if alone || !self.shared.run(&work_off) {
            work_off();
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop();
        for worker in self.workers.drain(..) {
            worker();
        }
    }
}

/// What all threads do at once, until there is nothing left to do.
type Job = &'static (dyn Fn() + Sync);
type Panic = Box<dyn Any + Send>;

/// What the caller and the workers have in common. The atomics change under the lock only; they are there for those
/// who watch, each in a cache line of its own so that watching does not slow the lock.
struct Shared {
    /// Jobs so far.
    generation: Line<AtomicUsize>,
    /// Workers that have the job.
    active: Line<AtomicUsize>,
    state: Line<Mutex<State>>,
    /// A new generation, for workers that sleep.
    opened: Condvar,
    /// No worker active any more, for a caller that sleeps.
    finished: Condvar,
}

#[repr(align(128))]
struct Line<T>(T);

#[derive(Default)]
struct State {
    /// Whether there is a caller.
    busy: bool,
    /// What workers may begin.
    job: Option<Job>,
    panic: Option<Panic>,
    sleeping_workers: usize,
    caller_sleeps: bool,
    stopped: bool,
}

impl Shared {
    fn new() -> Self {
        Shared {
            generation: Line(AtomicUsize::new(0)),
            active: Line(AtomicUsize::new(0)),
            state: Line(Mutex::default()),
            opened: Condvar::new(),
            finished: Condvar::new(),
        }
    }

    /// Runs `job` here and on the workers; `false`, with nothing done, if they are busy.
    fn run(&self, job: &(dyn Fn() + Sync)) -> bool {
        // SAFETY: only the lifetime changes. Workers get the job from `state.job` only, counting themselves in `active`
        // under the same lock, and use it until they leave. `close` takes it from there and returns when none is active;
        // it is called before this function ends, by a panic of `job` too, since that is caught. `open` does not unwind
        // after it stored the job.
        let endless = unsafe { std::mem::transmute::<&(dyn Fn() + Sync), Job>(job) };
        if !self.open(endless) {
            return false;
        }
        let own = catch_unwind(AssertUnwindSafe(job));
        let others = self.close();
        if let Some(panic) = own.err().or(others) {
            resume_unwind(panic);
        }
        true
    }

    /// Offers `job` to the workers, unless there is a caller already.
    fn open(&self, job: Job) -> bool {
        let mut state = self.lock();
        if state.busy {
            return false;
        }
        (state.busy, state.job) = (true, Some(job));
        self.generation.0.fetch_add(1, Ordering::Release);
        let some_sleep = state.sleeping_workers > 0;
        // Whoever wakes wants the lock.
        drop(state);
        if some_sleep {
            self.opened.notify_all();
        }
        true
    }

    /// Withdraws the job and waits for those who began it; returns what one of them panicked with.
    fn close(&self) -> Option<Panic> {
        self.lock().job = None;
        self.watch(|| self.active.0.load(Ordering::Acquire) == 0);
        let mut state = self.lock();
        while self.active.0.load(Ordering::Acquire) > 0 {
            state.caller_sleeps = true;
            state = self.finished.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        (state.caller_sleeps, state.busy) = (false, false);
        state.panic.take()
    }

    /// A worker's life.
    fn serve(&self) {
        let mut seen = 0;
        while let Some(job) = self.join(&mut seen) {
            let panic = catch_unwind(AssertUnwindSafe(job)).err();
            self.leave(panic);
        }
    }

    /// Waits for a job that is newer than `seen`; `None` at the end of the pool.
    fn join(&self, seen: &mut usize) -> Option<Job> {
        loop {
            let is_new = |seen: usize| self.generation.0.load(Ordering::Acquire) != seen;
            self.watch(|| is_new(*seen));
            let mut state = self.lock();
            while !is_new(*seen) {
                state.sleeping_workers += 1;
                state = self.opened.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.sleeping_workers -= 1;
            }
            if state.stopped {
                return None;
            }
            *seen = self.generation.0.load(Ordering::Acquire);
            if let Some(job) = state.job {
                self.active.0.fetch_add(1, Ordering::Release);
                return Some(job);
            }
        }
    }

    fn leave(&self, panic: Option<Panic>) {
        let mut state = self.lock();
        state.panic = state.panic.take().or(panic);
        let is_last = self.active.0.fetch_sub(1, Ordering::Release) == 1;
        if is_last && state.caller_sleeps {
            self.finished.notify_one();
        }
    }

    fn stop(&self) {
        let mut state = self.lock();
        state.stopped = true;
        self.generation.0.fetch_add(1, Ordering::Release);
        drop(state);
        self.opened.notify_all();
    }

    /// Looks until `done` or until it is time to sleep.
    fn watch(&self, done: impl Fn() -> bool) {
        let started = Instant::now();
        loop {
            for _ in 0..LOOKS {
                if done() {
                    return;
                }
                hint::spin_loop();
            }
            let before = Instant::now();
            thread::yield_now();
            if before - started > SPIN || before.elapsed() > CROWDED {
                return;
            }
        }
    }

    /// No code that holds the lock panics, so there is no poison to heed.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    /// Every item once, with its own index.
    fn check(pool: &Pool, n: usize) {
        let mut items = vec![0; n];
        pool.for_each(&mut items, |i, item| *item += i + 1);
        assert!(items.iter().copied().eq(1..=n), "{} threads: {items:?}", pool.threads());
    }

    /// An item a thread, which end together or never.
    fn meet(pool: &Pool) {
        let meeting = Barrier::new(pool.threads());
        pool.for_each(&mut vec![(); pool.threads()], |_, ()| {
            meeting.wait();
        });
    }

    fn message(panic: Panic) -> String {
        panic.downcast_ref::<&str>().map_or(String::new(), |text| (*text).to_owned())
    }

    #[test]
    fn every_item_once() {
        for threads in [0, 1, 2, 3, 8] {
            let pool = Pool::new(threads, spawn).unwrap();
            assert_eq!(pool.threads(), threads.max(1));
            (0..100).for_each(|n| check(&pool, n));
        }
    }

    #[test]
    fn all_threads_work() {
        let pool = Pool::new(3, spawn).unwrap();
        meet(&pool);
    }

    #[test]
    fn many_hand_overs() {
        for threads in [2, 5] {
            let pool = Pool::new(threads, spawn).unwrap();
            let mut counts = [0; 7];
            for _ in 0..10_000 {
                pool.for_each(&mut counts, |_, count| *count += 1);
            }
            assert_eq!(counts, [10_000; 7]);
        }
    }

    #[test]
    fn sleepers_wake() {
        let pool = Pool::new(3, spawn).unwrap();
        for _ in 0..5 {
            while pool.shared.lock().sleeping_workers < 2 {
                thread::yield_now();
            }
            meet(&pool);
        }
    }

    #[test]
    fn a_sleeping_caller_wakes() {
        let pool = Pool::new(2, spawn).unwrap();
        let meeting = Barrier::new(2);
        let caller = thread::current().id();
        pool.for_each(&mut [(); 2], |_, ()| {
            meeting.wait();
            while thread::current().id() != caller && !pool.shared.lock().caller_sleeps {
                thread::yield_now();
            }
        });
    }

    #[test]
    fn panics_are_the_callers() {
        let pool = Pool::new(2, spawn).unwrap();
        let caller = thread::current().id();
        for on_caller in [true, false] {
            let meeting = Barrier::new(2);
            let found = catch_unwind(AssertUnwindSafe(|| {
                pool.for_each(&mut [(); 2], |_, ()| {
                    meeting.wait();
                    if (thread::current().id() == caller) == on_caller {
                        panic!("bad item");
                    }
                });
            }));
            assert_eq!(message(found.unwrap_err()), "bad item");
            check(&pool, 50);
        }
    }

    #[test]
    fn two_callers_at_once() {
        let pool = Pool::new(2, spawn).unwrap();
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| (0..2_000).for_each(|i| check(&pool, i % 10)));
            }
        });
    }

    #[test]
    fn calls_within_calls() {
        let pool = Pool::new(3, spawn).unwrap();
        let mut items = [0; 5];
        pool.for_each(&mut items, |i, item| {
            let mut inner = [0; 4];
            pool.for_each(&mut inner, |j, inner| *inner = i * j);
            *item = inner.iter().sum();
        });
        assert_eq!(items, [0, 6, 12, 18, 24]);
    }

    #[test]
    fn threads_end_with_the_pool() {
        for wait in [Duration::ZERO, 4 * SPIN] {
            let pool = Pool::new(4, spawn).unwrap();
            check(&pool, 8);
            let shared = Arc::clone(&pool.shared);
            thread::sleep(wait);
            drop(pool);
            assert_eq!(Arc::strong_count(&shared), 1);
        }
    }
}
