//! Reads everything back and compares it with the ledger.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::Value;

use super::ledger::State;
use super::pusher::Shared;
use super::workload::{STREAMS_PER_PUSHER, Workload};
use crate::answer;
use crate::push::Entry;
use crate::random::Random;
use crate::server::Client;

/// Entries per answer; more than that are asked for in smaller ranges of time. Loki's default limit.
const LIMIT: usize = 5000;
/// Entries that a range of time is expected to have when it is first asked for.
const PIECE: usize = 3000;

/// How often each entry was found, and everything that should not have been.
pub(crate) struct Found {
    workload: Workload,
    counts: Vec<BTreeMap<usize, u32>>,
    violations: Vec<String>,
}

impl Found {
    /// Nothing found yet.
    pub(crate) fn new(workload: Workload) -> Self {
        Self { workload, counts: vec![BTreeMap::new(); workload.streams()], violations: Vec::new() }
    }

    /// Notes an entry; its stream's labels, time, line and metadata must be the ones that were sent.
    pub(crate) fn add(&mut self, labels: &Value, entry: &Entry) {
        let known = self.workload.identify(&entry.line).filter(|&(stream, _)| stream < self.counts.len());
        let Some((stream, number)) = known else {
            self.violations.push(format!("never sent: {labels} {entry:?}"));
            return;
        };
        let expected_labels: Value = self
            .workload
            .labels(stream)
            .into_iter()
            .map(|(name, value)| (name, Value::String(value)))
            .collect();
        if *labels != expected_labels {
            self.violations.push(format!("entry {stream}-{number} lies in stream {labels}"));
        }
        let expected = self.workload.entry(stream, number);
        if *entry != expected {
            self.violations
                .push(format!("entry {stream}-{number} changed: {entry:?} instead of {expected:?}"));
        }
        *self.counts[stream].entry(number).or_default() += 1;
    }

    /// How many different entries were found.
    pub(crate) fn len(&self) -> usize {
        self.counts.iter().map(BTreeMap::len).sum()
    }

    /// What is wrong: entries of `before` (acknowledged before the question) from number `since` on that are missing,
    /// entries that were not sent by the time of `after`, and, if `once`, entries that were found more than once.
    pub(crate) fn violations(
        mut self,
        before: &[Vec<State>],
        after: &[Vec<State>],
        since: &[usize],
        once: bool,
    ) -> Vec<String> {
        for (stream, counts) in self.counts.iter().enumerate() {
            let acknowledged = before[stream].iter().enumerate().skip(since[stream]);
            let acknowledged = acknowledged.filter(|(_, state)| **state == State::Acknowledged);
            let missing: Vec<usize> = acknowledged
                .map(|(number, _)| number)
                .filter(|number| !counts.contains_key(number))
                .collect();
            if let Some(first) = missing.first() {
                let count = missing.len();
                self.violations
                    .push(format!("stream {stream}: {count} acknowledged entries lost, first {first}"));
            }
            for (number, count) in counts {
                if *number >= after[stream].len() {
                    self.violations.push(format!("entry {stream}-{number} was never sent"));
                }
                if once && *count > 1 {
                    self.violations.push(format!("entry {stream}-{number} found {count} times"));
                }
            }
        }
        self.violations
    }
}

/// Reads each stream back from entry number `since` on and returns what is wrong and how many entries there are.
/// Pushes may go on meanwhile: what was acknowledged before must be there, what is sent meanwhile may be.
pub(crate) fn read_back(
    shared: &Shared,
    since: &[usize],
    random: &mut Random,
) -> Result<(Vec<String>, usize)> {
    let workload = &shared.workload;
    let before = shared.ledger.snapshot();
    let mut found = Found::new(*workload);
    let direction = if random.percent(50) { "forward" } else { "backward" };
    for (first_of_pusher, operator) in [(true, "=~"), (false, "!~")] {
        // Streams at midnight and streams of the last hour: two ranges of time.
        let streams =
            (0..workload.streams()).filter(|s| s.is_multiple_of(STREAMS_PER_PUSHER) == first_of_pusher);
        let (mut low, mut high, mut expected) = (i64::MAX, i64::MIN, 0);
        for stream in streams {
            low = low.min(workload.range(stream, since[stream]).0);
            high = high.max(workload.range(stream, before[stream].len() + 100_000).1);
            expected += before[stream].len() - since[stream].min(before[stream].len());
        }
        // Beyond what was sent before, there is little: one piece.
        let end = (0..workload.streams()).map(|s| workload.range(s, before[s].len()).1).max().unwrap_or(high);
        let end = end.clamp(low, high);
        let pieces = (expected / PIECE) as i64 + 1;
        let cut = |piece: i64| low + (end - low) / pieces * piece;
        let selector = midnight(workload, operator);
        for piece in 0..pieces {
            read_range(&shared.client, &selector, cut(piece), cut(piece + 1), direction, &mut found)?;
        }
        read_range(&shared.client, &selector, cut(pieces), high, direction, &mut found)?;
    }
    let mut violations = needles(shared, &before, random)?;
    let after = shared.ledger.snapshot();
    let count = found.len();
    violations.extend(found.violations(&before, &after, since, true));
    Ok((violations, count))
}

