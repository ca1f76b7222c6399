//! x

/// y
pub const B: u32 = 1;
