//! Other people's clients, installed from their registries, ship logs to a release binary, and these are then found by
//! query: each line once, with its labels and structured metadata, in memory and after a flush.
//!
//! The programs and the versions of the packages are in `xtask/clients`. Everything is installed below the target
//! directory. A language that is missing on the machine is skipped, with a message.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::server::{Client as Server, Setup};
use crate::{answer, python, workspace};

/// Options of `clients`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only clients whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// Lines that each client ships.
    #[arg(long, default_value_t = 200)]
    lines: usize,
    /// A binary to use instead of building one.
    #[arg(long)]
    binary: Option<PathBuf>,
}

/// What a client is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Language {
    Python,
    Node,
}

/// A program that ships lines, and what is expected to be found.
struct Client {
    name: &'static str,
    language: Language,
    script: &'static str,
    /// Arguments after the address and the number of lines.
    arguments: &'static [&'static str],
    selector: &'static str,
    /// Labels that its streams have, among others.
    labels: &'static [(&'static str, &'static str)],
    /// Structured metadata that its entries have, among others; `#` stands for the number of the line.
    metadata: &'static [(&'static str, &'static str)],
}

const CLIENTS: [Client; 7] = [
    Client {
        name: "python-logging-loki (JSON)",
        language: Language::Python,
        script: "python_logging_loki.py",
        arguments: &[],
        selector: r#"{app="python-logging-loki"}"#,
        labels: &[("severity", "warning"), ("logger", "clients"), ("team", "a b")],
        metadata: &[],
    },
    Client {
        name: "loki-logger-handler (JSON, gzip, metadata)",
        language: Language::Python,
        script: "loki_logger_handler_metadata.py",
        arguments: &[],
        selector: r#"{app="loki-logger-handler"}"#,
        labels: &[],
        metadata: &[("cluster_node", "n1"), ("request", "r#")],
    },
    Client {
        name: "OpenTelemetry SDK for Python (OTLP protobuf, gzip)",
        language: Language::Python,
        script: "opentelemetry_http.py",
        arguments: &[],
        selector: r#"{service_name="opentelemetry-python"}"#,
        labels: &[("deployment_environment", "test")],
        metadata: &[
            ("host_name", "h1"),
            ("user_id", "u7"),
            ("scope_name", "clients"),
            ("severity_number", "13"),
        ],
    },
    Client {
        name: "winston-loki (snappy protobuf)",
        language: Language::Node,
        script: "winston-loki.js",
        arguments: &["protobuf"],
        selector: r#"{app="winston-loki-protobuf"}"#,
        labels: &[("level", "warn"), ("team", "a b")],
        metadata: &[],
    },
    Client {
        name: "winston-loki (JSON)",
        language: Language::Node,
        script: "winston-loki.js",
        arguments: &["json"],
        selector: r#"{app="winston-loki-json"}"#,
        labels: &[("level", "warn"), ("team", "a b")],
        metadata: &[],
    },
    Client {
        name: "pino-loki (JSON, metadata)",
        language: Language::Node,
        script: "pino-loki.js",
        arguments: &[],
        selector: r#"{app="pino-loki"}"#,
        labels: &[("level", "warning")],
        metadata: &[("request", "r#")],
    },
    Client {
        name: "OpenTelemetry SDK for Node (OTLP JSON)",
        language: Language::Node,
        script: "opentelemetry.js",
        arguments: &[],
        selector: r#"{service_name="opentelemetry-node"}"#,
        labels: &[],
        metadata: &[
            ("host_name", "h1"),
            ("user_id", "u7"),
            ("scope_name", "clients"),
            ("scope_version", "1.2"),
            ("severity_text", "WARN"),
        ],
    },
];

/// Runs every client. True when all that could be installed were found whole.
pub(crate) fn run(args: &Args) -> Result<bool> {
    let wanted: Vec<&Client> = CLIENTS
        .iter()
        .filter(|c| args.only.as_ref().is_none_or(|only| c.name.contains(only.as_str())))
        .collect();
    if wanted.is_empty() {
        bail!("no client has {:?} in its name", args.only.as_deref().unwrap_or_default());
    }
    let binary = workspace::release_binary(args.binary.as_deref())?;
    let mut runtimes = HashMap::new();
    for language in [Language::Python, Language::Node] {
        if wanted.iter().any(|client| client.language == language) {
            match Runtime::install(language) {
                Ok(runtime) => drop(runtimes.insert(language.name(), runtime)),
                Err(why) => println!("clients: those in {} are skipped: {why:#}", language.name()),
            }
        }
    }
    let directory =
        tempfile::Builder::new().prefix("skald-clients-").tempdir().context("no temporary directory")?;
    let setup = Setup::new(&binary, directory.path(), "")?;
    let server = setup.start()?;
    let client = setup.client();
    let mut failed = Vec::new();
    let mut shipped = Vec::new();
    for wanted in wanted {
        let Some(runtime) = runtimes.get(wanted.language.name()) else { continue };
        let outcome = wanted
            .ship(runtime, &setup.base(), args.lines)
            .and_then(|()| wanted.await_lines(&client, args.lines));
        match outcome {
            Ok(()) => shipped.push(wanted),
            Err(error) => failed.push(format!("{}: {error:#}", wanted.name)),
        }
    }
    client.flush()?;
    for shipped in &shipped {
        match shipped.check(&client, args.lines) {
            Ok(()) => println!("clients: {}: {} lines found", shipped.name, args.lines),
            Err(error) => failed.push(format!("{}, after a flush: {error:#}", shipped.name)),
        }
    }
    server.stop()?;
    for failure in &failed {
        println!("clients FAILED: {failure}");
    }
    if failed.is_empty() {
        println!("clients: {} of {} shipped and found", shipped.len(), CLIENTS.len());
    }
    Ok(failed.is_empty())
}

