//! Plans queries, cuts them into tasks and merges their results.
