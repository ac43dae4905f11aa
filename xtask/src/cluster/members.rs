//! The processes of the cluster.

use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::Shared;
use super::disk::SmallDisk;
use super::network::Network;
use crate::seaweed::Seaweed;
use crate::server::{Client, Server, Setup, free_port};

/// How long a member may take to become ready.
const READY: Duration = Duration::from_secs(60);

/// One process, running or not.
pub(crate) struct Member {
    pub(super) name: String,
    /// Its number in the network.
    pub(super) number: usize,
    setup: Setup,
    server: Option<Server>,
    stopped: bool,
    /// After the server, which ends first.
    pub(super) disk: Option<SmallDisk>,
}

/// What to start.
pub(crate) struct Plan<'a> {
    pub(crate) binary: &'a Path,
    pub(crate) directory: &'a Path,
    /// Processes of distributor and query frontend in one.
    pub(crate) doors: usize,
    pub(crate) queriers: usize,
    pub(crate) compactors: usize,
    /// Ingesters that run all the time.
    pub(crate) ingesters: usize,
    /// Ingesters that come and go.
    pub(crate) spare_ingesters: usize,
    pub(crate) replication_factor: usize,
    /// Settings as YAML, of sections that [`config`] does not write; `{name}` stands for the member.
    pub(crate) settings: &'a str,
    /// Where the tables lie if not in the directory.
    pub(crate) store: Option<&'a Seaweed>,
    /// What the ingesters' store does wrong.
    pub(crate) faults: Option<&'a str>,
    /// Give each member a network of its own.
    pub(crate) network: bool,
    /// Give each ingester a small disk of its own.
    pub(crate) small_disks: bool,
}

impl<'a> Plan<'a> {
    /// A door, two queriers, a compactor and three ingesters that keep everything `replication_factor` times.
    pub(crate) fn small(
        binary: &'a Path,
        directory: &'a Path,
        replication_factor: usize,
        settings: &'a str,
    ) -> Self {
        Self {
            binary,
            directory,
            doors: 1,
            queriers: 2,
            compactors: 1,
            ingesters: 3,
            spare_ingesters: 0,
            replication_factor,
            settings,
            store: None,
            faults: None,
            network: false,
            small_disks: false,
        }
    }
}

/// All of them.
pub(crate) struct Members {
    directory: PathBuf,
    /// Distributor and query frontend in one.
    pub(super) doors: Vec<Member>,
    pub(super) ingesters: Vec<Member>,
    pub(super) queriers: Vec<Member>,
    pub(super) compactors: Vec<Member>,
    /// Ingesters that run all the time; those behind come and go.
    pub(super) steady: usize,
    /// Each member has a number in it: doors, queriers, compactors, ingesters. After the members, which end first.
    pub(super) network: Option<Network>,
}

impl Members {
    /// Sets up what `plan` says; nothing is started.
    pub(crate) fn new(plan: &Plan<'_>) -> Result<Self> {
        let mut names: Vec<(String, &str)> = Vec::new();
        names.extend((1..=plan.doors).map(|n| (format!("door-{n}"), "distributor,query-frontend")));
        names.extend((1..=plan.queriers).map(|n| (format!("querier-{n}"), "querier")));
        names.extend((1..=plan.compactors).map(|n| (format!("compactor-{n}"), "compactor")));
        let ingesters = plan.ingesters + plan.spare_ingesters;
        names.extend((1..=ingesters).map(|n| (format!("ingester-{n}"), "ingester")));
        let network = plan.network.then(|| Network::new(names.len())).transpose()?;
        let host = |member: usize| network.as_ref().map_or("127.0.0.1".to_owned(), |n| n.address(member));
        let gossip: Vec<u16> = names.iter().map(|_| free_port()).collect::<Result<_>>()?;
        // The doors are known to everybody, as the addresses of a service are.
        let doors: Vec<_> = (0..plan.doors).map(|n| format!("\"{}:{}\"", host(n), gossip[n])).collect();
        let storage = match plan.store {
            Some(store) => store.storage(),
            None => format!(
                "  storage:\n    filesystem:\n      chunks_directory: {}\n",
                plan.directory.join("tables").display()
            ),
        };
        let mut members = Vec::new();
        for (number, (name, target)) in names.iter().enumerate() {
            let addresses = Addresses {
                host: host(number),
                grpc: free_port()?,
                gossip: gossip[number],
                join: doors.join(", "),
            };
            let config = config(name, target, plan.replication_factor, &addresses, &storage);
            let config = config + &plan.settings.replace("{name}", name);
            let mut setup = Setup::new(plan.binary, &plan.directory.join(name), &config)?;
            setup.host = addresses.host;
            setup.entrance = network.as_ref().map(|n| n.entrance(number)).unwrap_or_default();
            let is_ingester = *target == "ingester";
            if let Some(faults) = plan.faults.filter(|_| is_ingester) {
                setup.environment.push(("SKALD_FAULTS".to_owned(), faults.to_owned()));
            }
            let disk =
                (plan.small_disks && is_ingester).then(|| SmallDisk::mount(&setup.data())).transpose()?;
            members.push(Member { name: name.clone(), number, setup, server: None, stopped: false, disk });
        }
        let ingester_members = members.split_off(plan.doors + plan.queriers + plan.compactors);
        let compactors = members.split_off(plan.doors + plan.queriers);
        let queriers = members.split_off(plan.doors);
        Ok(Self {
            directory: plan.directory.to_owned(),
            doors: members,
            ingesters: ingester_members,
            queriers,
            compactors,
            steady: plan.ingesters,
            network,
        })
    }

    /// Where the tables lie, if that is a directory.
    pub(crate) fn tables(&self) -> PathBuf {
        self.directory.join("tables")
    }

