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
use spm::{BLOCK, CHUNK, Matrix};

use super::chunks::bits_of;
use super::codes::Codes;
use super::kernel::{self, GROUP, Isa, LANES, Scratch, ahead};
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
    tiled_from: usize::MAX,
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

impl Chunk {
    #[target_feature(enable = "neon")]
    #[inline]
    fn whole(self) -> [int8x16_t; 4] {
        match self {
            Chunk::Whole(whole) => whole,
            Chunk::Halves([a, b, c, d, e, f, g, h]) => {
                [vcombine_s8(a, b), vcombine_s8(c, d), vcombine_s8(e, f), vcombine_s8(g, h)]
            }
        }
    }
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

/// The same address, of which the compiler does not know how to make it anew: it would, for every use in a loop.
#[allow(clippy::pointers_in_nomem_asm_block, reason = "nothing is read through it there")]
#[inline(always)]
fn kept_in_register<T>(table: &'static T) -> *const T {
    let mut address: *const T = table;
    // SAFETY: no instruction at all.
    unsafe { asm!("/* {0} */", inout(reg) address, options(pure, nomem, nostack, preserves_flags)) };
    address
}

/// The places of 16 columns.
#[target_feature(enable = "neon")]
#[inline]
fn places_of(mask: u64, i: usize) -> uint8x16_t {
    let (first, second) = (kept_in_register(&PLACES.0.first), kept_in_register(&PLACES.0.second));
    // SAFETY: tables have a row of 16 bytes for every byte.
    unsafe {
        let first = vld1q_u8(first.cast::<[u8; 16]>().add(byte(mask, 2 * i)).cast());
        vaddq_u8(first, vld1q_u8(second.cast::<[u8; 16]>().add(byte(mask, 2 * i + 1)).cast()))
    }
}

/// The places of 8 columns.
#[target_feature(enable = "neon")]
#[inline]
fn half_places_of(mask: u64, i: usize) -> uint8x8_t {
    let table = kept_in_register(&PLACES.0.half);
    // SAFETY: the table has a row of 8 bytes for every byte.
    unsafe { vld1_u8(table.cast::<[u8; 8]>().add(byte(mask, i)).cast()) }
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
                let kept = vcombine_u8(vld1_u8(from[i / 4].wrapping_add(start(ends, i))), vdup_n_u8(0));
                vreinterpret_s8_u8(half(i / 4, vqtbl1_u8(kept, half_places_of(mask, i))))
            }))
        }
    }
}

