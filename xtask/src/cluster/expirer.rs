//! A thread that pushes entries about as old as their streams are kept: some have expired when they arrive, some expire while
//! the test runs, some stay. What has expired must not be seen by anybody, everything else must be seen once. The same entries
//! go to streams without a rule, too, and stay there, so that no block goes as a whole.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::Shared;
use super::checker::ok;
use super::pusher::push_patiently;
use crate::answer;
use crate::clock::now;
use crate::push::{Entry, Stream};
use crate::python::Row;
use crate::random::Random;
use crate::server::Client;

/// The rule, as an item of `limits_config`.
pub(super) const RULE: &str =
    "  retention_stream: [{selector: '{job=\"expiring\", fate=\"goes\"}', priority: 1, period: 24h}]\n";

const SECOND: i64 = 1_000_000_000;
/// What moves cut-offs.
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
/// The shortest that a rule may name.
const PERIOD: i64 = 24 * HOUR;
/// Entries of each push to each fate.
const ENTRIES: usize = 30;

/// Whether a rule matches a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Goes,
    Stays,
}

/// How old entries are when they are pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Age {
    /// They have expired for minutes.
    Old,
    /// The cut-off is about to pass them, or has just done so.
    Due,
    /// They lie in the future, so that none of them is in a block of the others' day: compactors do not rewrite a block for
    /// what has expired of it as long as it has later entries.
    New,
}

/// An entry of both fates.
#[derive(Clone, Copy, Debug)]
struct Aging {
    timestamp: i64,
    age: Age,
    acknowledged: bool,
}

/// What was pushed. The number of an entry is its index.
#[derive(Debug)]
pub(super) struct Expiring {
    entries: Mutex<Vec<Aging>>,
    /// When the last of those that do not stay expires.
    end: i64,
}

