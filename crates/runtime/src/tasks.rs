//! Background work with a name, an owner who waits for it, and a token.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

/// Owns background tasks: starts them, and at shutdown cancels and awaits them, the last started first.
///
/// Clones share the same tasks. A task that panics is logged with its name; the others go on.
#[derive(Clone, Default)]
pub struct Tasks(Arc<Inner>);

#[derive(Default)]
struct Inner {
    token: CancellationToken,
    running: Mutex<Running>,
}

#[derive(Default)]
struct Running {
    next: u64,
    /// By order of start. A task takes itself out when it ends.
    tasks: BTreeMap<u64, Task>,
}

struct Task {
    name: Cow<'static, str>,
    token: CancellationToken,
    /// Absent for the moment between registration and start.
    handle: Option<JoinHandle<()>>,
}

impl Tasks {
    /// No tasks yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A token that is cancelled when all tasks are to end.
    pub fn token(&self) -> CancellationToken {
        self.0.token.child_token()
    }

    /// Starts a task. It should end soon after its token is cancelled; it may end earlier by itself.
    ///
    /// The future is not dropped at shutdown before the deadline, so it may finish what it does. After
    /// [`Tasks::shutdown`] nothing starts any more.
    pub fn spawn<F, Fut>(&self, name: impl Into<Cow<'static, str>>, task: F)
    where
        F: FnOnce(CancellationToken) -> Fut,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let name = name.into();
        let token = self.0.token.child_token();
        if token.is_cancelled() {
            tracing::debug!(task = %name, "not started, the process is shutting down");
            return;
        }
        let future = task(token.clone());
        let mut running = self.0.running.lock();
        let id = running.next;
        running.next += 1;
        running.tasks.insert(id, Task { name: name.clone(), token, handle: None });
        drop(running);
        let guard = EndOfTask { tasks: self.clone(), id, name };
        let handle = tokio::spawn(async move {
            let _guard = guard;
            future.await;
        });
        if let Some(task) = self.0.running.lock().tasks.get_mut(&id) {
            task.handle = Some(handle);
        }
    }

    /// Starts a task that calls `tick` every `period`, for the first time after one period. A tick that takes longer
    /// delays the next. Ticks are not interrupted; cancellation is seen between them.
    pub fn spawn_every<F, Fut>(&self, name: impl Into<Cow<'static, str>>, period: Duration, mut tick: F)
    where
        F: FnMut() -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.spawn(name, move |token| async move {
            let mut interval = tokio::time::interval_at(Instant::now() + period, period);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    biased;
                    () = token.cancelled() => return,
                    _ = interval.tick() => tick().await,
                }
            }
        });
    }

    /// Names of the tasks that run, in order of their start.
    pub fn names(&self) -> Vec<String> {
        self.0.running.lock().tasks.values().map(|t| t.name.to_string()).collect()
    }

    /// Cancels and awaits the tasks one by one, the last started first. Those still running at the deadline are
    /// logged by name, aborted, and returned.
    pub async fn shutdown(&self, deadline: Duration) -> Vec<String> {
        let end = Instant::now() + deadline;
        let mut late = Vec::new();
        loop {
            let Some((_, mut task)) = self.0.running.lock().tasks.pop_last() else { break };
            task.token.cancel();
            let Some(mut handle) = task.handle.take() else { continue };
            // Whoever comes after a late one still gets a moment to notice its token.
            let until = end.max(Instant::now() + Duration::from_millis(100));
            if tokio::time::timeout_at(until, &mut handle).await.is_err() {
                handle.abort();
                tracing::warn!(task = %task.name, deadline = ?deadline, "task did not end in time");
                late.push(task.name.into_owned());
            }
        }
        self.0.token.cancel();
        late
    }
}

/// Takes a task out of the list when its future ends, is aborted, or panics.
struct EndOfTask {
    tasks: Tasks,
    id: u64,
    name: Cow<'static, str>,
}

impl Drop for EndOfTask {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(task = %self.name, "background task panicked and has ended");
        }
        self.tasks.0.running.lock().tasks.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::{Notify, oneshot};

    #[tokio::test]
    async fn stops_in_reverse_order_of_start() {
        let tasks = Tasks::new();
        let order = Arc::new(Mutex::new(Vec::new()));
        for name in ["a", "b", "c"] {
            let order = order.clone();
            tasks.spawn(name, move |token| async move {
                token.cancelled().await;
                tokio::task::yield_now().await;
                order.lock().push(name);
            });
        }
        assert_eq!(tasks.names(), ["a", "b", "c"]);
        assert!(tasks.shutdown(Duration::from_secs(10)).await.is_empty());
        assert_eq!(*order.lock(), ["c", "b", "a"]);
    }

    #[tokio::test(start_paused = true)]
    async fn names_those_who_are_late() {
        let tasks = Tasks::new();
        tasks.spawn("good", |token| async move { token.cancelled().await });
        tasks.spawn("stuck", |_| std::future::pending());
        assert_eq!(tasks.shutdown(Duration::from_secs(1)).await, ["stuck"]);
        tasks.spawn("after", |_| async {});
        assert!(tasks.names().is_empty());
    }

    #[tokio::test]
    async fn forgets_what_has_ended_or_panicked() {
        let tasks = Tasks::new();
        let (done, wait) = oneshot::channel::<()>();
        tasks.spawn("short", |_| async move { drop(done) });
        let _ = wait.await;
        tasks.spawn("broken", |_| async { panic!("on purpose") });
        while !tasks.names().is_empty() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn ticks_until_cancelled() {
        let tasks = Tasks::new();
        let (ticked, count) = (Arc::new(Notify::new()), Arc::new(Mutex::new(0)));
        let (t, c) = (ticked.clone(), count.clone());
        tasks.spawn_every("tick", Duration::from_secs(60), move || {
            *c.lock() += 1;
            t.notify_one();
            std::future::ready(())
        });
        ticked.notified().await;
        ticked.notified().await;
        assert_eq!(*count.lock(), 2);
        assert!(tasks.shutdown(Duration::from_secs(1)).await.is_empty());
    }
}
