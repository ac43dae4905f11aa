//! What lies between the members: calls take time, get lost on their way there or back, and members freeze.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use skald_ingester::Ingester;
use skald_model::{Error, Kind, Result};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::dice;
use crate::trace::{Trace, note};

/// How long a caller waits for an answer.
const DEADLINE: Duration = Duration::from_secs(10);

/// How reliable calls are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    /// Calls that do not arrive.
    pub lost_requests: f64,
    /// Calls that are carried out and whose answer does not arrive.
    pub lost_answers: f64,
    /// Calls that take up to three seconds longer.
    pub slow: f64,
}

/// The ways between all members. Clones share them.
#[derive(Clone)]
pub(crate) struct Network(Arc<Inner>);

struct Inner {
    trace: Trace,
    weather: Mutex<Weather>,
    ingesters: Mutex<BTreeMap<String, Port>>,
    /// Pairs of a caller and an ingester between which nothing passes.
    cuts: Mutex<Vec<(String, String)>>,
    frozen: Mutex<BTreeSet<String>>,
    /// Told when somebody gets time again. Wakes in the order of waiting, which a watch channel does not.
    thawed: Notify,
}

/// A process that answers at a name.
#[derive(Clone)]
struct Port {
    service: Arc<Ingester>,
    /// The end of the process.
    end: CancellationToken,
}

impl Network {
    pub(crate) fn new(trace: Trace) -> Self {
        Self(Arc::new(Inner {
            trace,
            weather: Mutex::default(),
            ingesters: Mutex::default(),
            cuts: Mutex::default(),
            frozen: Mutex::default(),
            thawed: Notify::new(),
        }))
    }

    pub(crate) fn set_weather(&self, weather: Weather) {
        *self.0.weather.lock() = weather;
    }

    /// `service` answers at `name` until `end`.
    pub(crate) fn open(&self, name: &str, service: Arc<Ingester>, end: CancellationToken) {
        self.0.ingesters.lock().insert(name.to_owned(), Port { service, end });
    }

    /// Nobody answers at `name` any more; calls under way are cut off.
    pub(crate) fn close(&self, name: &str) {
        if let Some(port) = self.0.ingesters.lock().remove(name) {
            port.end.cancel();
        }
    }

    /// Nothing passes between the two from now on.
    pub(crate) fn cut(&self, caller: &str, ingester: &str) {
        self.0.cuts.lock().push((caller.to_owned(), ingester.to_owned()));
    }

    /// All calls arrive again, and nobody is frozen.
    pub(crate) fn heal(&self) {
        self.0.cuts.lock().clear();
        self.set_weather(Weather::default());
        self.0.frozen.lock().clear();
        self.0.thawed.notify_waiters();
    }

    /// Whether the process of `name` gets no time.
    pub(crate) fn freeze(&self, name: &str, frozen: bool) {
        match frozen {
            true => drop(self.0.frozen.lock().insert(name.to_owned())),
            false => drop(self.0.frozen.lock().remove(name)),
        }
        self.0.thawed.notify_waiters();
    }

    /// Returns when the process of `name` gets time.
    pub(crate) async fn awake(&self, name: &str) {
        loop {
            let thawed = self.0.thawed.notified();
            if !self.0.frozen.lock().contains(name) {
                return;
            }
            thawed.await;
        }
    }

    /// Lets `caller` call the ingester `name`.
    pub(crate) async fn call<T, F: Future<Output = Result<T>>>(
        &self,
        (caller, name): (&str, &str),
        what: &str,
        work: impl FnOnce(Arc<Ingester>) -> F,
    ) -> Result<T> {
        let call = self.carry((caller, name), what, work);
        let late = |_| Err(Error::new(Kind::Unavailable, format!("{name} has not answered in time")));
        let outcome = tokio::time::timeout(DEADLINE, call).await.unwrap_or_else(late);
        let text = match &outcome {
            Ok(_) => "ok",
            Err(error) => error.message.as_str(),
        };
        note!(self.0.trace, "{caller} -> {name} {what}: {text}");
        outcome
    }

    async fn carry<T, F: Future<Output = Result<T>>>(
        &self,
        (caller, name): (&str, &str),
        what: &str,
        work: impl FnOnce(Arc<Ingester>) -> F,
    ) -> Result<T> {
        let weather = *self.0.weather.lock();
        let lost = |what: &str| Err(Error::unavailable(format!("{what} was lost")));
        tokio::time::sleep(delay(weather)).await;
        let is_cut = || self.0.cuts.lock().iter().any(|(a, b)| a == caller && b == name);
        if is_cut() || dice::chance(weather.lost_requests) {
            tokio::time::sleep(dice::between(0, 2000)).await;
            return lost("the request");
        }
        self.awake(name).await;
        let port = self.0.ingesters.lock().get(name).cloned();
        let Some(Port { service, end }) = port else {
            return Err(Error::unavailable(format!("{name} refuses the connection")));
        };
        let answer = async {
            note!(self.0.trace, "{name} begins with {what} of {caller}");
            let outcome = work(service).await;
            self.awake(name).await;
            tokio::time::sleep(delay(weather)).await;
            outcome
        };
        let outcome = tokio::select! {
            biased;
            () = end.cancelled() => return lost("the connection"),
            outcome = answer => outcome,
        };
        if is_cut() || dice::chance(weather.lost_answers) {
            return lost("the answer");
        }
        outcome
    }
}

fn delay(weather: Weather) -> Duration {
    match dice::chance(weather.slow) {
        true => dice::between(1, 3000),
        false => dice::between(1, 20),
    }
}
