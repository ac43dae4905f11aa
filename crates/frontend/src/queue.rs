//! Which task is next: tenants take turns, so that one with many tasks does not keep the others waiting.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus::IntGauge;
use skald_model::{Error, Result, TenantId};
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Grants tasks one of a bounded number of slots. Clones share them.
#[derive(Clone)]
pub(crate) struct Queue {
    turns: Arc<Mutex<Turns<oneshot::Sender<()>>>>,
    waiting_max: usize,
    waiting: IntGauge,
}

/// A slot, until it is dropped.
pub(crate) struct Slot(Queue);

impl Queue {
    /// A queue in which each tenant may have `waiting_max` tasks waiting.
    pub(crate) fn new(waiting_max: usize, waiting: IntGauge) -> Self {
        Self { turns: Arc::default(), waiting_max, waiting }
    }

    /// Waits for one of now `slots` slots. Tells how long it took. Who is dropped while it waits gives its place up.
    pub(crate) async fn enter(&self, tenant: &TenantId, slots: usize) -> Result<(Slot, Duration)> {
        let receiver = {
            let mut turns = self.turns.lock();
            turns.slots = slots.max(1);
            if turns.take_free() {
                return Ok((Slot(self.clone()), Duration::ZERO));
            }
            if turns.waiting(tenant) >= self.waiting_max {
                // Those that gave up are still in line.
                turns.retain(tenant, |ticket| !ticket.is_closed());
            }
            if turns.waiting(tenant) >= self.waiting_max {
                return Err(Error::limit("too many outstanding requests", Duration::from_secs(1)));
            }
            let (ticket, receiver) = oneshot::channel();
            turns.line_up(tenant, ticket);
            receiver
        };
        // There may be more slots than there were.
        self.call_next();
        self.waiting.inc();
        let begin = Instant::now();
        let mut waiting = Waiting { queue: self, receiver };
        let called = (&mut waiting.receiver).await;
        let waited = begin.elapsed();
        match called {
            // Whatever is left in the channel now would be given back.
            Ok(()) => Ok((Slot(self.clone()), waited)),
            Err(_) => Err(Error::internal("a task was forgotten in the queue")),
        }
    }

    fn call_next(&self) {
        let mut turns = self.turns.lock();
        while let Some(ticket) = turns.next() {
            if ticket.send(()).is_err() {
                turns.leave();
            }
        }
    }

    fn leave(&self) {
        self.turns.lock().leave();
        self.call_next();
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// Somebody in line.
struct Waiting<'a> {
    queue: &'a Queue,
    receiver: oneshot::Receiver<()>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.queue.waiting.dec();
        self.receiver.close();
        // Called, and gone before hearing it.
        if self.receiver.try_recv().is_ok() {
            self.queue.leave();
        }
    }
}

/// Who waits, and whose turn it is.
struct Turns<T> {
    slots: usize,
    taken: usize,
    /// Tenants with tasks in line, the next one first.
    order: VecDeque<TenantId>,
    lines: HashMap<TenantId, VecDeque<T>>,
}

impl<T> Default for Turns<T> {
    fn default() -> Self {
        Self { slots: 1, taken: 0, order: VecDeque::new(), lines: HashMap::new() }
    }
}

impl<T> Turns<T> {
    /// Takes a slot if one is free and nobody waits for it.
    fn take_free(&mut self) -> bool {
        let free = self.taken < self.slots && self.order.is_empty();
        self.taken += usize::from(free);
        free
    }

    fn waiting(&self, tenant: &TenantId) -> usize {
        self.lines.get(tenant).map_or(0, VecDeque::len)
    }

    fn line_up(&mut self, tenant: &TenantId, ticket: T) {
        let line = self.lines.entry(tenant.clone()).or_default();
        if line.is_empty() {
            self.order.push_back(tenant.clone());
        }
        line.push_back(ticket);
    }

    fn retain(&mut self, tenant: &TenantId, keep: impl Fn(&T) -> bool) {
        let Some(line) = self.lines.get_mut(tenant) else { return };
        line.retain(keep);
        if line.is_empty() {
            self.lines.remove(tenant);
            self.order.retain(|t| t != tenant);
        }
    }

    /// The first task of the tenant whose turn it is, with a slot, if one is free.
    fn next(&mut self) -> Option<T> {
        if self.taken >= self.slots {
            return None;
        }
        let tenant = self.order.pop_front()?;
        let line = self.lines.get_mut(&tenant)?;
        let ticket = line.pop_front();
        match line.is_empty() {
            true => drop(self.lines.remove(&tenant)),
            false => self.order.push_back(tenant),
        }
        self.taken += usize::from(ticket.is_some());
        ticket
    }

