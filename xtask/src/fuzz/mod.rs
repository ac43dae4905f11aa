//! Sends requests that are malformed in one place or many: each must be refused with a 4xx and a reason, and leave
//! nothing behind: no entry, no table, no memory, no line about a panic.
//!
//! A request is made wrong on purpose, so a 2xx is always a finding. The seed and the number of a request decide it.

mod push;
mod query;
mod request;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use self::request::{Answer, Request, generate};
use crate::process::{alarming, resident_bytes};
use crate::push::{Entry, Stream, as_json};
use crate::random::Random;
use crate::server::{Client, Setup};
use crate::workspace;

/// The tenant of the requests that name one.
const TENANT: &str = "fuzz";

/// Requests under way at a time.
const THREADS: u64 = 8;

/// What the process may grow by after the warm-up. The allocator's own business: which thread's heap keeps which page
/// differs from round to round.
const GROWTH_MAX: u64 = 24 << 20;

/// Findings that are shown; the others are counted.
const SHOWN_MAX: usize = 20;

/// Small limits, so that a bomb is one although it is quick to send.
const CONFIG: &str = "
auth_enabled: true
distributor: {max_recv_msg_size: 1MB, max_decompressed_size: 8MB}
limits_config: {ingestion_rate_mb: 1000, ingestion_burst_size_mb: 1000}
";

/// Options of `fuzz-requests`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How many requests.
    #[arg(long, default_value_t = 10_000)]
    count: u64,
    /// The seed of the requests.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Send only this request, and show it with its answer.
    #[arg(long)]
    number: Option<u64>,
    /// A binary to use instead of building one.
    #[arg(long)]
    binary: Option<PathBuf>,
}

/// Runs the check. True when there are no findings.
pub(crate) fn run(args: &Args) -> Result<bool> {
    let binary = workspace::release_binary(args.binary.as_deref())?;
    let directory =
        tempfile::Builder::new().prefix("skald-fuzz-").tempdir().context("no temporary directory")?;
    let setup = Setup::new(&binary, directory.path(), CONFIG)?;
    let mut server = setup.start()?;
    if let Some(number) = args.number {
        let request = generate(args.seed, number);
        println!("{}: {request}\n", request.family);
        println!("{:?}", request.send(setup.port));
        server.stop()?;
        return Ok(true);
    }
    let findings = Findings::default();
    // The first round fills caches and the allocator's pools.
    let warm_up = (args.count / 4).max(5000);
    round(&setup, args.seed, 0..warm_up, &findings);
    thread::sleep(Duration::from_millis(500));
    let before = resident_bytes(server.id());
    let start = Instant::now();
    round(&setup, args.seed, warm_up..warm_up + args.count, &findings);
    let seconds = start.elapsed().as_secs_f64();
    thread::sleep(Duration::from_millis(500));
    let after = resident_bytes(server.id());

    if let Some(status) = server.ended()? {
        bail!("the server ended: {status}\n{}", server.log_tail());
    }
    match (before, after) {
        (Some(before), Some(after)) => {
            println!(
                "fuzz-requests: memory {} MiB after the warm-up, {} MiB at the end",
                before >> 20,
                after >> 20
            );
            if after > before + GROWTH_MAX {
                findings.add(
                    "memory",
                    &format!("grew by {} MiB, more than {} MiB", (after - before) >> 20, GROWTH_MAX >> 20),
                );
            }
        }
        _ => println!("fuzz-requests: this system does not tell the memory of a process: not checked"),
    }
    nothing_is_stored(&setup.client(), &setup.data(), &findings)?;
    server.stop()?;
    let log =
        std::fs::read_to_string(setup.directory.join("server.log")).context("failed to read the log")?;
    for line in alarming(&log) {
        findings.add("log", line);
    }
    findings.print();
    println!("fuzz-requests: {} requests with seed {} in {seconds:.1} s", args.count, args.seed);
    if findings.is_empty() {
        println!("fuzz-requests: each was refused with a reason, and nothing was left behind");
    } else {
        println!("fuzz-requests: repeat one with --seed {} --number N", args.seed);
    }
    Ok(findings.is_empty())
}

/// What is wrong, over all threads.
#[derive(Default)]
struct Findings {
    texts: Mutex<Vec<String>>,
    statuses: Mutex<BTreeMap<(&'static str, u16), u64>>,
}

impl Findings {
    fn add(&self, family: &str, text: &str) {
        self.texts
            .lock()
            .expect("no thread panics with the findings locked")
            .push(format!("{family}: {text}"));
    }

