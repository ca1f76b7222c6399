//! NEON: every 64-bit ARM, made for the Cortex-A72 (Raspberry Pi 4).
//!
//! A half register is looked up in a third of the time of a whole one there, so bytes are spread eight columns at a time.
//! With `DOTPROD`, for the Cortex-A76 (Raspberry Pi 5) and later, it is sixteen, and one instruction sums four products.
//!
//! All but that is baseline on 64-bit ARM.

use std::arch::aarch64::*;
use std::arch::asm;
use std::ops::Range;

use half::f16;
use spm::levels::SPARSE_Q4_LEVELS;
use spm::{BLOCK, Matrix};

use super::kernel::{self, Codes, GROUP, Isa, Scratch};
use super::neon_dotprod::sdot;
use super::{Kernels, attention, float};
use crate::ops;

/// The kernels: every CPU of this architecture has what they need.
pub(super) fn detect() -> Option<&'static Kernels> {
    Some(&KERNELS)
}

/// For ISAs that contain this one, too.
pub(super) static KERNELS: Kernels = Kernels {
    name: "neon",
    rows_i8,
    rows_f32,
    quantize,
    // SAFETY: NEON is baseline on this architecture.
    scores: |q, keys, scratch, out| unsafe { attention::scores::<Neon<false>>(q, keys, scratch, out) },
    // SAFETY: as above.
    mix: |q, values, scratch, weights, out| unsafe {
        attention::mix::<Neon<false>>(q, values, scratch, weights, out);
    },
    softmax: ops::softmax,
    swiglu: ops::swiglu,
    rms_norm: ops::rms_norm,
    store_f16,
};

/// This ISA, and with `DOTPROD` the one that has `sdot` besides: see `neon_dotprod`.
pub(super) struct Neon<const DOTPROD: bool>;

fn rows_i8(m: &Matrix, rows: Range<usize>, x: &Codes, scratch: &mut Scratch, out: &mut [f32]) {
    // SAFETY: NEON is baseline on this architecture.
    unsafe {
        match x.n() {
            ..=FEW => kernel::rows_few::<Neon<false>>(m, rows, x, out),
            _ => kernel::rows_many::<Neon<false>>(m, rows, x, scratch, out),
        }
    }
}

fn rows_f32(m: &Matrix, rows: Range<usize>, x: &[f32], scratch: &mut Scratch, out: &mut [f32]) {
    // SAFETY: NEON is baseline on this architecture.
    unsafe { float::rows_f32::<Neon<false>>(m, rows, x, scratch, out) }
}

/// Vectors that are multiplied with a chunk in registers.
const FEW: usize = 2;

/// For each mask byte: the places where its columns find their values, counted from the first value the byte uses,
/// 0x80 (which a lookup turns into zero) where the mask has no bit.
struct Places {
    /// Followed by how many bits there are, eight times over.
    first: [[u8; 16]; 256],
    /// Preceded by zeros. `first[a] + second[b]` are the places for both bytes.
    second: [[u8; 16]; 256],
    /// The places alone.
    half: [[u8; 8]; 256],
    /// Those of both bytes of halves.
    pairs: [[u8; 16]; 256],
}

/// A cache line, so that no place lies in two.
#[repr(align(64))]
struct InLines(Places);

static PLACES: InLines = InLines(places());

const fn places() -> Places {
    let none = [[0x80; 16]; 256];
    let mut table = Places { first: none, second: none, half: [[0x80; 8]; 256], pairs: none };
    let mut mask = 0;
    while mask < 256 {
        let (mut j, mut nth) = (0, 0);
        while j < 8 {
            table.second[mask][j] = 0;
            if mask >> j & 1 == 1 {
                table.first[mask][j] = nth;
                table.second[mask][8 + j] = nth;
                table.half[mask][j] = nth;
                table.pairs[mask][2 * j] = 2 * nth;
                table.pairs[mask][2 * j + 1] = 2 * nth + 1;
                nth += 1;
            }
            j += 1;
        }
        while j < 16 {
            table.first[mask][j] = nth;
            j += 1;
        }
        mask += 1;
    }
    table
}

/// 64 codes, 16 or 8 a register.
#[derive(Clone, Copy)]
pub(super) enum Chunk {
    Whole([int8x16_t; 4]),
    Halves([int8x8_t; 8]),
}