/// The levels of sparse q4.
#[target_feature(enable = "neon")]
#[inline]
fn level_table() -> uint8x16_t {
    static LEVELS: [i8; 16] = SPARSE_Q4_LEVELS;
    // SAFETY: there are 16 levels.
    unsafe { vreinterpretq_u8_s8(vld1q_s8(LEVELS.as_ptr())) }
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

/// The places of a 2:4 chunk's codes in their groups of four, added to what `groups` says of every code of 16.
#[target_feature(enable = "neon")]
#[inline]
fn places_2_of_4(places: u64, groups: [u8; 16]) -> [uint8x16_t; 2] {
    let by: [i32; 4] = [0, -2, -4, -6];
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
    let places = places_2_of_4(places, [0; 16]);
    let columns: [u8; 16] = std::array::from_fn(|i| i as u8 % 4);
    // SAFETY: 16 bytes.
    let columns = unsafe { vld1q_u8(columns.as_ptr()) };
    // For each of 16 columns the code of its group of four that `nth` says, if it is that code's place.
    let spread = |register: usize, nth: u8| {
        let of: [u8; 16] = std::array::from_fn(|i| i as u8 / 4 * 4 + nth);
        // SAFETY: 16 bytes.
        let of = unsafe { vld1q_u8(of.as_ptr()) };
        let is_here = vceqq_u8(vqtbl1q_u8(places[register], of), columns);
        vandq_u8(is_here, vqtbl1q_u8(codes[register], of))
    };
    let both = |register, nth| vreinterpretq_s8_u8(vorrq_u8(spread(register, nth), spread(register, nth + 1)));
    Chunk::Whole([both(0, 0), both(1, 0), both(0, 2), both(1, 2)])
}

/// Adds 2:4 codes times the activations at their places.
///
/// # Safety
/// With `DOTPROD` the CPU has it; 64 codes at every `x`.
#[target_feature(enable = "neon")]
#[inline]
unsafe fn gather<const DOTPROD: bool, const N: usize>(
    mut acc: [[int32x4_t; 4]; N],
    places: u64,
    w: [int8x16_t; 2],
    x: [*const i8; N],
) -> [[int32x4_t; 4]; N] {
    // Of four codes two are among 16 columns of the chunk's first half, two among as many of its second.
    let places = places_2_of_4(places, std::array::from_fn(|i| (i / 4 * 4 + i % 4 / 2 * 16) as u8));
    for t in 0..N {
        // SAFETY: the caller's promise.
        unsafe {
            let at = |column: usize| vld1q_u8(x[t].cast::<u8>().add(column));
            let first = vreinterpretq_s8_u8(vqtbl2q_u8(uint8x16x2_t(at(0), at(32)), places[0]));
            let second = vreinterpretq_s8_u8(vqtbl2q_u8(uint8x16x2_t(at(16), at(48)), places[1]));
            let [a, b, c, d] = acc[t];
            acc[t] = if DOTPROD {
                [sdot(a, w[0], first), sdot(b, w[1], second), c, d]
            } else {
                [
                    vpadalq_s16(a, vmull_s8(vget_low_s8(w[0]), vget_low_s8(first))),
                    vpadalq_s16(b, vmull_high_s8(w[0], first)),
                    vpadalq_s16(c, vmull_s8(vget_low_s8(w[1]), vget_low_s8(second))),
                    vpadalq_s16(d, vmull_high_s8(w[1], second)),
                ]
            };
        }
    }
    acc
}

/// Products of the low half of two registers each, added.
#[target_feature(enable = "neon")]
#[inline]
fn low_products(w: [int8x16_t; 2], x: [int8x16_t; 2]) -> int16x8_t {
    let first = vmull_s8(vget_low_s8(w[0]), vget_low_s8(x[0]));
    vmlal_s8(first, vget_low_s8(w[1]), vget_low_s8(x[1]))
}

/// The same of the high half.
#[target_feature(enable = "neon")]
#[inline]
fn high_products(w: [int8x16_t; 2], x: [int8x16_t; 2]) -> int16x8_t {
    vmlal_high_s8(vmull_high_s8(w[0], x[0]), w[1], x[1])
}

/// The products of a block that lies by itself, four partial sums.
#[target_feature(enable = "neon")]
#[inline]
fn dot_block(w: [int8x16_t; 2], x: [int8x16_t; 2]) -> int32x4_t {
    vpadalq_s16(vpaddlq_s16(low_products(w, x)), high_products(w, x))
}

/// `lanes + sum * (w_scale * x_scale)`, not fused.
///
/// # Safety
/// Eight scales at `x_scales`.
#[target_feature(enable = "neon")]
#[inline]
unsafe fn add_scaled(
    lanes: [float32x4_t; 2],
    sums: [int32x4_t; 2],
    w_scales: [float32x4_t; 2],
    x_scales: *const f32,
) -> [float32x4_t; 2] {
    // SAFETY: the caller's promise.
    let x_scales = unsafe { [vld1q_f32(x_scales), vld1q_f32(x_scales.add(4))] };
    let add = |i: usize| {
        let scale = vmulq_f32(w_scales[i], x_scales[i]);
        vaddq_f32(lanes[i], vmulq_f32(vcvtq_f32_s32(sums[i]), scale))
    };
    [add(0), add(1)]
}

impl<const DOTPROD: bool> Isa for Neon<DOTPROD> {
    const FEW: usize = if DOTPROD { 4 } else { FEW };
    type Chunk = Chunk;
    /// With `DOTPROD` one sum a block in the first two registers, else two a block in all four.
    type Acc = [int32x4_t; 4];
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
            let chunk = chunk.whole();
            for (i, part) in chunk.into_iter().enumerate() {
                vst1q_s8(codes.add(16 * i), part);
            }
        }
    }

    #[inline(always)]
    unsafe fn start(_lifts: *const i32, _gathers: bool) -> [int32x4_t; 4] {
        // SAFETY: the caller's promise.
        unsafe { [vdupq_n_s32(0); 4] }
    }

    #[inline(always)]
    unsafe fn multiply_add(acc: [int32x4_t; 4], chunk: Chunk, x: *const i8) -> [int32x4_t; 4] {
        // SAFETY: the caller's promise. Two products of at most 2^14 - 128 fit 16 bits.
        unsafe {
            let [a, b, c, d] = acc;
            match chunk {
                Chunk::Whole(w) => {
                    let x = [vld1q_s8(x), vld1q_s8(x.add(16)), vld1q_s8(x.add(32)), vld1q_s8(x.add(48))];
                    if DOTPROD {
                        [sdot(sdot(a, w[0], x[0]), w[2], x[2]), sdot(sdot(b, w[1], x[1]), w[3], x[3]), c, d]
                    } else {
                        [
                            vpadalq_s16(a, low_products([w[0], w[2]], [x[0], x[2]])),
                            vpadalq_s16(b, high_products([w[0], w[2]], [x[0], x[2]])),
                            vpadalq_s16(c, low_products([w[1], w[3]], [x[1], x[3]])),
                            vpadalq_s16(d, high_products([w[1], w[3]], [x[1], x[3]])),
                        ]
                    }
                }
                Chunk::Halves(w) => {
                    let products = |i: usize| {
                        let (near, far) = (vld1_s8(x.add(8 * i)), vld1_s8(x.add(8 * i + BLOCK)));
                        vmlal_s8(vmull_s8(w[i], near), w[i + 4], far)
                    };
                    [
                        vpadalq_s16(a, products(0)),
                        vpadalq_s16(b, products(1)),
                        vpadalq_s16(c, products(2)),
                        vpadalq_s16(d, products(3)),
                    ]
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn multiply(chunk: Chunk, x: *const i8) -> int32x4_t {
        // SAFETY: the caller's promise.
        unsafe {
            let w = chunk.whole();
            let x = [vld1q_s8(x), vld1q_s8(x.add(16)), vld1q_s8(x.add(32)), vld1q_s8(x.add(48))];
            let sums = if DOTPROD {
                let zero = vdupq_n_s32(0);
                [sdot(sdot(zero, w[0], x[0]), w[1], x[1]), sdot(sdot(zero, w[2], x[2]), w[3], x[3])]
            } else {
                [dot_block([w[0], w[1]], [x[0], x[1]]), dot_block([w[2], w[3]], [x[2], x[3]])]
            };
            vpaddq_s32(sums[0], sums[1])
        }
    }

    #[inline(always)]
    unsafe fn gather_q8<const N: usize>(
        mut acc: [[int32x4_t; 4]; N],
        places: *const u8,
        values: *const u8,
        x: [*const i8; N],
    ) -> [[int32x4_t; 4]; N] {
        // SAFETY: the caller's promise.
        unsafe {
            for c in 0..2 {
                let values = values.add(32 * c).cast();
                let w = [vld1q_s8(values), vld1q_s8(values.add(16))];
                acc = gather::<DOTPROD, N>(acc, bits_of(places, c), w, ahead(x, c * CHUNK));
            }
        }
        acc
    }

    #[inline(always)]
    unsafe fn gather_q4<const N: usize>(
        mut acc: [[int32x4_t; 4]; N],
        places: *const u8,
        values: *const u8,
        x: [*const i8; N],
    ) -> [[int32x4_t; 4]; N] {
        // SAFETY: the caller's promise.
        unsafe {
            for c in 0..2 {
                let codes = vld1q_u8(values.add(16 * c));
                let w = [vreinterpretq_s8_u8(low_levels(codes)), vreinterpretq_s8_u8(high_levels(codes))];
                acc = gather::<DOTPROD, N>(acc, bits_of(places, c), w, ahead(x, c * CHUNK));
            }
        }
        acc
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
    unsafe fn half_scales(stored: *const u8, n: usize) -> [float32x4_t; 2] {
        static THERE: [u16; 16] =
            [0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF, 0, 0, 0, 0, 0, 0, 0, 0];
        // SAFETY: the caller's promise; eight numbers of the table are loaded, from the first to the ninth on.
        unsafe {
            let there = vld1q_u8(THERE.as_ptr().add(8 - n.min(8)).cast());
            singles(vandq_u8(vld1q_u8(stored), there))
        }
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
        lanes: [float32x4_t; 2],
        acc: [int32x4_t; 4],
        w_scales: [float32x4_t; 2],
        x_scales: *const f32,
    ) -> [float32x4_t; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            let [a, b, c, d] = acc;
            let sums = if DOTPROD { [a, b] } else { [vpaddq_s32(a, b), vpaddq_s32(c, d)] };
            add_scaled(lanes, sums, w_scales, x_scales)
        }
    }

    #[inline(always)]
    unsafe fn add_last_group(
        lanes: [float32x4_t; 2],
        dots: &[int32x4_t; GROUP],
        w_scales: [float32x4_t; 2],
        x_scales: *const f32,
        _lifts: *const i32,
    ) -> [float32x4_t; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            let sums = [vpaddq_s32(dots[0], dots[1]), vpaddq_s32(dots[2], dots[3])];
            add_scaled(lanes, sums, w_scales, x_scales)
        }
    }

    #[inline(always)]
    unsafe fn store_lanes(lanes: [float32x4_t; 2], out: &mut [f32; LANES]) {
        // SAFETY: the caller's promise; there are eight.
        unsafe {
            vst1q_f32(out.as_mut_ptr(), lanes[0]);
            vst1q_f32(out.as_mut_ptr().add(4), lanes[1]);
        }
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

fn quantize(x: &[f32], codes: &mut [i8], scales: &mut [f32], lifts: &mut [i32]) {
    let blocks = x.chunks_exact(BLOCK).zip(codes.chunks_exact_mut(BLOCK));
    for ((x, codes), (scale, lift)) in blocks.zip(scales.iter_mut().zip(lifts)) {
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
            *lift = -128 * vaddlvq_s16(vpadalq_s8(vpaddlq_s8(low), high));
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
