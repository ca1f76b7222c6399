//! Memory for when the system has no more.
//!
//! What is large is asked for so that a refusal is an error. For what is small (texts, lists, what a thread begins with)
//! Rust's library has no such way: it ends the process. Here that comes from a reserve, which costs addresses and no
//! memory until then. A call that would make a handle then fails with `SPR_OUT_OF_MEMORY`, and what it took is given back;
//! others go on, and end as if nothing had been refused.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::ptr::{self, null_mut};
use std::sync::Mutex;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering::Relaxed};

use memmap2::{MmapMut, MmapOptions};

use crate::status::{Fault, SprStatus};

/// Addresses to reserve while there are models: what reading the largest vocabularies takes in all, several times over.
const MAPPED: usize = if size_of::<usize>() > 4 { 128 << 20 } else { 16 << 20 };
/// What cannot be had is tried as a half, down to this.
const LEAST: usize = 1 << 20;
/// Larger ones may be refused: weights, keys and values.
const LARGEST: usize = MAPPED / 8;
/// For what is refused before there is a model.
const OWN: usize = 64 << 10;

#[global_allocator]
static ALLOCATOR: WithReserve = WithReserve;

struct WithReserve;

/// Allocations that the reserve has served.
static SERVED: AtomicUsize = AtomicUsize::new(0);
static OWN_MEMORY: OwnMemory = OwnMemory(UnsafeCell::new([0; OWN]));
static OWN_REGION: Region = Region::new(OWN_MEMORY.0.get().cast(), OWN);
static MAPPED_REGION: Region = Region::new(null_mut(), 0);
static HOLDERS: Mutex<Holders> = Mutex::new(Holders { count: 0, map: None });

/// Memory that is handed out in turn, and is whole again once all of it has come back.
struct Region {
    start: AtomicPtr<u8>,
    len: AtomicUsize,
    state: Mutex<State>,
}

struct State {
    used: usize,
    /// Allocations that have not come back.
    live: usize,
}

#[repr(align(64))]
struct OwnMemory(UnsafeCell<[u8; OWN]>);

// SAFETY: its bytes are given out by a region, each to one owner at a time.
unsafe impl Sync for OwnMemory {}

struct Holders {
    count: usize,
    map: Option<MmapMut>,
}

/// Keeps the reserve mapped.
pub(crate) struct Hold(());

/// How much had been served when a call began.
pub(crate) struct Mark(usize);

impl Hold {
    pub(crate) fn new() -> Self {
        let mut holders = lock(&HOLDERS);
        if holders.map.is_none() {
            holders.map = mapped();
            if let Some(map) = &mut holders.map {
                MAPPED_REGION.set(map.as_mut_ptr(), map.len());
            }
        }
        holders.count += 1;
        Hold(())
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut holders = lock(&HOLDERS);
        holders.count -= 1;
        // What an error's sentence or a callback of the program still has stays, for the next one to find.
        if holders.count == 0 && MAPPED_REGION.close() {
            holders.map = None;
        }
    }
}

impl Mark {
    pub(crate) fn new() -> Self {
        Mark(SERVED.load(Relaxed))
    }

    /// An error if the system has refused memory since.
    pub(crate) fn check(&self) -> Result<(), Fault> {
        match SERVED.load(Relaxed) == self.0 {
            true => Ok(()),
            false => Err(refused()),
        }
    }
}

/// An error if there may not be enough left for a call that is refused memory all along.
pub(crate) fn check() -> Result<(), Fault> {
    if MAPPED_REGION.is_low() || OWN_REGION.is_low() && MAPPED_REGION.len.load(Relaxed) == 0 {
        return Err(refused());
    }
    Ok(())
}

fn refused() -> Fault {
    let message = "the system has no memory left; free some, or use a smaller model";
    Fault(SprStatus::SPR_OUT_OF_MEMORY, message.into())
}

fn mapped() -> Option<MmapMut> {
    let sizes = std::iter::successors(Some(MAPPED), |size| Some(size / 2)).take_while(|size| *size >= LEAST);
    sizes.map(|size| MmapOptions::new().len(size).no_reserve_swap().map_anon()).find_map(Result::ok)
}

