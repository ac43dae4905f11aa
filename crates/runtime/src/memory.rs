//! Budgets of memory: bytes are reserved before they are used and given back when the last holder lets go.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes of one permit; reservations are rounded up to it.
const UNIT: usize = 64;

/// A budget of bytes.
#[derive(Clone, Debug)]
pub struct Memory {
    permits: Arc<Semaphore>,
    total: usize,
}

/// Bytes of the budget that belong to somebody; given back when this is dropped.
#[derive(Debug)]
pub struct Reservation {
    permit: OwnedSemaphorePermit,
    bytes: usize,
}

impl Memory {
    /// A budget of `bytes`.
    pub fn new(bytes: usize) -> Self {
        let units = bytes / UNIT;
        Self { permits: Arc::new(Semaphore::new(units)), total: units * UNIT }
    }

    /// Bytes in all.
    pub fn total(&self) -> usize {
        self.total
    }

    /// Bytes reserved.
    pub fn used(&self) -> usize {
        self.total - self.permits.available_permits() * UNIT
    }

    /// Reserves `bytes` if they are free and nobody waits for some.
    pub fn try_reserve(&self, bytes: usize) -> Option<Reservation> {
        let permit = self.permits.clone().try_acquire_many_owned(units(bytes)).ok()?;
        Some(Reservation { permit, bytes })
    }

    /// Reserves `bytes` as soon as they are free, first come, first served. `None` if that takes longer than `patience`
    /// or is more than the whole budget.
    pub async fn reserve(&self, bytes: usize, patience: Duration) -> Option<Reservation> {
        if units(bytes) as usize * UNIT > self.total {
            return None;
        }
        let acquired = self.permits.clone().acquire_many_owned(units(bytes));
        let permit = tokio::time::timeout(patience, acquired).await.ok()?.ok()?;
        Some(Reservation { permit, bytes })
    }
}

impl Reservation {
    /// Bytes reserved.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes over what `other`, of the same budget, holds.
    pub fn merge(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.permit.merge(other.permit);
    }

    /// Gives back all but `bytes`; holding less changes nothing.
    pub fn shrink_to(&mut self, bytes: usize) {
        let surplus = self.permit.num_permits().saturating_sub(units(bytes) as usize);
        // What is split off is dropped, and so given back.
        drop(self.permit.split(surplus));
        self.bytes = self.bytes.min(bytes);
    }
}

fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits_for_what_others_give_back() {
        let memory = Memory::new(640);
        let first = memory.try_reserve(600).unwrap();
        assert!(memory.try_reserve(100).is_none());
        assert!(memory.reserve(100, Duration::from_secs(1)).await.is_none(), "gives up after its patience");
        let waiting = tokio::spawn({
            let memory = memory.clone();
            async move { memory.reserve(100, Duration::from_secs(9)).await.is_some() }
        });
        tokio::task::yield_now().await;
        drop(first);
        assert!(waiting.await.unwrap());
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn a_reservation_grows_by_another_one_and_shrinks() {
        let memory = Memory::new(640);
        let mut held = memory.try_reserve(100).unwrap();
        held.merge(memory.try_reserve(300).unwrap());
        assert_eq!((held.bytes(), memory.used()), (400, 128 + 320));
        held.shrink_to(500);
        assert_eq!(held.bytes(), 400);
        held.shrink_to(64);
        assert_eq!((held.bytes(), memory.used()), (64, 64));
        drop(held);
        assert_eq!(memory.used(), 0);
    }

    #[tokio::test]
    async fn more_than_the_budget_is_refused_at_once() {
        assert!(Memory::new(640).reserve(641, Duration::MAX).await.is_none());
    }
}
