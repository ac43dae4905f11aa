//! The write-ahead log, segments in memory, and their flush to blocks.
