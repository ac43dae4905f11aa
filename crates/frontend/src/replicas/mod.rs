//! Questions to ingesters, each of which may hold what nothing else has, and of which some may not answer.
//!
//! All ingesters are asked. Those that do not answer, and those that the view knows to be absent, are *lacking*; the query
//! goes on without them as long as what the others say is sure to be complete ([`View::is_sure_without`]). Otherwise it
//! fails and names them, unless the tenant takes partial answers.

mod compare;
mod plan;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt as _};
use parking_lot::Mutex;
use prometheus::IntCounter;
use skald_cluster::View;
use skald_model::{Error, Kind, Result};
use skald_rpc::Ingester;
use tokio::time::Instant;

pub(crate) use self::compare::{COMPARED_MAX, Compared, Identity, exclusions, requests};
pub(crate) use self::plan::{Plan, Side, counted_elsewhere, once, plan};

/// How long the last ones are waited for at least, once the answers of the others suffice. They get as much time again as
/// the others took, if that is more.
const PATIENCE_MIN: Duration = Duration::from_millis(500);
/// How long an ingester that is at work may take to answer whether it is still there.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// What has to be said beside an answer. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Warnings(Arc<Mutex<BTreeSet<String>>>);

impl Warnings {
    fn add(&self, warning: String) {
        self.0.lock().insert(warning);
    }

    /// All of them, each once.
    pub(crate) fn list(&self) -> Vec<String> {
        self.0.lock().iter().cloned().collect()
    }
}

/// How ingesters are asked.
#[derive(Clone, Debug)]
pub(crate) struct Manner {
    /// How long they may take if the query can go on without them.
    pub(crate) timeout: Duration,
    /// Whether the tenant takes partial answers.
    pub(crate) partial: bool,
    /// Where it is said that an answer is partial.
    pub(crate) warnings: Warnings,
    /// Counts the ingesters that were lacking.
    pub(crate) lacked: IntCounter,
}

/// The ingesters that one attempt of a query asks.
pub(crate) struct Replicas {
    view: Arc<View>,
    manner: Manner,
    /// Those that have not answered a question, by position, with the reason.
    lacking: Mutex<BTreeMap<usize, Error>>,
}

impl Replicas {
    pub(crate) fn new(view: Arc<View>, manner: Manner) -> Self {
        Self { view, manner, lacking: Mutex::default() }
    }

    /// The members that are asked.
    pub(crate) fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// Whether there is one ingester that has all that the table does not.
    pub(crate) fn is_single(&self) -> bool {
        self.view.ingesters().len() == 1
            && self.view.replication_factor() == 1
            && self.view.absent().is_empty()
    }

    /// Whether every acknowledged entry is seen without these besides the lacking ones.
    pub(crate) fn is_sure_without(&self, more: &[usize]) -> bool {
        let lacking = self.lacking.lock();
        self.is_sure(lacking.keys().chain(more))
    }

