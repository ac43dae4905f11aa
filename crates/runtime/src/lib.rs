//! What every process of Skald stands on: clock, tasks, budgets of memory, telemetry, TLS, and the HTTP and gRPC server
//! shells.
//!
//! Services get these handed in; nothing here holds global state but the tracing subscriber, the panic hook, and whether a thread
//! is deterministic.
//! This crate knows no route, no service and no setting of theirs: it runs what it is given.

pub mod clock;
pub mod deterministic;
pub mod grpc;
pub mod http;
mod instruments;
pub mod memory;
pub mod metrics;
pub mod reload;
pub mod tasks;
pub mod telemetry;
pub mod tls;
pub mod units;

pub use clock::{Clock, SystemClock};
pub use deterministic::{Deterministic, blocking, random};
pub use instruments::Instruments;
pub use tasks::Tasks;
pub use tokio_util::sync::CancellationToken;
