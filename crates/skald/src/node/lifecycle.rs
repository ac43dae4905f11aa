//! How the ingester of this process goes: for good, with everything written, or to come back.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use skald_api::cluster::Lifecycle;
use skald_ingester::Ingester;
use skald_model::{Error, Result};
use skald_rpc::Ingester as _;
use tokio::sync::{Mutex, Notify};

use super::cluster::Cluster;

/// A file beside the log that says that the next end of the process is for good.
const MARKER: &str = "shutdown-prepared";
/// From one try to write everything to the next.
const FLUSH_PAUSE: Duration = Duration::from_millis(200);

/// The end of a process.
pub(super) struct Ending {
    ingester: Option<Arc<Ingester>>,
    cluster: Option<Arc<Cluster>>,
    marker: PathBuf,
    /// How long everything may take to be written.
    timeout: Duration,
    /// Told when the process shall end by request.
    terminate: Arc<Notify>,
    /// Whether it has left already.
    left: Mutex<bool>,
}

impl Ending {
    pub(super) fn new(
        ingester: Option<Arc<Ingester>>,
        cluster: Option<Arc<Cluster>>,
        config: &skald_ingester::Config,
        terminate: Arc<Notify>,
    ) -> Self {
        Self {
            ingester,
            cluster,
            marker: config.wal.dir.join(MARKER),
            timeout: config.lifecycler.shutdown_timeout,
            terminate,
            left: Mutex::new(false),
        }
    }

    /// Leaves at the end of the process.
    pub(super) async fn at_end(&self) {
        let by_setting = self.cluster.as_ref().is_some_and(|c| c.lifecycler().unregister_on_shutdown);
        self.leave(by_setting || self.is_shutdown_prepared()).await;
    }

    /// Leaves once: the cluster is told; with `flush` everything is written. Questions are answered until then.
    async fn leave(&self, flush: bool) {
        let mut left = self.left.lock().await;
        if std::mem::replace(&mut *left, true) {
            return;
        }
        if let Some(cluster) = &self.cluster {
            cluster.begin_leaving().await;
        }
        let mut holds = false;
        if let Some(ingester) = &self.ingester {
            // Alone, who pushes is told in time by the server that stops.
            if flush || self.cluster.is_some() {
                ingester.refuse_pushes();
            }
            holds = !(flush && self.write_everything(ingester).await);
        }
        if let Some(cluster) = &self.cluster {
            if self.ingester.is_some()
                && !holds
                && let Err(error) = cluster.deregister().await
            {
                tracing::warn!(error = format!("{error:#}"), "the cluster still counts on this ingester");
                holds = true;
            }
            cluster.end_leaving(holds).await;
        }
        if flush
            && !holds
            && self.marker.exists()
            && let Err(error) = std::fs::remove_file(&self.marker)
        {
            tracing::warn!(%error, file = %self.marker.display(), "failed to remove a file");
        }
    }

    /// Whether everything is in the tables when it returns, within the time for it.
    async fn write_everything(&self, ingester: &Ingester) -> bool {
        let writing = async {
            loop {
                match ingester.flush(None).await {
                    // A push that was let in before may have come to memory after the flush began.
                    Ok(()) if holds_nothing(ingester).await => return,
                    Ok(()) => {}
                    Err(error) => tracing::warn!(%error, "failed to write everything; trying again"),
                }
                tokio::time::sleep(FLUSH_PAUSE).await;
            }
        };
        let done = tokio::time::timeout(self.timeout, writing).await.is_ok();
        if !done {
            tracing::error!(
                timeout = ?self.timeout,
                "not everything was written in time (ingester.lifecycler.shutdown_timeout); the log keeps it, start this \
                 ingester again with it"
            );
        }
        done
    }
}

async fn holds_nothing(ingester: &Ingester) -> bool {
    ingester.holding().await.is_ok_and(|h| h.oldest_stamp.is_none())
}

#[async_trait]
impl Lifecycle for Ending {
    fn is_shutdown_prepared(&self) -> bool {
        self.marker.exists()
    }

    async fn prepare_shutdown(&self, prepared: bool) -> Result<()> {
        let outcome = match prepared {
            true => std::fs::File::create(&self.marker).and_then(|f| f.sync_all()),
            false => match std::fs::remove_file(&self.marker) {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
                other => other,
            },
        };
        outcome.map_err(|e| Error::internal(format!("{}: {e}", self.marker.display())))
    }

    async fn shutdown(&self, flush: bool, terminate: bool) -> Result<()> {
        tracing::info!(flush, terminate, "the ingester is shut down by request");
        self.leave(flush).await;
        if terminate {
            self.terminate.notify_one();
        }
        Ok(())
    }
}
