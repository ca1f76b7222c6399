//! Benches over the kernels, and in `records/` what they measured on which machine.
