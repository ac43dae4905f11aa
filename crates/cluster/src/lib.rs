//! Who the services are: the members of the cluster as their callers see them, and the choice among them.
//!
//! A [`Topology`] is the one current view of members, swapped whole when it changes. In one process it is made once
//! from the services themselves. This crate owns no data and starts no service.

pub mod topology;

pub use topology::{Absent, Topology, View};
