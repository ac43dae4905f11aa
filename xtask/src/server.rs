//! A Skald process under test, and the HTTP calls to it.

use std::fs::OpenOptions;
use std::net::TcpListener;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

use crate::workspace;

/// How to start a server. The port stays the same over restarts.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    /// The program.
    pub(crate) binary: PathBuf,
    /// The address that it listens on.
    pub(crate) host: String,
    /// Its port there.
    pub(crate) port: u16,
    /// A program that starts it, with its arguments; empty to start it directly.
    pub(crate) entrance: Vec<String>,
    /// Where everything of this test lies: `data/`, `config.yaml`, `server.log`.
    pub(crate) directory: PathBuf,
    /// Further environment variables.
    pub(crate) environment: Vec<(String, String)>,
}

impl Setup {
    /// A server with `config` (YAML) in a directory of its own, on a free port.
    pub(crate) fn new(binary: &Path, directory: &Path, config: &str) -> Result<Self> {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("failed to create {}", directory.display()))?;
        std::fs::write(directory.join("config.yaml"), config).context("failed to write the configuration")?;
        Ok(Self {
            binary: binary.to_owned(),
            host: "127.0.0.1".to_owned(),
            port: free_port()?,
            entrance: Vec::new(),
            directory: directory.to_owned(),
            environment: Vec::new(),
        })
    }

    /// The server's data directory.
    pub(crate) fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// What a command of the program prints that works on the tables of this configuration without a server.
    pub(crate) fn command(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.binary);
        command.args(arguments).arg("--data").arg(self.data());
        workspace::output(command.arg("--config.file").arg(self.directory.join("config.yaml")))
    }

    /// Checks the table, which has to be in good order: every block there and readable, every row as the table says.
    pub(crate) fn check_table(&self) -> Result<String> {
        self.command(&["table", "check", "--rows"]).context("the table is not in good order")
    }

    /// The address of its API.
    pub(crate) fn base(&self) -> String {
        format!("http://{}:{}", self.host, self.port)
    }

    /// A client for it; good over restarts.
    pub(crate) fn client(&self) -> Client {
        Client::new(self.base())
    }

    /// Starts the process and returns without waiting for it to be ready.
    pub(crate) fn spawn(&self) -> Result<Server> {
        let path = self.directory.join("server.log");
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("failed to open {}", path.display()))?;
        let mut command = match self.entrance.split_first() {
            Some((program, arguments)) => {
                let mut command = Command::new(program);
                command.args(arguments).arg(&self.binary);
                command
            }
            None => Command::new(&self.binary),
        };
        let child = command
            .arg("serve")
            .arg("--listen")
            .arg(format!("{}:{}", self.host, self.port))
            .arg("--data")
            .arg(self.data())
            .arg("--config.file")
            .arg(self.directory.join("config.yaml"))
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(std::process::Stdio::null())
            .stdout(log.try_clone().context("failed to share the log file")?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("failed to start {}", self.binary.display()))?;
        Ok(Server { child, client: self.client(), log: path })
    }

    /// Starts the process and waits until it is ready.
    pub(crate) fn start(&self) -> Result<Server> {
        let mut server = self.spawn()?;
        server.wait_ready(Duration::from_secs(60))?;
        Ok(server)
    }
}

/// A running process; killed when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    client: Client,
    log: PathBuf,
}