    /// Clients of the doors.
    pub(crate) fn doors(&self) -> Vec<Client> {
        self.doors.iter().map(|m| m.setup.client()).collect()
    }

    /// Starts all but the ingesters that come and go, and waits until they are ready.
    pub(crate) fn start_all(&mut self) -> Result<()> {
        for member in self.steady_members() {
            member.spawn()?;
        }
        for member in self.steady_members() {
            member.wait_ready()?;
        }
        Ok(())
    }

    fn steady_members(&mut self) -> impl Iterator<Item = &mut Member> {
        let ingesters = self.ingesters.iter_mut().take(self.steady);
        self.doors.iter_mut().chain(ingesters).chain(&mut self.queriers).chain(&mut self.compactors)
    }

    fn all(&mut self) -> impl Iterator<Item = &mut Member> {
        self.doors.iter_mut().chain(&mut self.ingesters).chain(&mut self.queriers).chain(&mut self.compactors)
    }

    /// The numbers of the processes that run, by what they are.
    pub(crate) fn components(&self) -> Vec<(&'static str, Vec<u32>)> {
        let pids =
            |members: &[Member]| members.iter().filter_map(|m| Some(m.server.as_ref()?.id())).collect();
        vec![
            ("door", pids(&self.doors)),
            ("ingesters", pids(&self.ingesters)),
            ("queriers", pids(&self.queriers)),
            ("compactors", pids(&self.compactors)),
        ]
    }

    /// Whoever was started and not ended still runs.
    pub(crate) fn check(&mut self) -> Result<()> {
        self.all().try_for_each(|member| member.is_running().map(|_| ()))
    }

    /// Wakes and starts whoever should run, and waits until all are ready.
    pub(super) fn heal(&mut self) -> Result<()> {
        for member in self.all() {
            member.wake()?;
        }
        for member in self.steady_members() {
            if !member.is_running()? {
                member.spawn()?;
            }
        }
        for member in self.steady_members() {
            member.wait_ready()?;
        }
        Ok(())
    }

    /// Flushes through a door. With a failing store or a member that has just come back it may take more than one try.
    pub(super) fn flush(&self, shared: &Shared) -> Result<()> {
        let start = Instant::now();
        loop {
            match shared.doors[0].flush() {
                Ok(()) => return Ok(()),
                Err(error) if start.elapsed() > Duration::from_secs(90) => return Err(error),
                Err(_) => sleep(Duration::from_millis(300)),
            }
        }
    }

    /// Stops everybody, ingesters last.
    pub(crate) fn stop_all(&mut self) -> Result<()> {
        for member in self
            .doors
            .iter_mut()
            .chain(&mut self.queriers)
            .chain(&mut self.compactors)
            .chain(&mut self.ingesters)
        {
            member.stop()?;
        }
        Ok(())
    }

    /// Stops everybody but the compactors, ingesters last.
    pub(super) fn stop_all_but_compactors(&mut self) -> Result<()> {
        for member in self.doors.iter_mut().chain(&mut self.queriers).chain(&mut self.ingesters) {
            member.stop()?;
        }
        Ok(())
    }

    /// For commands that work on the tables without a server: a compactor's configuration.
    pub(super) fn tool(&self) -> &Setup {
        &self.compactors[0].setup
    }
}

impl Member {
    /// Starts it without waiting.
    pub(super) fn spawn(&mut self) -> Result<()> {
        self.server = Some(self.setup.spawn().with_context(|| self.name.clone())?);
        Ok(())
    }

    pub(super) fn wait_ready(&mut self) -> Result<()> {
        let Some(server) = &mut self.server else { return Ok(()) };
        server.wait_ready(READY).with_context(|| self.name.clone())
    }

    /// Whether its process runs. One that ended by itself is a fault.
    pub(super) fn is_running(&mut self) -> Result<bool> {
        let Some(server) = &mut self.server else { return Ok(false) };
        match server.ended()? {
            None => Ok(true),
            Some(status) => bail!("{} ended by itself: {status}\n{}", self.name, server.log_tail()),
        }
    }

    /// `kill -9`.
    pub(super) fn kill(&mut self) -> Result<()> {
        self.wake()?;
        self.server.take().map_or(Ok(()), Server::kill)
    }

    /// SIGTERM, and waits for the end.
    pub(super) fn stop(&mut self) -> Result<()> {
        self.wake()?;
        let name = self.name.clone();
        self.server.take().map_or(Ok(()), Server::stop).with_context(|| format!("stopping {name}"))
    }

    /// SIGSTOP: it is there, but does nothing.
    pub(super) fn freeze(&mut self) -> Result<()> {
        if let Some(server) = &self.server {
            server.signal("STOP")?;
            self.stopped = true;
        }
        Ok(())
    }

    /// SIGCONT, if it was frozen.
    pub(super) fn wake(&mut self) -> Result<()> {
        if std::mem::take(&mut self.stopped)
            && let Some(server) = &self.server
        {
            server.signal("CONT")?;
        }
        Ok(())
    }
}

/// Where a member is reached, and whom it asks for the others.
struct Addresses {
    host: String,
    grpc: u16,
    gossip: u16,
    join: String,
}

/// Who a member is and where everything is.
fn config(name: &str, target: &str, replication_factor: usize, at: &Addresses, storage: &str) -> String {
    let Addresses { host, grpc, gossip, join } = at;
    format!(
        "\
target: {target}
auth_enabled: false
server:
  grpc_listen_address: {host}
  grpc_listen_port: {grpc}
common:
  replication_factor: {replication_factor}
  instance_addr: {host}
{storage}memberlist:
  node_name: {name}
  bind_addr: [{host}]
  bind_port: {gossip}
  join_members: [{join}]
  cluster_label: test
  failure_timeout: 4s
"
    )
}