    fn count(&self, family: &'static str, status: u16) {
        let mut statuses = self.statuses.lock().expect("no thread panics with the findings locked");
        *statuses.entry((family, status)).or_default() += 1;
    }

    fn is_empty(&self) -> bool {
        self.texts.lock().expect("no thread panics with the findings locked").is_empty()
    }

    fn print(&self) {
        for ((family, status), count) in
            &*self.statuses.lock().expect("no thread panics with the findings locked")
        {
            println!("fuzz-requests: {family:<10} {status} {count:6}");
        }
        let texts = self.texts.lock().expect("no thread panics with the findings locked");
        for text in texts.iter().take(SHOWN_MAX) {
            println!("fuzz-requests FINDING {text}");
        }
        if texts.len() > SHOWN_MAX {
            println!("fuzz-requests: and {} more findings", texts.len() - SHOWN_MAX);
        }
    }
}

fn round(setup: &Setup, seed: u64, numbers: std::ops::Range<u64>, findings: &Findings) {
    let next = AtomicU64::new(numbers.start);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= numbers.end {
                        return;
                    }
                    let request = generate(seed, number);
                    check(number, &request, request.send(setup.port), findings);
                }
            });
        }
    });
}

fn check(number: u64, request: &Request, answer: Result<Answer>, findings: &Findings) {
    let finding = match answer {
        Err(error) => format!("no answer: {error:#}"),
        Ok(answer) => {
            findings.count(request.family, answer.status);
            match answer.status {
                400..500 if request.needs_reason && answer.body.trim().is_empty() => "no reason".into(),
                400..500 => return,
                status => format!("status {status}: {}", answer.body.chars().take(300).collect::<String>()),
            }
        }
    };
    findings.add(request.family, &format!("request {number}: {finding}\n    {request}"));
}

/// Looks for entries of any tenant: by query, by table, before and after a flush. In the end a good entry is pushed, so
/// that it is known that it would have been found.
fn nothing_is_stored(client: &Client, data: &Path, findings: &Findings) -> Result<()> {
    let series = || -> Result<usize> {
        let answer = client.get_as(TENANT, "/loki/api/v1/series", &[("since", "7d")])?.json()?;
        Ok(answer["data"].as_array().map_or(0, Vec::len))
    };
    let lines = || -> Result<usize> {
        let parameters = [("query", r#"{a=~".*"}"#), ("since", "7d"), ("limit", "10")];
        let answer = client.get_as(TENANT, "/loki/api/v1/query_range", &parameters)?.json()?;
        Ok(answer["data"]["result"].as_array().map_or(0, Vec::len))
    };
    for when in ["before", "after"] {
        let (series, lines) = (series()?, lines()?);
        if (series, lines) != (0, 0) {
            findings.add("stored", &format!("{series} streams, {lines} with lines, {when} a flush"));
        }
        flush(client)?;
    }
    let tables = tables(data)?;
    if !tables.is_empty() {
        findings.add("stored", &format!("tables of the tenants {tables:?}"));
    }
    let entry = Entry { timestamp: crate::clock::now(), line: "good".into(), metadata: Vec::new() };
    let body = as_json(&[Stream { labels: vec![("a".into(), "b".into())], entries: vec![entry] }])?;
    let answer = client.post_as(TENANT, "/loki/api/v1/push", body.media_type, &body.bytes)?;
    if answer.status != 204 {
        bail!("a good push was refused: {} {}", answer.status, answer.text());
    }
    flush(client)?;
    let found = (series()?, lines()?, tables_of(data)?);
    if found.0 == 0 || found.1 == 0 || found.2 == 0 {
        bail!(
            "a good entry was not found (streams, with lines, tables: {found:?}), so this check means nothing"
        );
    }
    Ok(())
}

fn flush(client: &Client) -> Result<()> {
    let answer = client.post_as(TENANT, "/flush", "text/plain", b"")?;
    if answer.status != 204 {
        bail!("POST /flush: status {}: {}", answer.status, answer.text());
    }
    Ok(())
}

fn tables(data: &Path) -> Result<Vec<String>> {
    let directory = data.join("tables");
    let Ok(entries) = std::fs::read_dir(&directory) else { return Ok(Vec::new()) };
    entries
        .map(|entry| {
            Ok(entry.context("failed to list the tables")?.file_name().to_string_lossy().into_owned())
        })
        .collect()
}

fn tables_of(data: &Path) -> Result<usize> {
    Ok(tables(data)?.iter().filter(|name| *name == TENANT).count())
}

/// One of several.
fn pick<'a, T: ?Sized>(random: &mut Random, among: &[&'a T]) -> &'a T {
    among[random.within(0..among.len() as u64) as usize]
}