fn byte(of: u64, i: usize) -> usize {
    (of >> (8 * i) & 0xFF) as usize
}

/// How many bits each byte of the mask has.
#[target_feature(enable = "neon")]
#[inline]
fn counts(mask: u64) -> uint8x8_t {
    vcnt_u8(vcreate_u8(mask))
}

/// Byte `i` is how many bits the bytes up to and including the i-th have, times `size`, all of which fits a byte.
#[target_feature(enable = "neon")]
#[inline]
fn ends(mask: u64, size: u64) -> u64 {
    // All bytes of the product are sums of bytes of the counts.
    vget_lane_u64::<0>(vreinterpret_u64_u8(counts(mask))).wrapping_mul(size * 0x0101_0101_0101_0101)
}

/// Where byte `i` starts, if these are the ends.
#[target_feature(enable = "neon")]
#[inline]
fn start(ends: u64, i: usize) -> usize {
    if i == 0 { 0 } else { byte(ends, i - 1) }
}

/// The places of 16 columns.
#[target_feature(enable = "neon")]
#[inline]
fn places_of(mask: u64, i: usize) -> uint8x16_t {
    let (first, second) = (&PLACES.0.first[byte(mask, 2 * i)], &PLACES.0.second[byte(mask, 2 * i + 1)]);
    // SAFETY: both are 16 bytes.
    unsafe { vaddq_u8(vld1q_u8(first.as_ptr()), vld1q_u8(second.as_ptr())) }
}

/// The places of 8 columns.
#[target_feature(enable = "neon")]
#[inline]
fn half_places_of(mask: u64, i: usize) -> uint8x8_t {
    // SAFETY: they are 8 bytes.
    unsafe { vld1_u8(PLACES.0.half[byte(mask, i)].as_ptr()) }
}

/// Bytes to be spread over a chunk's columns, zeros where nothing is kept, `then` being done to each register of them.
///
/// `from[b]` is where the bytes of block `b` would begin if those of the block before it were there, too.
///
/// # Safety
/// The bytes for `mask`, and 16 more, are readable.
#[target_feature(enable = "neon")]
#[inline]
unsafe fn spread<const DOTPROD: bool>(
    mask: u64,
    ends: u64,
    from: [*const u8; 2],
    whole: impl Fn(usize, uint8x16_t) -> uint8x16_t,
    half: impl Fn(usize, uint8x8_t) -> uint8x8_t,
) -> Chunk {
    // SAFETY: the caller's promise: no more bytes come before a load than the mask has bits.
    unsafe {
        if DOTPROD {
            Chunk::Whole(std::array::from_fn(|i| {
                let kept = vld1q_u8(from[i / 2].wrapping_add(start(ends, 2 * i)));
                vreinterpretq_s8_u8(whole(i / 2, vqtbl1q_u8(kept, places_of(mask, i))))
            }))
        } else {
            Chunk::Halves(std::array::from_fn(|i| {
                let kept = vld1q_u8(from[i / 4].wrapping_add(start(ends, i)));
                vreinterpret_s8_u8(half(i / 4, vqtbl1_u8(kept, half_places_of(mask, i))))
            }))
        }
    }
}

/// The same of 16 kept bytes a block, which are in a register.
#[target_feature(enable = "neon")]
#[inline]
fn spread_16_of_32<const DOTPROD: bool>(mask: u64, kept: [uint8x16_t; 2]) -> Chunk {
    let counts = counts(mask);
    if DOTPROD {
        let pairs = vpadd_u8(counts, counts);
        let before = [None, Some(vdupq_lane_u8::<0>(pairs)), None, Some(vdupq_lane_u8::<2>(pairs))];
        Chunk::Whole(std::array::from_fn(|i| {
            let places = places_of(mask, i);
            let places = before[i].map_or(places, |before| vaddq_u8(places, before));
            vreinterpretq_s8_u8(vqtbl1q_u8(kept[i / 2], places))
        }))
    } else {
        // Bits up to each byte, of each block.
        let ends = vmul_u32(vreinterpret_u32_u8(counts), vdup_n_u32(0x0101_0101));
        let ends = vreinterpret_u8_u32(ends);
        let before = [
            None,
            Some(vdup_lane_u8::<0>(ends)),
            Some(vdup_lane_u8::<1>(ends)),
            Some(vdup_lane_u8::<2>(ends)),
            None,
            Some(vdup_lane_u8::<4>(ends)),
            Some(vdup_lane_u8::<5>(ends)),
            Some(vdup_lane_u8::<6>(ends)),
        ];
        Chunk::Halves(std::array::from_fn(|i| {
            let places = half_places_of(mask, i);
            let places = before[i].map_or(places, |before| vadd_u8(places, before));
            vreinterpret_s8_u8(vqtbl1_u8(kept[i / 4], places))
        }))
    }
}

