//! Tasks to queriers: each goes to the one that is likely to have its blocks cached, to the next when that one is busy or
//! gone, and waits for its tenant's turn when all are busy.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;

use parking_lot::Mutex;
use skald_cluster::View;
use skald_cluster::topology::Member;
use skald_model::{Error, Kind, Result, TenantId};
use skald_rpc::Querier;

use crate::queue::Queue;

/// How many queriers a task is tried at.
const TRIES: usize = 3;

/// The way to queriers. Clones share it.
#[derive(Clone)]
pub(crate) struct Queriers {
    queue: Queue,
    /// Tasks at each querier, by name.
    at_work: Arc<Mutex<HashMap<String, usize>>>,
    /// Tasks that a querier gets at a time.
    tasks_max: usize,
}

/// Where a task goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route<'a> {
    /// Whose it is.
    pub(crate) tenant: &'a TenantId,
    /// Tasks with one key go to one querier.
    pub(crate) key: &'a str,
    /// Parts of one task go to different queriers, the best one for part 0.
    pub(crate) part: usize,
}

impl Queriers {
    pub(crate) fn new(queue: Queue, tasks_max: usize) -> Self {
        Self { queue, at_work: Arc::default(), tasks_max: tasks_max.max(1) }
    }

    /// Runs a task, and tells how many seconds it waited for its turn.
    ///
    /// Whether a querier that cannot be reached has begun with a task does not matter: tasks change nothing.
    pub(crate) async fn run<T, F>(
        &self,
        view: &View,
        route: Route<'_>,
        task: impl Fn(Arc<dyn Querier>) -> F,
    ) -> Result<(T, f64)>
    where
        F: Future<Output = Result<T>>,
    {
        let mut untried = view.queriers_for(route.key);
        if untried.is_empty() {
            return Err(Error::unavailable("no querier is known yet; the query can be repeated"));
        }
        let count = untried.len();
        untried.rotate_left(route.part % count);
        let (_slot, waited) = self.queue.enter(route.tenant, self.tasks_max.saturating_mul(count)).await?;
        let mut outcome = Err(Error::internal("a task was not tried"));
        for _ in 0..TRIES.min(count) {
            let member = untried.remove(self.choose(&untried));
            let at_work = AtWork::new(self, &member.name);
            outcome = task(member.service.clone()).await;
            drop(at_work);
            match &outcome {
                Err(error) if error.kind == Kind::Unavailable => {
                    tracing::debug!(querier = member.name, %error, "a task is tried at another querier");
                }
                _ => break,
            }
        }
        outcome.map(|value| (value, waited.as_secs_f64()))
    }

    /// The first that is not busy; if all are, the one with the fewest tasks.
    fn choose(&self, members: &[&Member<dyn Querier>]) -> usize {
        let at_work = self.at_work.lock();
        let tasks = |m: &&Member<dyn Querier>| at_work.get(&m.name).copied().unwrap_or(0);
        let free = members.iter().position(|m| tasks(m) < self.tasks_max);
        let least = || (0..members.len()).min_by_key(|i| tasks(&members[*i]));
        free.or_else(least).unwrap_or(0)
    }
}

/// A task at a querier, until it is dropped.
struct AtWork {
    queriers: Queriers,
    name: String,
}

impl AtWork {
    fn new(queriers: &Queriers, name: &str) -> Self {
        *queriers.at_work.lock().entry(name.to_owned()).or_default() += 1;
        Self { queriers: queriers.clone(), name: name.to_owned() }
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        let mut at_work = self.queriers.at_work.lock();
        if let Some(tasks) = at_work.get_mut(&self.name) {
            *tasks -= 1;
            if *tasks == 0 {
                at_work.remove(&self.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fakes::{Blocks, tenant, view};
    use futures::FutureExt as _;
    use prometheus::IntGauge;
    use skald_rpc::querier::BlockStreamsRequest;
    use tokio::sync::Semaphore;

    fn queriers(tasks_max: usize) -> Queriers {
        Queriers::new(Queue::new(10, IntGauge::new("waiting", "Waiting.").unwrap()), tasks_max)
    }

    async fn ask(querier: Arc<dyn Querier>) -> Result<usize> {
        let request = BlockStreamsRequest {
            tenant: tenant(),
            blocks: Vec::new(),
            range: skald_model::TimeRange::ALL,
            selectors: Vec::new(),
            removals: None,
        };
        Ok(querier.streams(request).await?.len())
    }

    fn asked(members: &[Arc<Blocks>]) -> Vec<usize> {
        members.iter().map(|m| m.asked.lock().len()).collect()
    }

    #[tokio::test]
    async fn a_task_of_a_querier_that_is_gone_goes_to_another() {
        let members = [(); 4].map(|()| Arc::new(Blocks::default()));
        let view = view(&[], &members, 1, &[]);
        let (queriers, tenant) = (queriers(1), tenant());
        let route = Route { tenant: &tenant, key: "k", part: 0 };
        queriers.run(&view, route, ask).await.unwrap();
        queriers.run(&view, route, ask).await.unwrap();
        let best = asked(&members).iter().position(|n| *n == 2).expect("always the same");
        *members[best].is_down.lock() = true;
        queriers.run(&view, route, ask).await.unwrap();
        assert_eq!(asked(&members).iter().sum::<usize>(), 4);
        for m in &members {
            *m.is_down.lock() = true;
        }
        let error = queriers.run(&view, route, ask).await.unwrap_err();
        assert_eq!(error.kind, Kind::Unavailable);
        assert_eq!(asked(&members).iter().sum::<usize>(), 4 + TRIES);
        assert!(queriers.at_work.lock().is_empty());
        // What is wrong with the question is wrong everywhere.
        let wrong = |_| async { Err::<(), _>(Error::invalid("no")) };
        assert_eq!(queriers.run(&view, route, wrong).await.unwrap_err().message, "no");
    }

    #[tokio::test]
    async fn a_busy_querier_passes_to_the_next_and_then_tasks_wait() {
        let gate = Arc::new(Semaphore::new(0));
        let members = [(); 2].map(|()| Arc::new(Blocks { gate: Some(gate.clone()), ..Blocks::default() }));
        let view = view(&[], &members, 1, &[]);
        let (queriers, tenant) = (queriers(2), tenant());
        let route = Route { tenant: &tenant, key: "k", part: 0 };
        let mut tasks: Vec<_> = (0..5).map(|_| queriers.run(&view, route, ask).boxed()).collect();
        for task in &mut tasks {
            assert!(task.now_or_never().is_none());
        }
        assert_eq!(asked(&members), [2, 2]);
        // Who goes away makes room.
        drop(tasks.remove(0));
        assert!((&mut tasks[3]).now_or_never().is_none());
        assert_eq!(asked(&members).iter().sum::<usize>(), 5);
        gate.add_permits(4);
        futures::future::try_join_all(tasks).await.unwrap();
        assert!(queriers.at_work.lock().is_empty());
    }

    #[tokio::test]
    async fn parts_of_a_task_go_to_different_queriers() {
        let members = [(); 3].map(|()| Arc::new(Blocks::default()));
        let view = view(&[], &members, 1, &[]);
        let (queriers, tenant) = (queriers(8), tenant());
        for part in 0..3 {
            queriers.run(&view, Route { tenant: &tenant, key: "k", part }, ask).await.unwrap();
        }
        assert_eq!(asked(&members), [1, 1, 1]);
    }
}