fn midnight(workload: &Workload, operator: &str) -> String {
    let streams: Vec<String> =
        (0..workload.pushers).map(|pusher| (pusher * STREAMS_PER_PUSHER).to_string()).collect();
    format!("{{job=\"crash-test\",stream{operator}\"{}\"}}", streams.join("|"))
}

/// Reads a range of time, cut in halves until each answer is whole.
fn read_range(
    client: &Client,
    query: &str,
    low: i64,
    high: i64,
    direction: &str,
    found: &mut Found,
) -> Result<()> {
    let answer = ask(client, query, low, high, direction)?;
    let entries = answer::entries(&answer)?;
    if entries.len() < LIMIT || high - low <= 1 {
        for (labels, entry) in &entries {
            if !(low..high).contains(&entry.timestamp) {
                found.violations.push(format!("outside of [{low}, {high}): {entry:?}"));
            }
            found.add(labels, entry);
        }
        return Ok(());
    }
    let middle = low + (high - low) / 2;
    read_range(client, query, low, middle, direction, found)?;
    read_range(client, query, middle, high, direction, found)
}

fn ask(client: &Client, query: &str, low: i64, high: i64, direction: &str) -> Result<Value> {
    let (low, high, limit) = (low.to_string(), high.to_string(), LIMIT.to_string());
    let parameters =
        [("query", query), ("start", &low), ("end", &high), ("limit", &limit), ("direction", direction)];
    client
        .get("/loki/api/v1/query_range", &parameters)?
        .json()
        .with_context(|| format!("{query} [{low}, {high})"))
}

/// Looks for some acknowledged entries by a line filter, as people do: each must be found, once.
fn needles(shared: &Shared, acknowledged: &[Vec<State>], random: &mut Random) -> Result<Vec<String>> {
    let mut violations = Vec::new();
    for _ in 0..5 {
        let stream = random.within(0..shared.workload.streams() as u64) as usize;
        let states = &acknowledged[stream];
        let Some(number) = (!states.is_empty()).then(|| random.within(0..states.len() as u64) as usize)
        else {
            continue;
        };
        let (low, high) = shared.workload.range(stream, number);
        let query = format!("{{job=\"crash-test\"}} |= \"id={stream}-{number} \"");
        let answer = ask(&shared.client, &query, low, high, "backward")?;
        let count = answer::entries(&answer)?.len();
        if count > 1 || (count == 0 && states[number] == State::Acknowledged) {
            violations.push(format!("{query}: found {count} times"));
        }
    }
    Ok(violations)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const WORKLOAD: Workload = Workload { seed: 1, start: 1_790_000_000_000_000_000, pushers: 1 };

    fn check(sent: &[State], found: &[usize], change: impl Fn(&mut Entry)) -> Vec<String> {
        let mut all = Found::new(WORKLOAD);
        for &number in found {
            let mut entry = WORKLOAD.entry(1, number);
            change(&mut entry);
            all.add(&json!({"job": "crash-test", "pusher": "0", "stream": "1"}), &entry);
        }
        let states: Vec<Vec<State>> = vec![vec![], sent.to_vec(), vec![], vec![]];
        all.violations(&states, &states, &[0; 4], true)
    }

    #[test]
    fn acknowledged_entries_must_be_there_and_others_may() {
        use State::{Acknowledged, Sent};
        assert!(check(&[Acknowledged, Sent, Acknowledged], &[0, 2], |_| ()).is_empty());
        assert!(check(&[Acknowledged, Sent, Acknowledged], &[0, 1, 2], |_| ()).is_empty());
        assert_eq!(check(&[Acknowledged, Sent, Acknowledged], &[0, 1], |_| ()).len(), 1);
    }

    #[test]
    fn doubled_invented_and_changed_entries_are_found() {
        let sent = [State::Acknowledged; 2];
        assert_eq!(check(&sent, &[0, 1, 1], |_| ()).len(), 1);
        assert_eq!(check(&sent, &[0, 1, 2], |_| ()).len(), 1);
        assert_eq!(check(&sent, &[0, 1], |entry| entry.line.push('x')).len(), 2);
        assert_eq!(check(&sent, &[0, 1], |entry| entry.timestamp += 1).len(), 2);
    }
}
