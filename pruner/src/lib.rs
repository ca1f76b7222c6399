//! x
use runtime::A;
/// y
pub const B: u32 = A;
