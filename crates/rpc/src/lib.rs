//! Service traits, their messages, and the in-process and gRPC adapters.