impl Server {
    /// Waits until `/ready` answers 200.
    pub(crate) fn wait_ready(&mut self, patience: Duration) -> Result<()> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().context("failed to ask for the server's state")? {
                bail!("the server ended by itself: {status}\n{}", self.log_tail());
            }
            match self.client.get("/ready", &[]) {
                Ok(answer) if answer.status == 200 => return Ok(()),
                _ if start.elapsed() > patience => {
                    bail!("the server was not ready after {patience:?}\n{}", self.log_tail())
                }
                _ => sleep(Duration::from_millis(10)),
            }
        }
    }

    /// `kill -9`.
    pub(crate) fn kill(mut self) -> Result<()> {
        self.child.kill().context("failed to kill the server")?;
        self.child.wait().context("failed to wait for the killed server")?;
        Ok(())
    }

    /// Sends SIGTERM.
    pub(crate) fn terminate(&self) -> Result<()> {
        self.signal("TERM")
    }

    /// Sends the signal with this name, without `SIG`.
    pub(crate) fn signal(&self, name: &str) -> Result<()> {
        crate::workspace::run(Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()))
    }

    /// Sends SIGTERM and waits for the end, which must be a success.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.terminate()?;
        let start = Instant::now();
        let patience = Duration::from_secs(60);
        loop {
            match self.child.try_wait().context("failed to ask for the server's state")? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => bail!("the server ended with {status} after SIGTERM\n{}", self.log_tail()),
                None if start.elapsed() > patience => {
                    bail!("the server did not end within {patience:?} of SIGTERM\n{}", self.log_tail())
                }
                None => sleep(Duration::from_millis(10)),
            }
        }
    }

    /// The number of the process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// How the process ended, if it did.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().context("failed to ask for the server's state")
    }

    /// The last lines of its log.
    pub(crate) fn log_tail(&self) -> String {
        let log = std::fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only when the process has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that nobody listens on now. It lies below the range that Linux takes the ports of outgoing connections from:
/// a client that tries to reach a server that is down could otherwise be given that very port, and occupy it.
pub(crate) fn free_port() -> Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const PORTS: Range<u16> = 12_000..32_000;
    let start = std::process::id() as u16 % PORTS.len() as u16;
    for _ in PORTS {
        let port =
            PORTS.start + start.wrapping_add(NEXT.fetch_add(7, Ordering::Relaxed)) % PORTS.len() as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port in {PORTS:?}")
}

/// An HTTP answer, whatever its status.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The status code.
    pub(crate) status: u16,
    /// The body.
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The first bytes of the body, for messages.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body[..self.body.len().min(400)]).trim_end().to_owned()
    }

    /// The body as JSON; a status other than 200 is an error.
    pub(crate) fn json(&self) -> Result<Value> {
        if self.status != 200 {
            bail!("status {}: {}", self.status, self.text());
        }
        serde_json::from_slice(&self.body).with_context(|| format!("not JSON: {}", self.text()))
    }
}

/// Calls a server. An `Err` means that no whole answer came back.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    base: String,
    agent: ureq::Agent,
}

impl Client {
    fn new(base: String) -> Self {
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(Duration::from_secs(60)))
            .http_status_as_error(false)
            .build()
            .into();
        Self { base, agent }
    }

    /// The address of the server.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    /// GET with query parameters.
    pub(crate) fn get(&self, path: &str, parameters: &[(&str, &str)]) -> Result<Answer> {
        let request = self
            .agent
            .get(format!("{}{path}", self.base))
            .header("X-Loki-Response-Encoding-Flags", "categorize-labels")
            .query_pairs(parameters.iter().copied());
        read(path, request.call())
    }

    /// GET of a page that has JSON for programs.
    pub(crate) fn get_json(&self, path: &str) -> Result<Value> {
        let request = self.agent.get(format!("{}{path}", self.base)).header("Accept", "application/json");
        read(path, request.call())?.json()
    }

    /// GET for a tenant.
    pub(crate) fn get_as(&self, tenant: &str, path: &str, parameters: &[(&str, &str)]) -> Result<Answer> {
        let request = self
            .agent
            .get(format!("{}{path}", self.base))
            .header("X-Scope-OrgID", tenant)
            .query_pairs(parameters.iter().copied());
        read(path, request.call())
    }

    /// POST for a tenant.
    pub(crate) fn post_as(&self, tenant: &str, path: &str, media_type: &str, body: &[u8]) -> Result<Answer> {
        let request = self
            .agent
            .post(format!("{}{path}", self.base))
            .header("X-Scope-OrgID", tenant)
            .header("Content-Type", media_type);
        read(path, request.send(body))
    }

    /// POST with query parameters and without a body.
    pub(crate) fn post_with(&self, path: &str, parameters: &[(&str, &str)]) -> Result<Answer> {
        let request = self.agent.post(format!("{}{path}", self.base)).query_pairs(parameters.iter().copied());
        read(path, request.send_empty())
    }

    /// POST with a body of the given media type.
    pub(crate) fn post(&self, path: &str, media_type: &str, body: &[u8]) -> Result<Answer> {
        let request = self.agent.post(format!("{}{path}", self.base)).header("Content-Type", media_type);
        read(path, request.send(body))
    }

    /// `POST /flush`, which must succeed: everything acknowledged before is in the table afterwards.
    pub(crate) fn flush(&self) -> Result<()> {
        let answer = self.post("/flush", "text/plain", b"")?;
        match answer.status {
            200..300 => Ok(()),
            status => Err(anyhow!("POST /flush: status {status}: {}", answer.text())),
        }
    }
}

fn read(path: &str, result: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<Answer> {
    let mut response = result.with_context(|| format!("no answer to {path}"))?;
    let status = response.status().as_u16();
    let body = response
        .body_mut()
        .with_config()
        .limit(1 << 30)
        .read_to_vec()
        .with_context(|| format!("no whole answer to {path}"))?;
    Ok(Answer { status, body })
}