impl Language {
    fn name(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::Node => "node",
        }
    }
}

/// An interpreter with the packages that the clients need.
struct Runtime {
    interpreter: PathBuf,
    /// Where the scripts are, beside their packages.
    scripts: PathBuf,
}

impl Runtime {
    /// Installs the packages. An error means that this machine does not have the language, or not reach its registry.
    fn install(language: Language) -> Result<Self> {
        let sources = workspace::root().join("xtask/clients").join(language.name());
        let target = workspace::target().join("clients").join(language.name());
        std::fs::create_dir_all(&target).with_context(|| format!("failed to create {}", target.display()))?;
        match language {
            Language::Python => Self::install_python(sources, &target),
            Language::Node => Self::install_node(&sources, target),
        }
    }

    fn install_python(scripts: PathBuf, target: &Path) -> Result<Self> {
        if let Some(why) = python::missing(&["venv"]) {
            bail!(why);
        }
        let interpreter = target.join("bin/python");
        if !interpreter.exists() {
            workspace::run(python::command().args(["-m", "venv"]).arg(target))?;
        }
        let requirements = scripts.join("requirements.txt");
        let mut pip = Command::new(&interpreter);
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"]).arg(requirements);
        workspace::run(&mut pip)?;
        Ok(Self { interpreter, scripts })
    }

    /// Node looks for packages beside the script, so the scripts move to the packages.
    fn install_node(sources: &Path, target: PathBuf) -> Result<Self> {
        for program in ["node", "npm"] {
            let version = Command::new(program).arg("--version").output();
            version.with_context(|| format!("{program} cannot be started"))?;
        }
        for entry in std::fs::read_dir(sources).context("failed to list the scripts")? {
            let path = entry.context("failed to list the scripts")?.path();
            let name = path.file_name().context("a script has no name")?;
            std::fs::copy(&path, target.join(name))
                .with_context(|| format!("failed to copy {}", path.display()))?;
        }
        let mut npm = Command::new("npm");
        npm.args(["install", "--no-audit", "--no-fund", "--loglevel=error"]).current_dir(&target);
        workspace::run(&mut npm)?;
        Ok(Self { interpreter: "node".into(), scripts: target })
    }
}

impl Client {
    fn ship(&self, runtime: &Runtime, base: &str, lines: usize) -> Result<()> {
        let mut command = Command::new(&runtime.interpreter);
        command.arg(runtime.scripts.join(self.script)).arg(base).arg(lines.to_string()).args(self.arguments);
        workspace::output(&mut command).map(drop)
    }

    /// A client may end before its last request is answered, so its lines are waited for.
    fn await_lines(&self, server: &Server, lines: usize) -> Result<()> {
        const PATIENCE: Duration = Duration::from_secs(20);
        let start = Instant::now();
        loop {
            match self.check(server, lines) {
                Err(_) if start.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(100)),
                outcome => return outcome,
            }
        }
    }

    /// Each line once, with its labels and metadata.
    fn check(&self, server: &Server, lines: usize) -> Result<()> {
        let parameters = [("query", self.selector), ("since", "1h"), ("limit", "5000")];
        let found = server.get("/loki/api/v1/query_range", &parameters)?.json()?;
        let found = answer::entries(&found)?;
        for number in 0..lines {
            let text = format!("line {number:04}");
            let mut with_text = found.iter().filter(|(_, entry)| entry.line.contains(&text));
            let (Some((labels, entry)), None) = (with_text.next(), with_text.next()) else {
                bail!("{text:?} is not there exactly once, among {} lines", found.len());
            };
            for (name, expected) in self.labels {
                if labels[name] != *expected {
                    bail!("{text:?} has the labels {labels}, without {name}={expected}");
                }
            }
            for (name, expected) in self.metadata {
                let expected = expected.replace('#', &number.to_string());
                if !entry.metadata.iter().any(|(n, value)| n == name && *value == expected) {
                    bail!("{text:?} has the metadata {:?}, without {name}={expected}", entry.metadata);
                }
            }
        }
        if found.len() != lines {
            bail!("{} entries instead of {lines}", found.len());
        }
        Ok(())
    }
}
