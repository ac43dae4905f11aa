//! What every process of Skald stands on: clock, tasks, telemetry, and the HTTP and gRPC server shells.
//!
//! Services get these handed in; nothing here holds global state but the tracing subscriber.

pub mod clock;

pub use clock::{Clock, SystemClock};