/// The levels of sparse q4.
#[target_feature(enable = "neon")]
#[inline]
fn level_table() -> uint8x16_t {
    // SAFETY: there are 16 levels.
    unsafe { vreinterpretq_u8_s8(vld1q_s8(SPARSE_Q4_LEVELS.as_ptr())) }
}

#[target_feature(enable = "neon")]
#[inline]
fn low_nibbles(bytes: uint8x16_t) -> uint8x16_t {
    vandq_u8(bytes, vdupq_n_u8(15))
}

#[target_feature(enable = "neon")]
#[inline]
fn high_nibbles(bytes: uint8x16_t) -> uint8x16_t {
    vshrq_n_u8::<4>(bytes)
}

#[target_feature(enable = "neon")]
#[inline]
fn low_levels(bytes: uint8x16_t) -> uint8x16_t {
    vqtbl1q_u8(level_table(), low_nibbles(bytes))
}

#[target_feature(enable = "neon")]
#[inline]
fn high_levels(bytes: uint8x16_t) -> uint8x16_t {
    vqtbl1q_u8(level_table(), high_nibbles(bytes))
}

#[target_feature(enable = "neon")]
#[inline]
fn low_half_levels(bytes: uint8x8_t) -> uint8x8_t {
    vqtbl1_u8(level_table(), vand_u8(bytes, vdup_n_u8(15)))
}

#[target_feature(enable = "neon")]
#[inline]
fn high_half_levels(bytes: uint8x8_t) -> uint8x8_t {
    vqtbl1_u8(level_table(), vshr_n_u8::<4>(bytes))
}

/// Where the codes of a 2:4 chunk belong among the 16 columns of their quarter; the quarters' numbers are added times 16
/// where `second` says so.
#[target_feature(enable = "neon")]
#[inline]
fn places_2_of_4(places: u64, second: u8) -> [uint8x16_t; 2] {
    let by: [i32; 4] = [0, -2, -4, -6];
    let groups = [0, 0, 4, 4, 8, 8, 12, 12].map(|group| [group, group + second]);
    let groups: [u8; 16] = std::array::from_fn(|i| groups[i % 8][i / 8]);
    // SAFETY: the arrays are as long as the registers.
    let (by, groups) = unsafe { (vld1q_s32(by.as_ptr()), vld1q_u8(groups.as_ptr())) };
    [places as u32, (places >> 32) as u32].map(|places| {
        let fields = vreinterpretq_u8_u32(vshlq_u32(vdupq_n_u32(places), by));
        vbslq_u8(vdupq_n_u8(3), fields, groups)
    })
}

/// 2:4 codes in their columns.
#[target_feature(enable = "neon")]
#[inline]
fn spread_2_of_4(places: u64, codes: [uint8x16_t; 2]) -> Chunk {
    let places = places_2_of_4(places, 0);
    let columns: [u8; 16] = std::array::from_fn(|i| i as u8);
    // SAFETY: 16 bytes.
    let columns = unsafe { vld1q_u8(columns.as_ptr()) };
    // For each column the even or the odd code of its group of four, if it is that code's place.
    let spread = |register: usize, first: usize, odd: usize| {
        let of: [u8; 16] = std::array::from_fn(|i| (first + i / 4 * 2 + odd) as u8);
        // SAFETY: 16 bytes.
        let of = unsafe { vld1q_u8(of.as_ptr()) };
        let is_here = vceqq_u8(vqtbl1q_u8(places[register], of), columns);
        vandq_u8(is_here, vqtbl1q_u8(codes[register], of))
    };
    let quarter =
        |register, first| vreinterpretq_s8_u8(vorrq_u8(spread(register, first, 0), spread(register, first, 1)));
    // Columns from 0, 16, 32 and 48 on.
    Chunk::Whole([quarter(0, 0), quarter(1, 0), quarter(0, 8), quarter(1, 8)])
}

