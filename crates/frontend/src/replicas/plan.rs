//! Which replica evaluates what: a pure function of what ingesters and table say that they hold.
//!
//! Of each stream, one of these holds:
//!
//! 1. All holders have the same entries (their digests are equal): one of them evaluates it.
//! 2. A write quorum of holders has the same entries, and the answer is sure without the others: one of the quorum
//!    evaluates it. Every entry that was acknowledged before is on a quorum, so on one of these, and what the others have
//!    besides was not acknowledged when they were asked. That is how it is while a push is on its way to a busy stream, and
//!    after an ingester was away for a while.
//! 3. Otherwise those that differ all evaluate it, and their entries are compared one by one.
//!
//! Whoever evaluates a stream that the table has over the same times is compared with the table, too.

use std::collections::{BTreeMap, HashMap, HashSet};

use skald_model::{Digest, StreamId, TimeRange, Timestamp};
use skald_rpc::ingester::StreamInfo;

/// Where entries to be compared lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Side {
    /// In the table.
    Table,
    /// With the ingester of this number among those that answered.
    Ingester(usize),
}

/// What is done where.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Which ingesters evaluate anything, and which of the streams that they hold they leave out.
    pub(crate) evaluated: BTreeMap<usize, HashSet<StreamId>>,
    /// Whose entries of which streams and times are compared.
    pub(crate) compared: BTreeMap<Side, Vec<(StreamId, TimeRange)>>,
    /// Entries of streams that ingesters disagree about, so many at most.
    pub(crate) disputed: u64,
}

/// What is known of a stream at one ingester.
type Holder<'a> = (usize, &'a StreamInfo);

/// Plans for ingesters that hold `held`. `table` tells between which times the table has a stream; `sure_without`, whether
/// the answer is complete without these ingesters; `preference` is the order in which they are asked if there is a choice.
pub(crate) fn plan(
    held: &[&[StreamInfo]],
    table: impl Fn(&StreamInfo) -> Option<(Timestamp, Timestamp)>,
    quorum: usize,
    sure_without: impl Fn(&[usize]) -> bool,
    preference: &[usize],
) -> Plan {
    let rank: HashMap<usize, usize> = preference.iter().enumerate().map(|(at, i)| (*i, at)).collect();
    let by_preference = |i: &usize| rank.get(i).copied().unwrap_or(usize::MAX);
    let mut out = Plan::default();
    let mut evaluators: HashMap<StreamId, Vec<Holder<'_>>> = HashMap::new();
    // Streams that one of several may evaluate.
    let mut open = Vec::new();
    for (stream, holders) in holders(held) {
        match choice(&holders, quorum, &sure_without) {
            Choice::OneOf(same) if same.len() > 1 => open.push((stream, same)),
            Choice::OneOf(only) => {
                evaluators.insert(stream, only);
            }
            Choice::All(mut differing) => {
                // The more preferred of those that have the same.
                differing.sort_by_key(|(i, _)| by_preference(i));
                let mut seen = Vec::new();
                differing.retain(|(_, s)| s.digest == Digest::default() || !known(&mut seen, s.digest));
                out.disputed += differing.iter().map(|(_, s)| s.entries).sum::<u64>();
                evaluators.insert(stream, differing);
            }
        }
    }
    // Who is asked anyway takes what it can; then the others in order of preference.
    let mut asked: HashSet<usize> = evaluators.values().flatten().map(|(i, _)| *i).collect();
    let mut order: Vec<usize> = (0..held.len()).collect();
    order.sort_by_key(|i| (!asked.contains(i), by_preference(i)));
    for next in order {
        open.retain(|(stream, same)| {
            let Some(holder) = same.iter().find(|(i, _)| *i == next) else { return true };
            evaluators.insert(*stream, vec![*holder]);
            asked.insert(next);
            false
        });
    }
    for i in asked {
        let leaves = |s: &&StreamInfo| !evaluators[&s.id].iter().any(|(e, _)| *e == i);
        out.evaluated.insert(i, held[i].iter().filter(leaves).map(|s| s.id).collect());
    }
    for (stream, evaluators) in &evaluators {
        compare(*stream, evaluators, &table, &mut out.compared);
    }
    for streams in out.compared.values_mut() {
        streams.sort_by_key(|(id, range)| (range.start, *id));
    }
    out
}

