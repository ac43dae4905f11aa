//! Who the services are: the members of the cluster as their callers see them, and the choice among them.
//!
//! [`membership`] gossips who is there, [`assembly`] turns that into a [`View`] with clients, and a [`Topology`] holds the
//! one current view, swapped whole when it changes. In one process it is made once from the services themselves. This
//! crate owns no data, starts no service, and calls none: it only hands out who to call.

mod addresses;
pub mod assembly;
pub mod config;
pub mod membership;
mod metrics;
pub mod node;
pub mod topology;
mod watcher;

pub use config::{LifecyclerConfig, MemberlistConfig};
pub use membership::Membership;
pub use node::{Node, Role, State};
pub use topology::{Absent, Topology, View};
pub use watcher::Sighting;
