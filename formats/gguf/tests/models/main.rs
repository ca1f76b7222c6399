//! Whole models: written and read again, split, damaged, and beside other readers.

mod damaged;
mod dequant;
mod families;
mod gguf_rs;
mod imatrix;
mod read_back;
mod real_files;
mod split;
mod stream;
mod tiny;
mod vocabulary;
