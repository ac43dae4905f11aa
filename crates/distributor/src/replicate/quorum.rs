//! Which streams of a push have their quorum, and who may still help those that have not. No I/O.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use skald_cluster::View;
use skald_model::{Error, Kind, Result, StreamId};

/// How often one ingester is tried with a part of a push.
const TRIES: usize = 3;

/// A part of a push for one ingester.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Send {
    /// Its number among the sends of the push.
    pub(super) number: usize,
    /// The ingester's position in the view.
    pub(super) ingester: usize,
    /// Which of the streams it is to store.
    pub(super) streams: Vec<bool>,
    /// Whether it failed there before.
    pub(super) is_retry: bool,
}

/// What is known of a send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Pending,
    /// It has not answered for long, and is not counted on.
    Slow,
    Stored,
    /// All was stored but some entries, which the ingester does not take.
    Refused,
    Failed,
}

/// A push's way to its quorum.
pub(super) struct Quorum {
    view: Arc<View>,
    streams: Vec<StreamId>,
    replicas: Vec<Vec<usize>>,
    /// Ingester and state of each send.
    sends: Vec<(usize, State)>,
    /// The sends that each stream is in.
    tried: Vec<Vec<usize>>,
    /// Why entries were refused.
    refusal: Option<Error>,
    /// Why a send failed.
    failure: Option<Error>,
}

impl Quorum {
    /// For streams with these replicas.
    pub(super) fn new(view: Arc<View>, streams: Vec<StreamId>, replicas: Vec<Vec<usize>>) -> Self {
        let tried = vec![Vec::new(); streams.len()];
        Self { view, streams, replicas, sends: Vec::new(), tried, refusal: None, failure: None }
    }

    /// The sends to the replicas.
    pub(super) fn begin(&mut self) -> Vec<Send> {
        let wanted = std::mem::take(&mut self.replicas);
        self.sends_to(wanted.into_iter().enumerate())
    }

    /// Takes note of an answer.
    pub(super) fn take(&mut self, number: usize, outcome: Result<()>) {
        let (ingester, state) = &mut self.sends[number];
        *state = match outcome {
            Ok(()) => State::Stored,
            Err(e) if e.kind == Kind::InvalidArgument => {
                self.refusal.get_or_insert(e);
                State::Refused
            }
            Err(e) => {
                let name = &self.view.ingesters()[*ingester].name;
                if !is_of_ingester(&e) {
                    // Its words are for the client.
                    self.failure = Some(e);
                } else if self.failure.as_ref().is_none_or(is_of_ingester) {
                    self.failure = Some(e.context(name));
                }
                State::Failed
            }
        };
    }

    /// Counts no longer on those that have not answered.
    pub(super) fn pending_are_slow(&mut self) {
        for (_, state) in &mut self.sends {
            if *state == State::Pending {
                *state = State::Slow;
            }
        }
    }

    /// The answer to the push, once it is known: stored where every stream has a quorum of ingesters that took all of it;
    /// refused where every stream has a quorum, but not without those that refused some of it.
    pub(super) fn outcome(&self) -> Option<Result<()>> {
        let all = |states: &[State]| self.tried.iter().all(|tried| self.has_quorum(tried, states));
        if all(&[State::Stored]) {
            return Some(Ok(()));
        }
        if all(&[State::Stored, State::Refused]) && !all(&[State::Stored, State::Pending]) {
            return self.refusal.clone().map(Err);
        }
        None
    }

    /// The answer when all sends have ended without a quorum.
    pub(super) fn failure(&self) -> Result<()> {
        let too_few = || Error::unavailable("fewer ingesters than a write quorum; the push can be repeated");
        Err(self.failure.clone().unwrap_or_else(too_few))
    }

    /// Sends for the streams that would miss their quorum: to ingesters that were not tried, else again to those that
    /// failed.
    pub(super) fn replace(&mut self) -> Vec<Send> {
        // A limit is no reason to go where it does not hold yet.
        if self.outcome().is_some() || self.failure.as_ref().is_some_and(|e| !is_of_ingester(e)) {
            return Vec::new();
        }
        let counted_on = [State::Stored, State::Refused, State::Pending];
        let mut wanted = Vec::new();
        for (stream, tried) in self.tried.iter().enumerate() {
            let mut places: HashSet<&str> = self.places(tried, &counted_on).collect();
            let mut chosen = Vec::new();
            while places.len() < self.view.write_quorum() {
                let Some(next) = self.next_for(stream, &places, &chosen) else { break };
                places.insert(self.place(next));
                chosen.push(next);
            }
            if !chosen.is_empty() {
                wanted.push((stream, chosen));
            }
        }
        self.sends_to(wanted.into_iter())
    }

    /// Where to send a stream next. Copies in one zone count once, so a zone that has one is passed over.
    fn next_for(&self, stream: usize, places: &HashSet<&str>, chosen: &[usize]) -> Option<usize> {
        let tries = |i: &usize| self.tried[stream].iter().filter(|s| self.sends[**s].0 == *i).count();
        let is_open = |i: &usize| {
            let at_work = |s: &&usize| self.sends[**s].0 == *i && self.sends[**s].1 != State::Failed;
            !chosen.contains(i)
                && !places.contains(self.place(*i))
                && !self.tried[stream].iter().any(|s| at_work(&s))
        };
        let order = self.view.spares(self.streams[stream]);
        let open = order.into_iter().filter(is_open);
        open.map(|i| (tries(&i), i))
            .filter(|(tries, _)| *tries < TRIES)
            .min_by_key(|(tries, _)| *tries)
            .map(|(_, i)| i)
    }

    /// One send for each ingester, of the streams that want it.
    fn sends_to(&mut self, wanted: impl Iterator<Item = (usize, Vec<usize>)>) -> Vec<Send> {
        let mut by_ingester: BTreeMap<usize, Vec<bool>> = BTreeMap::new();
        for (stream, ingesters) in wanted {
            for i in ingesters {
                by_ingester.entry(i).or_insert_with(|| vec![false; self.streams.len()])[stream] = true;
            }
        }
        let mut out = Vec::with_capacity(by_ingester.len());
        for (ingester, streams) in by_ingester {
            let number = self.sends.len();
            let is_retry = self.sends.contains(&(ingester, State::Failed));
            self.sends.push((ingester, State::Pending));
            for (tried, _) in self.tried.iter_mut().zip(&streams).filter(|(_, mine)| **mine) {
                tried.push(number);
            }
            out.push(Send { number, ingester, streams, is_retry });
        }
        out
    }

    fn has_quorum(&self, tried: &[usize], states: &[State]) -> bool {
        self.places(tried, states).collect::<HashSet<_>>().len() >= self.view.write_quorum()
    }

    /// Where those of the sends are whose state is one of `states`.
    fn places<'a>(&'a self, tried: &'a [usize], states: &'a [State]) -> impl Iterator<Item = &'a str> {
        let sends = tried.iter().map(|s| self.sends[*s]);
        sends.filter(|(_, state)| states.contains(state)).map(|(i, _)| self.place(i))
    }

    /// What may be lost as one: a zone where there are enough of them, else an ingester.
    fn place(&self, ingester: usize) -> &str {
        match self.view.is_zoned() {
            true => self.view.zone(ingester),
            false => &self.view.ingesters()[ingester].name,
        }
    }
}

/// Whether an error says how the ingester is, rather than what is wrong with the push.
fn is_of_ingester(error: &Error) -> bool {
    matches!(error.kind, Kind::Unavailable | Kind::Timeout | Kind::Internal | Kind::Cancelled)
}