/// 2:4 codes times the activations at their places.
///
/// # Safety
/// With `DOTPROD` the CPU has it; 64 codes at every `x`.
#[target_feature(enable = "neon")]
#[inline]
unsafe fn gather<const DOTPROD: bool, const N: usize>(places: u64, w: Gathered, x: [*const i8; N]) -> [int32x4_t; N] {
    let mut dots = [vdupq_n_s32(0); N];
    match w {
        Gathered::Whole(w) => {
            let places = places_2_of_4(places, 16);
            for t in 0..N {
                // SAFETY: the caller's promise.
                unsafe {
                    let at = |column: usize| vld1q_u8(x[t].cast::<u8>().add(column));
                    // 8 activations of the first block, then 8 of the second.
                    let first = vqtbl2q_u8(uint8x16x2_t(at(0), at(32)), places[0]);
                    let second = vqtbl2q_u8(uint8x16x2_t(at(16), at(48)), places[1]);
                    dots[t] = sdot(dots[t], w[0], vreinterpretq_s8_u8(first));
                    dots[t] = sdot(dots[t], w[1], vreinterpretq_s8_u8(second));
                }
            }
        }
        Gathered::Halves(w) => {
            let places = half_places_2_of_4(places);
            for t in 0..N {
                // The quarters' codes lie in the order of columns 0, 32, 16, 48.
                let pick = |i: usize, column: usize| {
                    // SAFETY: the caller's promise.
                    let x = unsafe { vld1q_u8(x[t].cast::<u8>().add(column)) };
                    vreinterpret_s8_u8(vqtbl1_u8(x, places[i]))
                };
                // Two products of at most 2^14 - 128 fit 16 bits.
                let first = vmlal_s8(vmull_s8(w[0], pick(0, 0)), w[2], pick(2, 16));
                let second = vmlal_s8(vmull_s8(w[1], pick(1, 32)), w[3], pick(3, 48));
                dots[t] = vpaddq_s32(vpaddlq_s16(first), vpaddlq_s16(second));
            }
        }
    }
    dots
}

/// The places of 8 codes each.
#[target_feature(enable = "neon")]
#[inline]
fn half_places_2_of_4(places: u64) -> [uint8x8_t; 4] {
    let (near, far): ([i32; 2], [i32; 2]) = ([0, -2], [-4, -6]);
    let groups = [0u8, 0, 4, 4, 8, 8, 12, 12];
    // SAFETY: the arrays are as long as the registers.
    let (near, far, groups) = unsafe { (vld1_s32(near.as_ptr()), vld1_s32(far.as_ptr()), vld1_u8(groups.as_ptr())) };
    std::array::from_fn(|i| {
        let word = vdup_n_u32((places >> (i / 2 * 32)) as u32);
        let fields = vreinterpret_u8_u32(vshl_u32(word, if i % 2 == 0 { near } else { far }));
        vbsl_u8(vdup_n_u8(3), fields, groups)
    })
}

/// 32 codes of a 2:4 chunk as they are stored, 16 or 8 a register.
#[derive(Clone, Copy)]
enum Gathered {
    Whole([int8x16_t; 2]),
    Halves([int8x8_t; 4]),
}

/// The products of a block, whose codes are in two whole registers, in pairs.
#[target_feature(enable = "neon")]
#[inline]
fn dot_block(w: [int8x16_t; 2], x: [int8x16_t; 2]) -> int32x4_t {
    // Two products of at most 2^14 - 128 fit 16 bits.
    let sixteen = |w, x| vmlal_high_s8(vmull_s8(vget_low_s8(w), vget_low_s8(x)), w, x);
    vpadalq_s16(vpaddlq_s16(sixteen(w[0], x[0])), sixteen(w[1], x[1]))
}

/// The same from four half registers.
#[target_feature(enable = "neon")]
#[inline]
fn dot_halves(w: [int8x8_t; 4], x: [int8x8_t; 4]) -> int32x4_t {
    let sixteen = |i: usize| vmlal_s8(vmull_s8(w[i], x[i]), w[i + 1], x[i + 1]);
    vpadalq_s16(vpaddlq_s16(sixteen(0)), sixteen(2))
}

impl<const DOTPROD: bool> Isa for Neon<DOTPROD> {
    const FEW: usize = if DOTPROD { 4 } else { FEW };
    type Chunk = Chunk;
    /// Two sums of the first block, two of the second.
    type Dots = int32x4_t;
    type Lanes = [float32x4_t; 2];

