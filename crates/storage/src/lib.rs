//! The object store stack, blocks (Parquet), tables (Delta Lake) and their caches.