impl Expiring {
    /// For a run from `start` (nanoseconds) that takes so long.
    pub(super) fn new(start: i64, length: Duration) -> Self {
        let end = start + length.as_nanos() as i64;
        Self { entries: Mutex::default(), end: (end.div_euclid(MINUTE) + 1) * MINUTE }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Aging>> {
        self.entries.lock().expect("no thread panics with the entries locked")
    }

    /// All that were sent until now.
    fn sent(&self) -> Vec<Aging> {
        self.lock().clone()
    }
}

/// Pushes until it is told to stop.
pub(super) fn run(shared: &Shared) {
    let mut random = Random::new(shared.seed, 0xa6e5);
    while !shared.stopped() {
        if let Err(error) = push(shared, &mut random) {
            return shared.find(format!("pushing what expires: {error:#}"));
        }
        sleep(random.millis(100..1500));
    }
}

fn push(shared: &Shared, random: &mut Random) -> Result<()> {
    let now = now();
    let first = shared.expiring.lock().len();
    let new: Vec<Aging> = (0..ENTRIES).map(|_| aging(shared, now, random)).collect();
    let mut streams = Vec::new();
    for fate in [Fate::Goes, Fate::Stays] {
        for age in [Age::Old, Age::Due, Age::New] {
            let of_age = (first..).zip(&new).filter(|(_, e)| e.age == age);
            let entries: Vec<Entry> = of_age
                .map(|(number, e)| Entry {
                    timestamp: e.timestamp,
                    line: line(shared.seed, number),
                    metadata: Vec::new(),
                })
                .collect();
            let labels = vec![
                ("age".into(), age_label(age)),
                ("fate".into(), label(fate)),
                ("job".into(), "expiring".into()),
            ];
            streams.push(Stream { labels, entries });
        }
    }
    streams.retain(|s| !s.entries.is_empty());
    shared.expiring.lock().extend(new);
    push_patiently(shared, &streams)?;
    shared.expiring.lock()[first..].iter_mut().for_each(|e| e.acknowledged = true);
    Ok(())
}

fn age_label(age: Age) -> String {
    format!("{age:?}").to_lowercase()
}

fn aging(shared: &Shared, now: i64, random: &mut Random) -> Aging {
    let mut within = |from: i64, to: i64| from + random.within(0..(to - from).cast_unsigned()).cast_signed();
    let (age, timestamp) = match within(0, 10) {
        0..3 => (Age::Old, now - PERIOD - within(MINUTE, 10 * MINUTE)),
        // Nothing expires later than the run is long, to the minute, so that compactors come to rest then.
        3..8 => {
            let latest = shared.expiring.end - PERIOD - 1;
            (Age::Due, latest.min(now - PERIOD + within(-MINUTE, MINUTE * 3 / 4)))
        }
        _ => (Age::New, now + HOUR - within(0, MINUTE)),
    };
    Aging { timestamp, age, acknowledged: false }
}

fn label(fate: Fate) -> String {
    format!("{fate:?}").to_lowercase()
}

fn line(seed: u64, number: usize) -> String {
    format!("entry {number} that ages in run {seed}")
}

/// Before which time entries have expired at `now`.
fn cutoff(now: i64) -> i64 {
    now.div_euclid(MINUTE) * MINUTE - PERIOD
}

/// Counts or reads. An `Err` is an answer that did not come.
pub(super) fn check(shared: &Shared, door: &Client, random: &mut Random) -> Result<Option<String>> {
    match random.within(0..4) {
        0 => count(shared, door, Fate::Stays),
        1 => count(shared, door, Fate::Goes),
        2 => read(shared, door, Age::New),
        _ => read(shared, door, Age::Due),
    }
}

/// What an answer must have, and what it may have.
struct Expected {
    least: BTreeSet<usize>,
    most: BTreeSet<usize>,
}

/// Asks, and finds out what the right answers are. While a query goes on, entries are pushed and others expire.
fn ask<T>(
    shared: &Shared,
    fate: Fate,
    of: impl Fn(&Aging) -> bool,
    query: impl FnOnce() -> Result<T>,
) -> Result<(T, Expected)> {
    let numbers = |entries: &[Aging], cutoff: i64, acknowledged: bool| {
        let is_left =
            |e: &Aging| (fate == Fate::Stays || e.timestamp >= cutoff) && (e.acknowledged || !acknowledged);
        let left = entries.iter().enumerate().filter(|(_, e)| of(e) && is_left(e));
        left.map(|(number, _)| number).collect::<BTreeSet<_>>()
    };
    let (sent_before, begin) = (shared.expiring.sent(), now());
    let answer = query()?;
    let (sent_after, end) = (shared.expiring.sent(), now());
    let least = numbers(&sent_before, cutoff(end), true);
    Ok((answer, Expected { least, most: numbers(&sent_after, cutoff(begin), false) }))
}

/// Counts all of one fate.
fn count(shared: &Shared, door: &Client, fate: Fate) -> Result<Option<String>> {
    let now = now();
    let end = (now + 2 * HOUR) / SECOND;
    let length = end - (shared.start - 25 * HOUR) / SECOND;
    let query = format!("sum(count_over_time({{job=\"expiring\", fate=\"{}\"}}[{length}s]))", label(fate));
    let parameters = [("query", query.as_str()), ("time", &end.to_string())];
    let count = || {
        let answer = ok(door.get("/loki/api/v1/query", &parameters)?)?.json()?;
        let counted = answer["data"]["result"][0]["value"][1].as_str().unwrap_or("0");
        counted.parse::<usize>().with_context(|| format!("{counted} is no count"))
    };
    let (counted, Expected { least, most }) = ask(shared, fate, |_| true, count)?;
    let (least, most) = (least.len(), most.len());
    Ok((!(least..=most).contains(&counted))
        .then(|| format!("{query} at {now} is {counted}, {least} to {most} are right")))
}

/// Reads the entries of the last minutes that a rule matches: those about the cut-off, or the newest ones.
fn read(shared: &Shared, door: &Client, age: Age) -> Result<Option<String>> {
    let now = now();
    let range = match age {
        Age::New => now + HOUR - 3 * MINUTE..now + HOUR,
        Age::Old | Age::Due => now - PERIOD - 12 * MINUTE..now - PERIOD + 2 * MINUTE,
    };
    let (start, end) = (range.start.to_string(), range.end.to_string());
    let query = format!("{{job=\"expiring\", fate=\"{}\"}}", label(Fate::Goes));
    let parameters = [("query", query.as_str()), ("start", &start), ("end", &end), ("limit", "5000")];
    let read = || {
        let answer = ok(door.get("/loki/api/v1/query_range", &parameters)?)?.json()?;
        let lines: Vec<String> = answer::entries(&answer)?.into_iter().map(|(_, e)| e.line).collect();
        Ok(lines)
    };
    let (found, expected) = ask(shared, Fate::Goes, |e| range.contains(&e.timestamp), read)?;
    let lines = |numbers: &BTreeSet<usize>| -> BTreeSet<String> {
        numbers.iter().map(|number| line(shared.seed, *number)).collect()
    };
    let (least, most) = (lines(&expected.least), lines(&expected.most));
    let distinct: BTreeSet<String> = found.iter().cloned().collect();
    let missing: Vec<&String> = least.difference(&distinct).collect();
    let excess: Vec<&String> = distinct.difference(&most).collect();
    let twice = found.len() - distinct.len();
    Ok((!missing.is_empty() || !excess.is_empty() || twice > 0).then(|| {
        format!(
            "{query} from {start} to {end} at {now}: {} of {} are missing, {} have expired or were never sent, {twice} are \
             there twice; the first missing {:?}, the first too many {:?}",
            missing.len(),
            least.len(),
            excess.len(),
            missing.first(),
            excess.first()
        )
    }))
}

/// With everything healed: checks until all has expired that does not stay.
pub(super) fn finish(shared: &Shared) -> Result<()> {
    loop {
        let is_over = now() >= shared.expiring.end;
        for door in &shared.doors {
            let found = [
                count(shared, door, Fate::Goes),
                count(shared, door, Fate::Stays),
                read(shared, door, Age::Due),
                read(shared, door, Age::New),
            ];
            for found in found {
                found.context("looking for what has expired")?.into_iter().for_each(|f| shared.find(f));
                shared.answered.fetch_add(1, Ordering::Relaxed);
            }
        }
        if is_over {
            break;
        }
        sleep(Duration::from_millis(500));
    }
    let entries = shared.expiring.sent();
    let stay = entries.iter().filter(|e| e.age == Age::New).count();
    println!(
        "cluster-test: {} entries have expired, {stay} of the same streams have not",
        entries.len() - stay
    );
    Ok(())
}

/// What the table has of them in the end, in which the same row may stand more than once.
pub(super) fn check_rows(shared: &Shared, rows: &[Row]) {
    let entries = shared.expiring.sent();
    for fate in [Fate::Goes, Fate::Stays] {
        let of_fate = rows.iter().filter(|r| r.labels["fate"] == label(fate).as_str());
        let found: BTreeSet<&str> = of_fate.map(|r| r.entry.line.as_str()).collect();
        let stay = || entries.iter().filter(|e| fate == Fate::Stays || e.age == Age::New);
        let (least, most) = (stay().filter(|e| e.acknowledged).count(), stay().count());
        if !(least..=most).contains(&found.len()) {
            let found = found.len();
            let fate = label(fate);
            shared.find(format!("the table has {found} entries of fate {fate}; {least} to {most} are right"));
        }
    }
}

/// What the archive has: all that has expired, and nothing else.
pub(super) fn check_archive(shared: &Shared, rows: &[Row]) {
    let mut lines: Vec<&str> = rows.iter().map(|r| r.entry.line.as_str()).collect();
    lines.sort_unstable();
    let copies = lines.len();
    lines.dedup();
    println!("cluster-test: {copies} rows in the archive for {} entries", lines.len());
    let entries = shared.expiring.sent();
    let expired = (0..).zip(&entries).filter(|(_, e)| e.acknowledged && e.age != Age::New);
    let missing =
        expired.filter(|(n, _)| lines.binary_search(&line(shared.seed, *n).as_str()).is_err()).count();
    if missing > 0 {
        shared.find(format!("{missing} entries have expired and are not in the archive"));
    }
    let new = age_label(Age::New);
    let is_right = |r: &&Row| {
        r.labels["job"] == "expiring"
            && r.labels["fate"] == label(Fate::Goes)
            && r.labels["age"] != new.as_str()
    };
    let wrong: Vec<_> = rows.iter().filter(|r| !is_right(r)).collect();
    if let Some(first) = wrong.first() {
        let count = wrong.len();
        shared.find(format!(
            "the archive has {count} rows that have not expired, such as {} {:?}",
            first.labels, first.entry.line
        ));
    }
}
