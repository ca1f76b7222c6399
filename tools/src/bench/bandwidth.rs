//! How fast this machine reads memory: the ceiling of a decoder, which reads every weight for every token.
//!
//! Each thread sums a buffer of its own, together four times the last-level cache and no less than 512 MB unless memory
//! is short. Sums wrap and go to several accumulators, so that the compiler makes vectors of them and no addition waits
//! for the one before: what is left is the reading. The median of several passes counts.

use std::hint::black_box;
use std::thread;
use std::time::Instant;

use crate::process;

const LEAST_BYTES: u64 = 512 << 20;
const PASSES: usize = 7;
/// Two cache lines of accumulators: half of the vector registers that every x86-64 and ARM has.
const LANES: usize = 16;

/// Bytes a second that `threads` threads read together; `None` if memory is too short to tell.
pub(super) fn read_bandwidth(threads: usize) -> Option<f64> {
    let bytes = buffer_bytes(process::last_level_cache(), process::available_memory())?;
    let lanes = bytes as usize / size_of::<[u64; LANES]>() / threads;
    let mut buffers = vec![Vec::new(); threads];
    // Filled by the thread that reads it: pages come from memory near it.
    on_threads(&mut buffers, |buffer| *buffer = vec![[1u64; LANES]; lanes]);
    let mut times: Vec<f64> = (0..PASSES).map(|_| pass(&mut buffers)).collect();
    times.sort_by(f64::total_cmp);
    Some((lanes * threads * size_of::<[u64; LANES]>()) as f64 / times[PASSES / 2])
}

/// Four times the cache, 512 MB at least, half of the free memory at most; `None` if that fits in the cache.
fn buffer_bytes(cache: Option<u64>, available: Option<u64>) -> Option<u64> {
    let cache = cache.unwrap_or(0);
    let wanted = LEAST_BYTES.max(cache.saturating_mul(4));
    let bytes = available.map_or(wanted, |available| wanted.min(available / 2));
    (bytes > cache).then_some(bytes)
}

/// Seconds of one reading.
fn pass(buffers: &mut [Vec<[u64; LANES]>]) -> f64 {
    let started = Instant::now();
    on_threads(buffers, |buffer| {
        black_box(sum(buffer));
    });
    started.elapsed().as_secs_f64()
}

fn sum(buffer: &[[u64; LANES]]) -> u64 {
    let mut sums = [0u64; LANES];
    for values in buffer {
        sums.iter_mut().zip(values).for_each(|(sum, value)| *sum = sum.wrapping_add(*value));
    }
    sums.into_iter().fold(0, u64::wrapping_add)
}

fn on_threads<T: Send>(items: &mut [T], work: impl Fn(&mut T) + Sync) {
    let work = &work;
    thread::scope(|scope| {
        for item in items {
            scope.spawn(move || work(item));
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_leave_the_cache_and_fit_in_memory() {
        const MB: u64 = 1 << 20;
        assert_eq!(buffer_bytes(None, None), Some(512 * MB));
        assert_eq!(buffer_bytes(Some(8 * MB), Some(64_000 * MB)), Some(512 * MB));
        assert_eq!(buffer_bytes(Some(512 * MB), Some(64_000 * MB)), Some(2048 * MB));
        assert_eq!(buffer_bytes(Some(8 * MB), Some(400 * MB)), Some(200 * MB));
        assert_eq!(buffer_bytes(Some(256 * MB), Some(400 * MB)), None);
    }

    #[test]
    fn sums_wrap() {
        let mut buffer = vec![[1u64; LANES]; 3];
        buffer[2][5] = u64::MAX;
        assert_eq!(sum(&buffer), 3 * LANES as u64 - 2);
    }
}