fn holders<'a>(held: &[&'a [StreamInfo]]) -> BTreeMap<StreamId, Vec<Holder<'a>>> {
    let mut by_stream: BTreeMap<StreamId, Vec<Holder<'a>>> = BTreeMap::new();
    for (i, streams) in held.iter().enumerate() {
        for s in *streams {
            by_stream.entry(s.id).or_default().push((i, s));
        }
    }
    by_stream
}

enum Choice<'a> {
    OneOf(Vec<Holder<'a>>),
    All(Vec<Holder<'a>>),
}

fn choice<'a>(holders: &[Holder<'a>], quorum: usize, sure_without: &impl Fn(&[usize]) -> bool) -> Choice<'a> {
    let agree = |digest: Digest, s: &StreamInfo| s.digest == digest && digest != Digest::default();
    if holders.len() == 1 || holders.iter().all(|(_, s)| agree(holders[0].1.digest, s)) {
        return Choice::OneOf(holders.to_vec());
    }
    let with = |digest| holders.iter().filter(|(_, s)| agree(digest, s)).copied().collect::<Vec<_>>();
    let largest = holders.iter().map(|(_, s)| with(s.digest)).max_by_key(Vec::len).unwrap_or_default();
    if largest.len() >= quorum.max(2) {
        let others = |(i, _): &Holder<'a>| (!largest.iter().any(|(l, _)| l == i)).then_some(*i);
        let others: Vec<usize> = holders.iter().filter_map(others).collect();
        if sure_without(&others) {
            return Choice::OneOf(largest);
        }
    }
    Choice::All(holders.to_vec())
}

fn known(seen: &mut Vec<Digest>, digest: Digest) -> bool {
    let known = seen.contains(&digest);
    if !known {
        seen.push(digest);
    }
    known
}

/// Notes the times over which two sources of a stream have to be compared.
fn compare(
    stream: StreamId,
    evaluators: &[Holder<'_>],
    table: &impl Fn(&StreamInfo) -> Option<(Timestamp, Timestamp)>,
    compared: &mut BTreeMap<Side, Vec<(StreamId, TimeRange)>>,
) {
    let of_memory = evaluators.iter().map(|(i, s)| (Side::Ingester(*i), (s.min_ts, s.max_ts)));
    let of_table = evaluators.first().and_then(|(_, s)| table(s)).map(|times| (Side::Table, times));
    let sources: Vec<_> = of_table.into_iter().chain(of_memory).collect();
    for (side, (min, max)) in &sources {
        let shared = |(other, (a, b)): &(Side, (Timestamp, Timestamp))| {
            let (from, to) = ((*min).max(*a), (*max).min(*b));
            (other != side && from <= to).then_some((from, to))
        };
        let hull = sources.iter().filter_map(shared).reduce(|x, y| (x.0.min(y.0), x.1.max(y.1)));
        if let Some((from, to)) = hull {
            let range = TimeRange::new(from, to.saturating_add(1));
            compared.entry(*side).or_default().push((stream, range));
        }
    }
}

/// The streams of several ingesters, each once: as the one has it that has most of it.
pub(crate) fn once(held: impl IntoIterator<Item = StreamInfo>) -> Vec<StreamInfo> {
    let mut by_labels: BTreeMap<_, StreamInfo> = BTreeMap::new();
    for s in held {
        let best = by_labels.entry(s.labels.clone()).or_insert_with(|| s.clone());
        let times = (best.min_ts.min(s.min_ts), best.max_ts.max(s.max_ts));
        if s.entries > best.entries {
            *best = s;
        }
        (best.min_ts, best.max_ts) = times;
    }
    by_labels.into_values().collect()
}

/// For each ingester the streams that another one has more of, or as much and comes first.
pub(crate) fn counted_elsewhere<T: Copy + Ord>(
    counts: &[impl AsRef<[(StreamId, T)]>],
) -> Vec<HashSet<StreamId>> {
    let mut best: HashMap<StreamId, (T, usize)> = HashMap::new();
    for (i, counts) in counts.iter().enumerate() {
        for (stream, count) in counts.as_ref() {
            let entry = best.entry(*stream).or_insert((*count, i));
            if *count > entry.0 {
                *entry = (*count, i);
            }
        }
    }
    let others = |(i, counts): (usize, &_)| {
        let counts: &[(StreamId, T)] = AsRef::as_ref(counts);
        counts.iter().map(|c| c.0).filter(|s| best[s].1 != i).collect()
    };
    counts.iter().enumerate().map(others).collect()
}
