//! A network of its own for each member, so that some can be cut off from others: namespaces of Linux, joined by a bridge.
//! Needs `ip` and the right to use it, which on most machines only root has.

use std::process::Command;

use anyhow::{Context, Result};

use crate::workspace;

/// Networks of `members` members, taken down when dropped.
pub(crate) struct Network {
    /// Short, because names of devices are.
    prefix: String,
    members: usize,
}

impl Network {
    /// Sets it up; `Err` where that is not possible.
    pub(crate) fn new(members: usize) -> Result<Self> {
        let network = Self { prefix: format!("sk{}", std::process::id() % 100_000), members };
        let bridge = network.bridge();
        ip(&["link", "add", &bridge, "type", "bridge"])
            .context("this machine does not let us make networks (it takes root and the program ip)")?;
        ip(&["address", "add", &format!("{}/24", network.gateway()), "dev", &bridge])?;
        ip(&["link", "set", &bridge, "up"])?;
        for member in 0..members {
            let (name, device) = (network.namespace(member), network.device(member));
            ip(&["netns", "add", &name])?;
            ip(&["link", "add", &device, "type", "veth", "peer", "name", "eth0", "netns", &name])?;
            ip(&["link", "set", &device, "master", &bridge, "up"])?;
            let address = format!("{}/24", network.address(member));
            ip(&["-n", &name, "address", "add", &address, "dev", "eth0"])?;
            ip(&["-n", &name, "link", "set", "lo", "up"])?;
            ip(&["-n", &name, "link", "set", "eth0", "up"])?;
        }
        Ok(network)
    }

    /// The address of a member.
    pub(crate) fn address(&self, member: usize) -> String {
        format!("{}.{}", subnet(), member + 10)
    }

    /// The program and its arguments that start another one in the network of a member.
    pub(crate) fn entrance(&self, member: usize) -> Vec<String> {
        ["ip", "netns", "exec"].map(String::from).into_iter().chain([self.namespace(member)]).collect()
    }

    /// Nothing that one of the two sends arrives at the other any more.
    pub(crate) fn cut(&self, one: usize, other: usize) -> Result<()> {
        self.routes("add", one, other)
    }

    /// Undoes [`Self::cut`].
    pub(crate) fn join(&self, one: usize, other: usize) -> Result<()> {
        self.routes("del", one, other)
    }

    fn routes(&self, what: &str, one: usize, other: usize) -> Result<()> {
        for (from, to) in [(one, other), (other, one)] {
            let to = format!("{}/32", self.address(to));
            ip(&["-n", &self.namespace(from), "route", what, "blackhole", &to])?;
        }
        Ok(())
    }

    fn gateway(&self) -> String {
        format!("{}.1", subnet())
    }

    fn bridge(&self) -> String {
        format!("{}b", self.prefix)
    }

    fn namespace(&self, member: usize) -> String {
        format!("{}n{member}", self.prefix)
    }

    fn device(&self, member: usize) -> String {
        format!("{}v{member}", self.prefix)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // Each of them fails only if it was never made.
        for member in 0..self.members {
            let _ = ip(&["netns", "delete", &self.namespace(member)]);
        }
        let _ = ip(&["link", "delete", &self.bridge()]);
    }
}

/// Apart for runs at the same time.
fn subnet() -> String {
    format!("10.213.{}", std::process::id() % 250)
}

fn ip(arguments: &[&str]) -> Result<()> {
    workspace::run(Command::new("ip").args(arguments))
}
