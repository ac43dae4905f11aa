//! The promises of the design as invariants: each says what is broken, or nothing.

use std::collections::{BTreeMap, BTreeSet};

use skald_model::{Direction, Timestamp};

use crate::history::{Entry, History};

/// What an invariant says.
pub type Verdict = Result<(), String>;

/// An acknowledged push is never lost: everything acknowledged that no delete request is about is in the table in the end.
pub fn promise_1_acknowledged_is_never_lost(history: &History, stored: &[Entry]) -> Verdict {
    let stored: BTreeSet<u64> = stored.iter().map(|e| e.number).collect();
    let is_lost = |n: &u64| history.stays(*n) && !stored.contains(n);
    let lost: Vec<u64> = history.acknowledged().into_iter().filter(is_lost).collect();
    match lost.is_empty() {
        true => Ok(()),
        false => Err(format!("promise_1_acknowledged_is_never_lost: the table lacks {lost:?}")),
    }
}

/// What a log query was asked.
#[derive(Clone, Debug)]
pub struct Asked {
    /// What was acknowledged before it began.
    pub before: Vec<u64>,
    /// What was deleted before it began.
    pub gone: Vec<u64>,
    /// Its order.
    pub direction: Direction,
    /// Its limit.
    pub limit: usize,
}

/// A query sees every acknowledged entry exactly once: it has what was acknowledged before it began, nothing twice, and
/// nothing that nobody pushed or that was deleted before it began, in its order.
pub fn promise_2_seen_exactly_once(history: &History, asked: &Asked, answer: &[Entry]) -> Verdict {
    let broken = |what: String| Err(format!("promise_2_seen_exactly_once: {what}"));
    let mut seen = BTreeSet::new();
    for entry in answer {
        if !history.was_pushed(entry) {
            return broken(format!("nobody pushed {entry:?}"));
        }
        if !seen.insert(entry.number) {
            return broken(format!("{entry:?} is there twice"));
        }
    }
    let still_gone = history.gone();
    let is_gone = |n: &&u64| asked.gone.binary_search(n).is_ok() && still_gone.binary_search(n).is_ok();
    if let Some(number) = seen.iter().find(is_gone) {
        return broken(format!("entry {number} was deleted"));
    }
    let later = |a: Timestamp, b: Timestamp| match asked.direction {
        Direction::Forward => a > b,
        Direction::Backward => a < b,
    };
    if let Some(pair) = answer.windows(2).find(|p| later(p[0].timestamp, p[1].timestamp)) {
        return broken(format!("{:?} comes before {:?}", pair[0], pair[1]));
    }
    // A full answer may lack what would come after its last entry, and what is beside it.
    let last = answer.last().filter(|_| answer.len() >= asked.limit).map(|e| e.timestamp);
    let reached = |timestamp| last.is_none_or(|last| later(last, timestamp));
    let must = asked.before.iter().map(|number| history.entries()[*number as usize].entry);
    let lacking = |e: &Entry| history.stays(e.number) && reached(e.timestamp) && !seen.contains(&e.number);
    let lacking: Vec<u64> = must.filter(lacking).map(|e| e.number).collect();
    match lacking.is_empty() {
        true => Ok(()),
        false => broken(format!("a query of {} entries lacks {lacking:?}", answer.len())),
    }
}

/// The same of counts: each stream counts at least what was acknowledged before, and at most what was pushed and is not
/// gone.
pub fn promise_2_counted_exactly_once(
    history: &History,
    before: (&[u64], &[u64]),
    range: (Timestamp, Timestamp),
    counts: &BTreeMap<String, u64>,
) -> Verdict {
    for (app, (must, may)) in history.counts(before, range) {
        let counted = counts.get(app).copied().unwrap_or(0);
        if !(must..=may).contains(&counted) {
            return Err(format!(
                "promise_2_seen_exactly_once: {app} counts {counted} entries, but {must} to {may} are right"
            ));
        }
    }
    Ok(())
}

/// What is stored is open: plain Parquet has every row that the blocks say they have, and no row that nobody pushed.
pub fn promise_3_what_is_stored_is_open(history: &History, rows: &Result<Vec<Entry>, String>) -> Verdict {
    let broken = |what: String| Err(format!("promise_3_what_is_stored_is_open: {what}"));
    match rows {
        Err(error) => broken(error.clone()),
        Ok(rows) => match rows.iter().find(|e| !history.was_pushed(e)) {
            Some(entry) => broken(format!("the table has {entry:?}, which nobody pushed")),
            None => Ok(()),
        },
    }
}

/// Memory is bounded: no ingester's entries take more than its budget, and none when the table has everything.
pub fn promise_4_memory_is_bounded(name: &str, used: u64, budget: u64, all_is_stored: bool) -> Verdict {
    let most = if all_is_stored { 0 } else { budget };
    match used <= most {
        true => Ok(()),
        false => Err(format!("promise_4_memory_is_bounded: {name} uses {used} bytes of at most {most}")),
    }
}

/// When everything is compacted the table has each entry once.
pub fn compacted_stores_each_entry_once(stored: &[Entry]) -> Verdict {
    let mut seen = BTreeSet::new();
    match stored.iter().find(|e| !seen.insert(e.number)) {
        None => Ok(()),
        Some(entry) => Err(format!("compacted_stores_each_entry_once: {entry:?} is there twice")),
    }
}

/// Deletes are carried out: in the end the table has nothing that they are about.
pub fn deletes_are_carried_out(history: &History, stored: &[Entry]) -> Verdict {
    let gone = history.gone();
    match stored.iter().find(|e| gone.binary_search(&e.number).is_ok()) {
        None => Ok(()),
        Some(entry) => Err(format!("deletes_are_carried_out: the table still has {entry:?}")),
    }
}

/// In steady state the table has one copy of each entry that was pushed once.
pub fn steady_state_stores_one_copy(history: &History, stored: &[Entry]) -> Verdict {
    let mut copies: BTreeMap<u64, u32> = BTreeMap::new();
    stored.iter().for_each(|e| *copies.entry(e.number).or_default() += 1);
    let once = |number: &u64| history.entries()[*number as usize].pushed == 1;
    let doubled: Vec<_> = copies.iter().filter(|(number, copies)| once(number) && **copies > 1).collect();
    match doubled.is_empty() {
        true => Ok(()),
        false => Err(format!("steady_state_stores_one_copy: entries and their copies {doubled:?}")),
    }
}
