//! Threads that a model owns. Work is cut into parts beforehand, so the result never depends on their number.

use crate::error::Error;

/// A fixed number of threads; one thread means the caller's own.
pub(crate) struct Pool {
    threads: usize,
    pool: Option<rayon::ThreadPool>,
}

impl Pool {
    /// A pool of `threads` threads (0 counts as 1).
    pub(crate) fn new(threads: usize) -> Result<Self, Error> {
        let threads = threads.max(1);
        let build = || rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("spr-{i}")).build();
        let pool = match threads {
            1 => None,
            _ => Some(build().map_err(|_| Error::Threads { threads })?),
        };
        Ok(Pool { threads, pool })
    }

    /// How many threads.
    pub(crate) fn threads(&self) -> usize {
        self.threads
    }

    /// Runs `work` on one of the pool's threads, so that the joins inside it need no hand-over.
    pub(crate) fn enter<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        match &self.pool {
            Some(pool) => pool.install(work),
            None => work(),
        }
    }

    /// Calls `work(index, item)` for every item, on all threads.
    pub(crate) fn for_each<T: Send>(&self, items: &mut [T], work: impl Fn(usize, &mut T) + Sync) {
        match &self.pool {
            Some(pool) => pool.install(|| split(items, 0, &work)),
            None => items.iter_mut().enumerate().for_each(|(i, item)| work(i, item)),
        }
    }
}

/// Halves the items until one is left: `join` keeps its jobs on the stack and allocates nothing.
fn split<T: Send>(items: &mut [T], first: usize, work: &(impl Fn(usize, &mut T) + Sync)) {
    match items {
        [] => {}
        [item] => work(first, item),
        _ => {
            let half = items.len() / 2;
            let (left, right) = items.split_at_mut(half);
            rayon::join(|| split(left, first, work), || split(right, first + half, work));
        }
    }
}
