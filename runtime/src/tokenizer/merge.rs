//! Joins neighbouring symbols, the best pair first, until no pair is a token.
//!
//! Byte-level BPE and SentencePiece differ only in what makes a pair good. A queue of pairs makes it O(n log n), and
//! nothing recurses, so a megabyte of one letter is only a long word.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::pieces::NONE;

/// A piece of the text being merged.
#[derive(Clone, Copy)]
pub(super) struct Symbol {
    /// Its token, or [`NONE`].
    pub(super) id: u32,
    /// Where it begins in the text.
    pub(super) start: u32,
    /// Bytes; 0 once it is part of its left neighbour.
    pub(super) len: u32,
    prev: u32,
    next: u32,
}

impl Symbol {
    /// The bytes it covers.
    pub(super) fn range(&self) -> std::ops::Range<usize> {
        self.start as usize..(self.start + self.len) as usize
    }
}

/// Bytes of two neighbours together.
pub(super) fn joined_len(left: &Symbol, right: &Symbol) -> usize {
    left.len as usize + right.len as usize
}

/// What a pair would become.
pub(super) struct Pair {
    /// Greater is joined earlier.
    pub(super) priority: u32,
    /// The token of both together.
    pub(super) id: u32,
}

/// Better priority first, then the leftmost; `len` tells whether the pair still is what it was.
type Candidate = (u32, Reverse<u32>, u32, u32, u32);

/// Memory for one word after another.
#[derive(Default)]
pub(super) struct Merger {
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Candidate>,
}

impl Merger {
    /// Begins a new word.
    pub(super) fn clear(&mut self) {
        self.symbols.clear();
        self.queue.clear();
    }

    /// Adds the next `len` bytes.
    pub(super) fn push(&mut self, id: u32, len: u32) {
        let at = self.symbols.len() as u32;
        let (start, prev) = match self.symbols.last_mut() {
            Some(last) => {
                last.next = at;
                (last.start + last.len, at - 1)
            }
            None => (0, NONE),
        };
        self.symbols.push(Symbol { id, start, len, prev, next: NONE });
    }

    /// Joins until `pair` finds nothing more; what is left, in order.
    pub(super) fn run(&mut self, pair: impl Fn(&Symbol, &Symbol) -> Option<Pair>) -> impl Iterator<Item = &Symbol> {
        for right in 1..self.symbols.len() as u32 {
            self.consider(right - 1, right, &pair);
        }
        while let Some((_, Reverse(left), right, len, id)) = self.queue.pop() {
            let (l, r) = (self.symbols[left as usize], self.symbols[right as usize]);
            if l.len == 0 || r.len == 0 || l.len + r.len != len {
                continue; // One of them has been joined to something better since.
            }
            self.join(left, right, id);
            self.consider(l.prev, left, &pair);
            self.consider(left, r.next, &pair);
        }
        self.symbols.iter().filter(|s| s.len > 0)
    }

    fn consider(&mut self, left: u32, right: u32, pair: impl Fn(&Symbol, &Symbol) -> Option<Pair>) {
        let (Some(l), Some(r)) = (self.symbols.get(left as usize), self.symbols.get(right as usize)) else { return };
        if let Some(Pair { priority, id }) = pair(l, r) {
            self.queue.push((priority, Reverse(left), right, l.len + r.len, id));
        }
    }

    fn join(&mut self, left: u32, right: u32, id: u32) {
        let r = self.symbols[right as usize];
        self.symbols[right as usize].len = 0;
        let l = &mut self.symbols[left as usize];
        (l.id, l.len, l.next) = (id, l.len + r.len, r.next);
        if let Some(after) = self.symbols.get_mut(r.next as usize) {
            after.prev = left;
        }
    }
}