    fn leave(&mut self) {
        self.taken -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;
    use proptest::prelude::*;

    fn tenant(name: &str) -> TenantId {
        TenantId::new(name).unwrap()
    }

    fn queue(waiting_max: usize) -> Queue {
        Queue::new(waiting_max, IntGauge::new("waiting", "Waiting.").unwrap())
    }

    #[test]
    fn tenants_take_turns() {
        let mut turns = Turns::default();
        assert!(turns.take_free() && !turns.take_free());
        for (name, number) in [("a", 1), ("a", 2), ("a", 3), ("b", 1), ("c", 1), ("b", 2)] {
            turns.line_up(&tenant(name), (name, number));
        }
        assert_eq!(turns.next(), None);
        let order = std::iter::from_fn(|| {
            turns.leave();
            turns.next()
        });
        assert_eq!(order.collect::<Vec<_>>(), [("a", 1), ("b", 1), ("c", 1), ("a", 2), ("b", 2), ("a", 3)]);
    }

    #[tokio::test]
    async fn a_line_has_an_end_and_who_gives_up_makes_room() {
        let queue = queue(2);
        let (a, b) = (tenant("a"), tenant("b"));
        let (slot, waited) = queue.enter(&a, 1).await.unwrap();
        assert_eq!(waited, Duration::ZERO);
        let mut first = Box::pin(queue.enter(&a, 1));
        let mut second = Box::pin(queue.enter(&a, 1));
        assert!((&mut first).now_or_never().is_none() && (&mut second).now_or_never().is_none());
        assert_eq!(queue.waiting.get(), 2);
        let refusal = queue.enter(&a, 1).await.err().unwrap();
        assert_eq!(
            (refusal.kind, &*refusal.message),
            (skald_model::Kind::LimitExceeded, "too many outstanding requests")
        );
        let mut other = Box::pin(queue.enter(&b, 1));
        assert!((&mut other).now_or_never().is_none());
        drop(first);
        let mut third = Box::pin(queue.enter(&a, 1));
        assert!((&mut third).now_or_never().is_none(), "there is room in line");
        drop(slot);
        // It was called, and is gone before it has heard it: the next tenant's turn.
        drop(second);
        let slot = (&mut other).now_or_never().unwrap().unwrap();
        drop(slot);
        assert!((&mut third).now_or_never().unwrap().is_ok());
        assert_eq!(queue.waiting.get(), 0);
    }

    #[tokio::test]
    async fn more_slots_are_used_at_once() {
        let queue = queue(10);
        let a = tenant("a");
        let _one = queue.enter(&a, 1).await.unwrap();
        let mut two = Box::pin(queue.enter(&a, 1));
        assert!((&mut two).now_or_never().is_none());
        let mut three = Box::pin(queue.enter(&a, 3));
        assert!((&mut three).now_or_never().unwrap().is_ok());
        assert!((&mut two).now_or_never().unwrap().is_ok());
    }

    proptest! {
        /// Whoever comes, leaves or gives up, no slot is lost and no tenant waits for more than one turn of each other.
        #[test]
        fn no_slot_is_lost(steps in prop::collection::vec((0usize..3, 0usize..8), 1..80), slots in 1usize..4) {
            let queue = queue(100);
            let tenants = ["a", "b", "c"].map(tenant);
            let mut waiting: Vec<futures::future::BoxFuture<'_, Result<(Slot, Duration)>>> = Vec::new();
            let mut running = Vec::new();
            for (what, which) in steps {
                match what {
                    0 => waiting.push(queue.enter(&tenants[which % 3], slots).boxed()),
                    1 if !running.is_empty() => drop(running.swap_remove(which % running.len())),
                    2 if !waiting.is_empty() => drop(waiting.swap_remove(which % waiting.len())),
                    _ => {}
                }
                let mut at = 0;
                while at < waiting.len() {
                    match (&mut waiting[at]).now_or_never() {
                        Some(slot) => {
                            running.push(slot.unwrap().0);
                            drop(waiting.remove(at));
                        }
                        None => at += 1,
                    }
                }
                prop_assert!(running.len() <= slots);
                prop_assert!(waiting.is_empty() || running.len() == slots);
            }
            drop((waiting, running));
            prop_assert_eq!(queue.turns.lock().taken, 0);
        }
    }
}