    fn is_sure<'a>(&self, lacking: impl Iterator<Item = &'a usize>) -> bool {
        let present = lacking.map(|i| (&*self.view.ingesters()[*i].name, self.view.zone(*i)));
        let absent = self.view.absent().iter().map(|a| (&*a.name, &*a.zone));
        self.view.is_sure_without(present.chain(absent))
    }

    /// Asks all ingesters but those that were lacking before. The answers come by position in the view.
    pub(crate) async fn ask<T, F>(&self, question: impl Fn(Arc<dyn Ingester>) -> F) -> Result<Vec<(usize, T)>>
    where
        F: Future<Output = Result<T>>,
    {
        self.check()?;
        let asked: Vec<_> = {
            let lacking = self.lacking.lock();
            let there = |i: &usize| !lacking.contains_key(i);
            (0..self.view.ingesters().len()).filter(there).collect()
        };
        let known: Vec<usize> = self.lacking.lock().keys().copied().collect();
        let questions = asked.into_iter().map(|i| (i, question(self.view.ingesters()[i].service.clone())));
        let may_leave = |pending: &[usize]| self.is_sure(known.iter().chain(pending));
        let outcomes = gather(questions, self.manner.timeout, may_leave, self.manner.partial).await;
        let (mut answers, mut lost) = (Vec::with_capacity(outcomes.len()), Vec::new());
        for (position, outcome) in outcomes {
            match outcome {
                Ok(answer) => answers.push((position, answer)),
                Err(error) if is_absence(&error) => lost.push((position, error)),
                Err(error) => return Err(error),
            }
        }
        self.lose(lost)?;
        answers.sort_by_key(|(position, _)| *position);
        Ok(answers)
    }

    /// Asks ingesters for something that each of them has to answer, however long it works. `None` when one was lost
    /// meanwhile and the query can go on without it: then the work has to be divided anew.
    pub(crate) async fn ask_these<T, F>(
        &self,
        questions: impl IntoIterator<Item = (usize, F)>,
    ) -> Result<Option<Vec<(usize, T)>>>
    where
        F: Future<Output = Result<T>>,
    {
        let mut asked: FuturesUnordered<_> = questions
            .into_iter()
            .map(|(position, question)| async move {
                tokio::select! {
                    biased;
                    answer = question => (position, answer),
                    error = self.is_gone(position) => (position, Err(error)),
                }
            })
            .collect();
        let mut answers = Vec::new();
        while let Some((position, outcome)) = asked.next().await {
            match outcome {
                Ok(answer) => answers.push((position, answer)),
                Err(error) if is_absence(&error) => {
                    self.lose(vec![(position, error)])?;
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
        answers.sort_by_key(|(position, _)| *position);
        Ok(Some(answers))
    }

    /// Runs `attempt` until no ingester is lost on its way.
    pub(crate) async fn until_settled<T, F>(&self, mut attempt: impl FnMut() -> F) -> Result<T>
    where
        F: Future<Output = Result<Option<T>>>,
    {
        // Each further attempt has one ingester less.
        for _ in 0..=self.view.ingesters().len() {
            if let Some(outcome) = attempt().await? {
                return Ok(outcome);
            }
        }
        Err(Error::unavailable("ingesters come and go faster than the query can ask them"))
    }

    /// Returns once an ingester that has been at work for long does not answer a small question, either. One that does is
    /// busy, not gone.
    async fn is_gone(&self, position: usize) -> Error {
        let member = &self.view.ingesters()[position];
        loop {
            tokio::time::sleep(self.manner.timeout).await;
            // Who could do its work? Then it is waited for until the query's own deadline.
            if !self.manner.partial && !self.is_sure_without(&[position]) {
                continue;
            }
            match tokio::time::timeout(PROBE_TIMEOUT, member.service.holding()).await {
                Ok(Err(error)) if is_absence(&error) => return error,
                Ok(_) => {}
                Err(_) => return late(self.manner.timeout),
            }
        }
    }

    /// Takes note of ingesters that do not answer; an error when they are too many.
    fn lose(&self, lost: Vec<(usize, Error)>) -> Result<()> {
        for (position, error) in &lost {
            let ingester = &*self.view.ingesters()[*position].name;
            tracing::debug!(ingester, %error, "a query goes on without an ingester");
        }
        self.manner.lacked.inc_by(lost.len() as u64);
        self.lacking.lock().extend(lost);
        self.check()
    }

    fn check(&self) -> Result<()> {
        if self.is_sure_without(&[]) {
            return Ok(());
        }
        let text = self.lacking_text();
        if !self.manner.partial {
            return Err(Error::unavailable(format!(
                "entries may be missing, because too many ingesters do not answer: {text}"
            )));
        }
        self.manner
            .warnings
            .add(format!("the result may be incomplete, because too many ingesters do not answer: {text}"));
        Ok(())
    }

    fn lacking_text(&self) -> String {
        let lacking = self.lacking.lock();
        let named = |(i, error): (&usize, &Error)| format!("{} ({error})", self.view.ingesters()[*i].name);
        let absent = self.view.absent().iter().map(|a| format!("{} (absent)", a.name));
        lacking.iter().map(named).chain(absent).collect::<Vec<_>>().join(", ")
    }
}

/// Whether an error says that somebody is not there, rather than what is wrong with the question.
pub(crate) fn is_absence(error: &Error) -> bool {
    matches!(error.kind, Kind::Unavailable | Kind::Timeout)
}

fn late(timeout: Duration) -> Error {
    Error::new(Kind::Timeout, format!("no answer within {timeout:.1?}"))
}

/// Awaits answers. Those still missing when `timeout` has passed (and, once `may_leave` says that the others suffice, when
/// as much time has passed again) are errors then, if they may be left; otherwise they are waited for.
pub(crate) async fn gather<T, F>(
    questions: impl IntoIterator<Item = (usize, F)>,
    timeout: Duration,
    may_leave: impl Fn(&[usize]) -> bool,
    partial: bool,
) -> Vec<(usize, Result<T>)>
where
    F: Future<Output = Result<T>>,
{
    let begin = Instant::now();
    let mut pending = Vec::new();
    let mut asked = FuturesUnordered::new();
    for (position, question) in questions {
        pending.push(position);
        asked.push(async move { (position, question.await) });
    }
    let (mut out, mut failed) = (Vec::with_capacity(pending.len()), Vec::new());
    let mut patience: Option<Instant> = None;
    while !pending.is_empty() {
        let missing: Vec<usize> = pending.iter().chain(&failed).copied().collect();
        let suffices = may_leave(&missing);
        if suffices && patience.is_none() && !out.is_empty() {
            patience = Some(Instant::now() + begin.elapsed().max(PATIENCE_MIN));
        }
        let end = begin + timeout;
        let until = match suffices || partial {
            true => Some(patience.filter(|_| suffices).map_or(end, |p| p.min(end))),
            false => None,
        };
        tokio::select! {
            biased;
            Some((position, outcome)) = asked.next() => {
                pending.retain(|p| *p != position);
                if outcome.as_ref().is_err_and(is_absence) {
                    failed.push(position);
                }
                let end_of_all = outcome.as_ref().is_err_and(|e| !is_absence(e));
                out.push((position, outcome));
                if end_of_all {
                    return out;
                }
            }
            () = tokio::time::sleep_until(until.unwrap_or(begin)), if until.is_some() => {
                out.extend(pending.drain(..).map(|p| (p, Err(late(begin.elapsed())))));
            }
        }
    }
    out
}