    #[inline(always)]
    unsafe fn q8(codes: *const u8) -> Chunk {
        // SAFETY: the caller's promise.
        unsafe { Chunk::Whole(std::array::from_fn(|i| vld1q_s8(codes.cast::<i8>().add(16 * i)))) }
    }

    #[inline(always)]
    unsafe fn q4(nibbles: *const u8) -> Chunk {
        // SAFETY: the caller's promise.
        unsafe {
            let n = [vld1q_u8(nibbles), vld1q_u8(nibbles.add(16))];
            let codes = [low_nibbles(n[0]), low_nibbles(n[1]), high_nibbles(n[0]), high_nibbles(n[1])];
            Chunk::Whole(codes.map(|codes| vsubq_s8(vreinterpretq_s8_u8(codes), vdupq_n_s8(8))))
        }
    }

    #[inline(always)]
    unsafe fn q5(bits: u64, nibbles: *const u8) -> Chunk {
        // SAFETY: the caller's promise.
        unsafe {
            let n = [vld1q_u8(nibbles), vld1q_u8(nibbles.add(16))];
            // A nibble without the fifth bit is 16 less: its high half all ones.
            let missing = vreinterpretq_u8_u64(vdupq_n_u64(!bits));
            let bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040_2010_0804_0201));
            let below = |i: u8| {
                let of: [u8; 16] = std::array::from_fn(|j| 2 * i + j as u8 / 8);
                vtstq_u8(vqtbl1q_u8(missing, vld1q_u8(of.as_ptr())), bit)
            };
            let low = |nibbles, below| vreinterpretq_s8_u8(vbslq_u8(vdupq_n_u8(15), nibbles, below));
            let high = |nibbles, below| vreinterpretq_s8_u8(vsriq_n_u8::<4>(below, nibbles));
            Chunk::Whole([low(n[0], below(0)), low(n[1], below(1)), high(n[0], below(2)), high(n[1], below(3))])
        }
    }

    #[inline(always)]
    unsafe fn sparse_q8(mask: u64, values: &mut *const u8) -> Chunk {
        // SAFETY: the caller's promise.
        unsafe {
            let (from, ends) = (*values, ends(mask, 1));
            *values = from.add(byte(ends, 7));
            spread::<DOTPROD>(mask, ends, [from; 2], |_, v| v, |_, v| v)
        }
    }

    #[inline(always)]
    unsafe fn sparse_q4<const HIGH: bool>(mask: u64, values: &mut *const u8) -> Chunk {
        // SAFETY: the caller's promise. What is not kept is code 0, which is level 0.
        unsafe {
            let (from, ends) = (*values, ends(mask, 1));
            *values = from.add(byte(ends, 7));
            if HIGH {
                spread::<DOTPROD>(mask, ends, [from; 2], |_, v| high_levels(v), |_, v| high_half_levels(v))
            } else {
                spread::<DOTPROD>(mask, ends, [from; 2], |_, v| low_levels(v), |_, v| low_half_levels(v))
            }
        }
    }

    #[inline(always)]
    unsafe fn sparse_q4_shared(mask: u64, low: *const u8, high: *const u8) -> Chunk {
        // SAFETY: the caller's promise.
        unsafe {
            let ends = ends(mask, 1);
            spread::<DOTPROD>(
                mask,
                ends,
                [low, high.wrapping_sub(byte(ends, 3))],
                |b, v| if b == 0 { low_levels(v) } else { high_levels(v) },
                |b, v| if b == 0 { low_half_levels(v) } else { high_half_levels(v) },
            )
        }
    }

    #[inline(always)]
    unsafe fn q8_keep_16_of_32(mask: u64, values: *const u8) -> Chunk {
        // SAFETY: the caller's promise.
        unsafe { spread_16_of_32::<DOTPROD>(mask, [vld1q_u8(values), vld1q_u8(values.add(16))]) }
    }

    #[inline(always)]
    unsafe fn q4_keep_16_of_32(mask: u64, values: *const u8) -> Chunk {
        // SAFETY: the caller's promise.
        unsafe {
            let kept = vld1q_u8(values);
            spread_16_of_32::<DOTPROD>(mask, [low_levels(kept), high_levels(kept)])
        }
    }

    #[inline(always)]
    unsafe fn q8_keep_2_of_4(places: u64, values: *const u8) -> Chunk {
        // SAFETY: the caller's promise.
        unsafe { spread_2_of_4(places, [vld1q_u8(values), vld1q_u8(values.add(16))]) }
    }

    #[inline(always)]
    unsafe fn q4_keep_2_of_4(places: u64, values: *const u8) -> Chunk {
        // SAFETY: the caller's promise.
        unsafe {
            let codes = vld1q_u8(values);
            spread_2_of_4(places, [low_levels(codes), high_levels(codes)])
        }
    }

    #[inline(always)]
    unsafe fn store(chunk: Chunk, codes: *mut i8) {
        // SAFETY: the caller's promise.
        unsafe {
            match chunk {
                Chunk::Whole(chunk) => (0..4).for_each(|i| vst1q_s8(codes.add(16 * i), chunk[i])),
                Chunk::Halves(chunk) => (0..8).for_each(|i| vst1_s8(codes.add(8 * i), chunk[i])),
            }
        }
    }

    #[inline(always)]
    unsafe fn multiply(chunk: Chunk, x: *const i8) -> int32x4_t {
        // SAFETY: the caller's promise.
        unsafe {
            match chunk {
                Chunk::Whole(w) => {
                    let x: [int8x16_t; 4] = std::array::from_fn(|i| vld1q_s8(x.add(16 * i)));
                    if DOTPROD {
                        let first = sdot(sdot(vdupq_n_s32(0), w[0], x[0]), w[1], x[1]);
                        let second = sdot(sdot(vdupq_n_s32(0), w[2], x[2]), w[3], x[3]);
                        vpaddq_s32(first, second)
                    } else {
                        vpaddq_s32(dot_block([w[0], w[1]], [x[0], x[1]]), dot_block([w[2], w[3]], [x[2], x[3]]))
                    }
                }
                Chunk::Halves([a, b, c, d, e, f, g, h]) => {
                    let block = |x: *const i8| std::array::from_fn(|i| vld1_s8(x.add(8 * i)));
                    vpaddq_s32(dot_halves([a, b, c, d], block(x)), dot_halves([e, f, g, h], block(x.add(BLOCK))))
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn gather_q8<const N: usize>(places: u64, values: *const u8, x: [*const i8; N]) -> [int32x4_t; N] {
        // SAFETY: the caller's promise.
        unsafe {
            let values = values.cast::<i8>();
            let w = match DOTPROD {
                true => Gathered::Whole(std::array::from_fn(|i| vld1q_s8(values.add(16 * i)))),
                false => Gathered::Halves(std::array::from_fn(|i| vld1_s8(values.add(8 * i)))),
            };
            gather::<DOTPROD, N>(places, w, x)
        }
    }

    #[inline(always)]
    unsafe fn gather_q4<const N: usize>(places: u64, values: *const u8, x: [*const i8; N]) -> [int32x4_t; N] {
        // SAFETY: the caller's promise.
        unsafe {
            let w = if DOTPROD {
                let codes = vld1q_u8(values);
                Gathered::Whole([low_levels(codes), high_levels(codes)].map(|w| vreinterpretq_s8_u8(w)))
            } else {
                let (a, b) = (vld1_u8(values), vld1_u8(values.add(8)));
                let w = [low_half_levels(a), low_half_levels(b), high_half_levels(a), high_half_levels(b)];
                Gathered::Halves(w.map(|w| vreinterpret_s8_u8(w)))
            };
            gather::<DOTPROD, N>(places, w, x)
        }
    }

    #[inline(always)]
    unsafe fn no_dots() -> int32x4_t {
        // SAFETY: the caller's promise.
        unsafe { vdupq_n_s32(0) }
    }

    #[inline(always)]
    unsafe fn no_lanes() -> [float32x4_t; 2] {
        // SAFETY: the caller's promise.
        unsafe { [vdupq_n_f32(0.0); 2] }
    }

    #[inline(always)]
    unsafe fn half_scales(stored: *const u8) -> [float32x4_t; 2] {
        // SAFETY: the caller's promise.
        unsafe { singles(vld1q_u8(stored)) }
    }

    #[inline(always)]
    unsafe fn byte_scales(stored: *const u8, factor: f32) -> [float32x4_t; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            let codes = vmovl_s8(vld1_s8(stored.cast()));
            let codes = [vmovl_s16(vget_low_s16(codes)), vmovl_high_s16(codes)];
            codes.map(|codes| vmulq_n_f32(vcvtq_f32_s32(codes), factor))
        }
    }

    #[inline(always)]
    unsafe fn add_group(
        acc: [float32x4_t; 2],
        dots: &[int32x4_t; GROUP],
        _gathered: bool,
        w_scales: [float32x4_t; 2],
        x_scales: *const f32,
        _x_sums: *const i32,
    ) -> [float32x4_t; 2] {
        // SAFETY: the caller's promise.
        std::array::from_fn(|i| unsafe {
            let dots = vcvtq_f32_s32(vpaddq_s32(dots[2 * i], dots[2 * i + 1]));
            let scales = vmulq_f32(w_scales[i], vld1q_f32(x_scales.add(4 * i)));
            vaddq_f32(acc[i], vmulq_f32(dots, scales))
        })
    }

    #[inline(always)]
    unsafe fn sum(lanes: [float32x4_t; 2]) -> f32 {
        // SAFETY: the caller's promise.
        unsafe { sum8(lanes) }
    }

    #[inline(always)]
    fn prefetch(at: *const u8) {
        // SAFETY: a hint, which any address may be given.
        unsafe { asm!("prfm pldl1keep, [{}]", in(reg) at, options(readonly, nostack, preserves_flags)) }
    }

    #[inline(always)]
    fn prefetch_lines(from: *const u8, lines: usize) {
        // One address for all: what an `asm!` is given is not folded into its operand.
        macro_rules! prefetch {
            ($($line:literal),*) => {
                // SAFETY: hints, which any address may be given.
                unsafe {
                    asm!($(concat!("prfm pldl1keep, [{0}, ", $line, " * 64]")),*, in(reg) from,
                        options(readonly, nostack, preserves_flags))
                }
            };
        }
        match lines {
            4 => prefetch!(0, 1, 2, 3),
            2 => prefetch!(0, 1),
            _ => (0..lines).for_each(|line| Self::prefetch(from.wrapping_add(64 * line))),
        }
    }

    #[inline(always)]
    unsafe fn dots_f32<const R: usize, const N: usize>(w: &[f32], x: &[f32], stride: usize) -> [[f32; N]; R] {
        assert!(w.len() >= R * stride && x.len() >= N * stride && stride.is_multiple_of(8));
        // SAFETY: `k + 8 <= stride`, and both slices have that many rows, asserted above.
        unsafe {
            let mut acc = [[[vdupq_n_f32(0.0); 2]; N]; R];
            for k in (0..stride).step_by(8) {
                for h in 0..2 {
                    let at = k + 4 * h;
                    let xs: [float32x4_t; N] = std::array::from_fn(|t| vld1q_f32(x.as_ptr().add(t * stride + at)));
                    for (r, acc) in acc.iter_mut().enumerate() {
                        let w = vld1q_f32(w.as_ptr().add(r * stride + at));
                        for (acc, x) in acc.iter_mut().zip(xs) {
                            acc[h] = vfmaq_f32(acc[h], w, x);
                        }
                    }
                }
            }
            acc.map(|row| row.map(|lanes| sum8(lanes)))
        }
    }

    #[inline(always)]
    unsafe fn load_f16(halves: &[u8], out: &mut [f32]) {
        assert!(halves.len() >= out.len() * 2);
        let whole = out.len() / 8 * 8;
        for i in (0..whole).step_by(8) {
            // SAFETY: `i + 8 <= out.len()`, two bytes each, asserted above.
            unsafe { store_singles(vld1q_u8(halves.as_ptr().add(2 * i)), out.as_mut_ptr().add(i)) };
        }
        for i in whole..out.len() {
            out[i] = f16::from_le_bytes([halves[2 * i], halves[2 * i + 1]]).to_f32();
        }
    }

    #[inline(always)]
    unsafe fn expand_f16(mask: &[u8], halves: *const u8, out: &mut [f32]) {
        assert!(mask.len().is_multiple_of(8) && out.len() >= mask.len() * 8);
        let (mut halves, mut out) = (halves, out.as_mut_ptr());
        for bits in mask.as_chunks::<8>().0 {
            let bits = u64::from_le_bytes(*bits);
            // SAFETY: `halves` moves on by two bytes a bit, so that it stays inside what the caller lets be read; `out`
            // writes 64 values for eight mask bytes, asserted.
            unsafe {
                let ends = ends(bits, 2);
                Self::prefetch(halves.wrapping_add(2048));
                for i in 0..8 {
                    let pairs = vld1q_u8(PLACES.0.pairs[byte(bits, i)].as_ptr());
                    let kept = vqtbl1q_u8(vld1q_u8(halves.add(start(ends, i))), pairs);
                    store_singles(kept, out.add(8 * i));
                }
                halves = halves.add(byte(ends, 7));
                out = out.add(64);
            }
        }
    }
}

/// Eight halves as singles. (By hand: the intrinsics are newer than the oldest compiler this is made for.)
#[target_feature(enable = "neon")]
#[inline]
fn singles(halves: uint8x16_t) -> [float32x4_t; 2] {
    let (low, high): (float32x4_t, float32x4_t);
    // SAFETY: reads and writes registers only; conversion from halves is baseline on this architecture.
    unsafe {
        asm!("fcvtl {0:v}.4s, {1:v}.4h", lateout(vreg) low, in(vreg) halves,
            options(pure, nomem, nostack, preserves_flags));
        asm!("fcvtl2 {0:v}.4s, {1:v}.8h", lateout(vreg) high, in(vreg) halves,
            options(pure, nomem, nostack, preserves_flags));
    }
    [low, high]
}

/// # Safety
/// Eight singles may be written at `out`.
#[target_feature(enable = "neon")]
#[inline]
unsafe fn store_singles(halves: uint8x16_t, out: *mut f32) {
    let [low, high] = singles(halves);
    // SAFETY: the caller's promise.
    unsafe {
        vst1q_f32(out, low);
        vst1q_f32(out.add(4), high);
    }
}

/// As `sum_lanes`.
#[target_feature(enable = "neon")]
#[inline]
fn sum8([low, high]: [float32x4_t; 2]) -> f32 {
    let four = vaddq_f32(low, high);
    vpadds_f32(vadd_f32(vget_low_f32(four), vget_high_f32(four)))
}

fn quantize(x: &[f32], codes: &mut [i8], scales: &mut [f32], sums: &mut [i32]) {
    let blocks = x.chunks_exact(BLOCK).zip(codes.chunks_exact_mut(BLOCK));
    for ((x, codes), (scale, sum)) in blocks.zip(scales.iter_mut().zip(sums)) {
        // SAFETY: a block is 32 floats in and 32 bytes out.
        unsafe {
            let v: [float32x4_t; 8] = std::array::from_fn(|i| vld1q_f32(x.as_ptr().add(4 * i)));
            let max = v.into_iter().fold(vdupq_n_f32(0.0), |max, v| vmaxnmq_f32(max, vabsq_f32(v)));
            let max = vmaxnmvq_f32(max);
            *scale = max / 127.0;
            let inverse = if max > 0.0 { 127.0 / max } else { 0.0 };
            let q = v.map(|v| vcvtnq_s32_f32(vmulq_n_f32(v, inverse)));
            let half = |i: usize| vqmovn_high_s32(vqmovn_s32(q[i]), q[i + 1]);
            let codes16 = [half(0), half(2), half(4), half(6)];
            let low = vqmovn_high_s16(vqmovn_s16(codes16[0]), codes16[1]);
            let high = vqmovn_high_s16(vqmovn_s16(codes16[2]), codes16[3]);
            *sum = vaddlvq_s16(vpadalq_s8(vpaddlq_s8(low), high)).into();
            vst1q_s8(codes.as_mut_ptr(), low);
            vst1q_s8(codes.as_mut_ptr().add(16), high);
        }
    }
}

fn store_f16(x: &[f32], out: &mut [f16]) {
    let whole = x.len() / 4 * 4;
    for i in (0..whole).step_by(4) {
        // SAFETY: `i + 4` is within both, equally long by Kernels::store_f16; registers otherwise. The rounding mode is
        // to nearest even, which Rust never changes.
        unsafe {
            let halves: uint16x4_t;
            asm!("fcvtn {0:v}.4h, {1:v}.4s", lateout(vreg) halves, in(vreg) vld1q_f32(x.as_ptr().add(i)),
                options(pure, nomem, nostack, preserves_flags));
            vst1_u16(out.as_mut_ptr().add(i).cast(), halves);
        }
    }
    out[whole..].iter_mut().zip(&x[whole..]).for_each(|(o, x)| *o = f16::from_f32(*x));
}
