//! The write-ahead log, segments in memory, and their flush to blocks.

pub mod memory;
pub mod metrics;
#[cfg(test)]
mod samples;
pub mod segment;
pub mod wal;
