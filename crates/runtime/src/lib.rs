//! Clock, tasks, telemetry and the HTTP and gRPC server shells.