/// Nothing panics while it is locked.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Region {
    const fn new(start: *mut u8, len: usize) -> Self {
        Region {
            start: AtomicPtr::new(start),
            len: AtomicUsize::new(len),
            state: Mutex::new(State { used: 0, live: 0 }),
        }
    }

    fn set(&self, start: *mut u8, len: usize) {
        let mut state = lock(&self.state);
        *state = State { used: 0, live: 0 };
        self.start.store(start, Relaxed);
        self.len.store(len, Relaxed);
    }

    /// Gives nothing out any more, unless something is out.
    fn close(&self) -> bool {
        let state = lock(&self.state);
        if state.live == 0 {
            self.len.store(0, Relaxed);
            self.start.store(null_mut(), Relaxed);
        }
        state.live == 0
    }

    fn has(&self, pointer: *const u8) -> bool {
        pointer.addr().wrapping_sub(self.start.load(Relaxed).addr()) < self.len.load(Relaxed)
    }

    fn is_low(&self) -> bool {
        let len = self.len.load(Relaxed);
        len > 0 && lock(&self.state).used > len / 2
    }

    /// Null if it does not fit.
    fn take(&self, layout: Layout) -> *mut u8 {
        let mut state = lock(&self.state);
        let (start, len) = (self.start.load(Relaxed), self.len.load(Relaxed));
        let at = start.addr().wrapping_add(state.used).next_multiple_of(layout.align()).wrapping_sub(start.addr());
        match at.checked_add(layout.size()).filter(|end| *end <= len) {
            Some(end) => {
                state.used = end;
                state.live += 1;
                SERVED.fetch_add(1, Relaxed);
                start.wrapping_add(at)
            }
            None => null_mut(),
        }
    }

    fn put_back(&self, pointer: *mut u8, layout: Layout) {
        let mut state = lock(&self.state);
        state.live -= 1;
        let at = pointer.addr() - self.start.load(Relaxed).addr();
        if state.live == 0 {
            state.used = 0;
        } else if at + layout.size() == state.used {
            state.used = at;
        }
    }
}

/// Null if the reserve has no room either.
fn take(layout: Layout) -> *mut u8 {
    if layout.size() > LARGEST {
        return null_mut();
    }
    let from_map = MAPPED_REGION.take(layout);
    if from_map.is_null() { OWN_REGION.take(layout) } else { from_map }
}

fn region_of(pointer: *const u8) -> Option<&'static Region> {
    [&MAPPED_REGION, &OWN_REGION].into_iter().find(|region| region.has(pointer))
}

// SAFETY: memory is the system's, or of a region: bytes that are no one else's from when they are taken until they come
// back. Nothing here unwinds or allocates.
unsafe impl GlobalAlloc for WithReserve {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        let own = unsafe { System.alloc(layout) };
        if own.is_null() { take(layout) } else { own }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        let own = unsafe { System.alloc_zeroed(layout) };
        if !own.is_null() {
            return own;
        }
        let taken = take(layout);
        if !taken.is_null() {
            // SAFETY: it has so many bytes. Others may have had them before.
            unsafe { taken.write_bytes(0, layout.size()) };
        }
        taken
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        match region_of(pointer) {
            Some(region) => region.put_back(pointer, layout),
            // SAFETY: it is not of the reserve, and so the system's; the caller's promise.
            None => unsafe { System.dealloc(pointer, layout) },
        }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if region_of(pointer).is_none() {
            // SAFETY: it is the system's; the caller's promise.
            let own = unsafe { System.realloc(pointer, layout, size) };
            if !own.is_null() {
                return own;
            }
        }
        // SAFETY: the caller promises that `size` is not 0 and does not overflow when rounded up to the alignment.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        // SAFETY: as above.
        let new = unsafe { self.alloc(wanted) };
        if !new.is_null() {
            // SAFETY: both have as many bytes, and are not the same memory.
            unsafe { ptr::copy_nonoverlapping(pointer, new, layout.size().min(size)) };
            // SAFETY: the caller's promise; it is no longer used.
            unsafe { self.dealloc(pointer, layout) };
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_gives_out_what_nobody_has_and_takes_it_back() {
        let mut memory = [0u64; 64];
        let region = Region::new(memory.as_mut_ptr().cast(), size_of_val(&memory));
        let layout = |size, align| Layout::from_size_align(size, align).unwrap();
        let first = region.take(layout(3, 1));
        let second = region.take(layout(8, 8));
        assert!(second.addr().is_multiple_of(8) && second.addr() >= first.addr() + 3);
        assert!(region.take(layout(512, 1)).is_null());
        assert!(region.has(first) && region.has(second) && !region.has((&raw const layout).cast()));
        // The last one is free at once, the others when all are.
        region.put_back(second, layout(8, 8));
        assert_eq!(region.take(layout(8, 8)), second);
        assert!(!region.close());
        region.put_back(first, layout(3, 1));
        assert!(region.take(layout(500, 1)).is_null());
        region.put_back(second, layout(8, 8));
        assert_eq!(region.take(layout(512, 1)), first);
        assert!(region.is_low());
        region.put_back(first, layout(512, 1));
        assert!(region.close() && !region.has(first));
    }
}
