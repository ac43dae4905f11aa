//! The processes of the cluster.

use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::Shared;
use crate::seaweed::Seaweed;
use crate::server::{Client, Server, Setup, free_port};

/// How long a member may take to become ready.
const READY: Duration = Duration::from_secs(60);

/// One process, running or not.
pub(super) struct Member {
    pub(super) name: String,
    setup: Setup,
    server: Option<Server>,
    stopped: bool,
}

/// All of them.
pub(super) struct Members {
    directory: PathBuf,
    /// Distributor and query frontend in one.
    pub(super) doors: Vec<Member>,
    pub(super) ingesters: Vec<Member>,
    pub(super) queriers: Vec<Member>,
    /// Ingesters that run all the time; those behind come and go.
    pub(super) steady: usize,
}

impl Members {
    /// Two doors, two queriers, `ingesters` ingesters and one more that is not started with the others.
    pub(super) fn new(
        binary: &Path,
        directory: &Path,
        ingesters: usize,
        store: Option<&Seaweed>,
        faults: Option<&str>,
    ) -> Result<Self> {
        let mut names: Vec<(String, &str)> = Vec::new();
        names.extend((1..=2).map(|n| (format!("door-{n}"), "distributor,query-frontend")));
        names.extend((1..=2).map(|n| (format!("querier-{n}"), "querier")));
        names.extend((1..=ingesters + 1).map(|n| (format!("ingester-{n}"), "ingester")));
        let gossip: Vec<u16> = names.iter().map(|_| free_port()).collect::<Result<_>>()?;
        // The doors are known to everybody, as the addresses of a service are.
        let join = format!("[\"127.0.0.1:{}\", \"127.0.0.1:{}\"]", gossip[0], gossip[1]);
        let storage = match store {
            Some(store) => store.storage(),
            None => format!(
                "  storage:\n    filesystem:\n      chunks_directory: {}\n",
                directory.join("tables").display()
            ),
        };
        let mut members = Vec::new();
        for ((name, target), gossip) in names.iter().zip(&gossip) {
            let config = config(name, target, *gossip, &join, &storage, free_port()?);
            let mut setup = Setup::new(binary, &directory.join(name), &config)?;
            if let Some(faults) = faults.filter(|_| *target == "ingester") {
                setup.environment.push(("SKALD_FAULTS".to_owned(), faults.to_owned()));
            }
            members.push(Member { name: name.clone(), setup, server: None, stopped: false });
        }
        let ingester_members = members.split_off(4);
        let queriers = members.split_off(2);
        Ok(Self {
            directory: directory.to_owned(),
            doors: members,
            ingesters: ingester_members,
            queriers,
            steady: ingesters,
        })
    }

    /// Where the tables lie, if that is a directory.
    pub(super) fn tables(&self) -> PathBuf {
        self.directory.clone()
    }

    /// Clients of the doors.
    pub(super) fn doors(&self) -> Vec<Client> {
        self.doors.iter().map(|m| m.setup.client()).collect()
    }

    /// Starts all but the ingesters that come and go, and waits until they are ready.
    pub(super) fn start_all(&mut self) -> Result<()> {
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
        self.doors.iter_mut().chain(ingesters).chain(&mut self.queriers)
    }

    fn all(&mut self) -> impl Iterator<Item = &mut Member> {
        self.doors.iter_mut().chain(&mut self.ingesters).chain(&mut self.queriers)
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
    pub(super) fn stop_all(&mut self) -> Result<()> {
        for member in self.doors.iter_mut().chain(&mut self.queriers).chain(&mut self.ingesters) {
            member.stop()?;
        }
        Ok(())
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

/// Short intervals, so that every part of the cluster works often.
fn config(name: &str, target: &str, gossip: u16, join: &str, storage: &str, grpc: u16) -> String {
    format!(
        "\
target: {target}
auth_enabled: false
server:
  grpc_listen_port: {grpc}
common:
  replication_factor: 3
  instance_addr: 127.0.0.1
{storage}memberlist:
  node_name: {name}
  bind_addr: [127.0.0.1]
  bind_port: {gossip}
  join_members: {join}
  cluster_label: test
  failure_timeout: 4s
ingester:
  instance_id: {name}
  flush_interval: 4s
  flush_grace: 500ms
  min_flush_bytes: 1KB
  max_flush_delay: 10s
  takeover_after: 4s
  max_chunk_age: 240h
ingester_client:
  remote_timeout: 3s
limits_config:
  reject_old_samples: false
  creation_grace_period: 24h
  discover_log_levels: false
  discover_service_name: []
  shard_streams: {{enabled: false}}
  ingestion_rate_mb: 1000
  ingestion_burst_size_mb: 1000
  max_entries_limit_per_query: 5000
"
    )
}
