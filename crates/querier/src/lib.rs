//! Executes query tasks over blocks.
