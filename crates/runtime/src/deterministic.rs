//! Blocking work and random numbers, and how a simulation takes both over.
//!
//! Services do their blocking work by [`blocking`] and draw what must differ between processes by [`random`]. On a thread
//! that holds a [`Deterministic`], work runs at once on that thread and numbers come from a seed, so that the same seed
//! gives the same run.

use std::cell::Cell;
use std::future::Future;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::task::{JoinError, JoinHandle};

thread_local! {
    /// Where the sequence of numbers stands, if the thread is deterministic.
    static SEQUENCE: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Makes this thread deterministic as long as it lives.
#[derive(Debug)]
#[must_use]
pub struct Deterministic {
    before: Option<u64>,
    _of_one_thread: PhantomData<*const ()>,
}

impl Deterministic {
    /// Numbers come from `seed` from now on.
    pub fn enter(seed: u64) -> Self {
        Self { before: SEQUENCE.replace(Some(seed)), _of_one_thread: PhantomData }
    }

    /// Whether this thread is deterministic, and must not hand anything to other threads.
    pub fn is_on() -> bool {
        SEQUENCE.get().is_some()
    }
}

impl Drop for Deterministic {
    fn drop(&mut self) {
        SEQUENCE.set(self.before);
    }
}

/// A number that differs from process to process and from call to call. Not a secret.
pub fn random() -> u64 {
    match SEQUENCE.get() {
        Some(state) => {
            // The step and the mixing function of splitmix64.
            let next = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            SEQUENCE.set(Some(next));
            let z = (next ^ (next >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        }
        // From the keys that the standard library seeds its hash maps with.
        None => RandomState::new().build_hasher().finish(),
    }
}

/// Runs `work`, which may block, on a thread for such work. It begins at once and is not cancelled when the future is
/// dropped. The error is that of a panic, or of a runtime that ends.
pub fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Blocking<T> {
    match Deterministic::is_on() {
        true => Blocking(Place::Here { result: Some(work()), has_yielded: false }),
        false => Blocking(Place::Thread(tokio::task::spawn_blocking(work))),
    }
}

/// Blocking work under way.
#[derive(Debug)]
#[must_use]
pub struct Blocking<T>(Place<T>);

#[derive(Debug)]
enum Place<T> {
    Thread(JoinHandle<T>),
    Here { result: Option<T>, has_yielded: bool },
}

impl<T> Unpin for Blocking<T> {}

impl<T> Future for Blocking<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Place::Thread(handle) => Pin::new(handle).poll(context),
            // Others get their turn here, as they do while a thread works.
            Place::Here { has_yielded, .. } if !*has_yielded => {
                *has_yielded = true;
                context.waker().wake_by_ref();
                Poll::Pending
            }
            Place::Here { result, .. } => match result.take() {
                Some(result) => Poll::Ready(Ok(result)),
                None => Poll::Pending,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_goes_to_another_thread_unless_this_one_is_deterministic() {
        let here = std::thread::current().id();
        let thread = || std::thread::current().id();
        assert_ne!(blocking(thread).await.unwrap(), here);
        let guard = Deterministic::enter(1);
        assert_eq!(blocking(thread).await.unwrap(), here);
        drop(guard);
        assert!(!Deterministic::is_on());
    }

    #[test]
    fn one_seed_gives_one_sequence() {
        let numbers = |seed| {
            let _guard = Deterministic::enter(seed);
            [random(), random()]
        };
        let [first, second] = numbers(7);
        assert_eq!(numbers(7), [first, second]);
        assert!(first != second && numbers(8) != [first, second]);
        assert_ne!(random(), random());
    }
}
