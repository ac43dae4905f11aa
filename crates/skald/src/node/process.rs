//! What the process tells about itself.

use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use skald_api::Node;
use skald_api::status::ConfigView;
use skald_ingester::Ingester;
use skald_model::TenantId;
use skald_runtime::metrics::BuildInfo;
use skald_runtime::telemetry::LogLevel;

use super::cluster::Cluster;
use crate::build_info;
use crate::config::{Config, Overrides, Shown};

/// How far the process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Starting,
    Running,
    Stopping,
}

/// The process, as its status pages show it.
pub(super) struct Process {
    stage: Mutex<Stage>,
    level: LogLevel,
    config: Config,
    ingester: OnceLock<Arc<Ingester>>,
    cluster: OnceLock<Arc<Cluster>>,
    limits: OnceLock<Arc<Overrides>>,
}

impl Process {
    pub(super) fn new(config: &Config, level: LogLevel) -> Self {
        Self {
            stage: Mutex::new(Stage::Starting),
            level,
            config: config.clone(),
            ingester: OnceLock::new(),
            cluster: OnceLock::new(),
            limits: OnceLock::new(),
        }
    }

    pub(super) fn set(&self, stage: Stage) {
        *self.stage.lock() = stage;
    }

    pub(super) fn set_ingester(&self, ingester: Arc<Ingester>) {
        // It starts once.
        let _ = self.ingester.set(ingester);
    }

    pub(super) fn set_cluster(&self, cluster: Arc<Cluster>) {
        let _ = self.cluster.set(cluster);
    }

    pub(super) fn set_limits(&self, limits: Arc<Overrides>) {
        let _ = self.limits.set(limits);
    }
}

impl Node for Process {
    fn unready(&self) -> Option<String> {
        match *self.stage.lock() {
            Stage::Starting => Some("starting: the write-ahead log is being replayed".into()),
            Stage::Stopping => Some("stopping".into()),
            Stage::Running => {
                let refusing = self.ingester.get().and_then(|i| i.status().refusing);
                refusing.or_else(|| self.cluster.get().and_then(|c| c.unready()))
            }
        }
    }

    fn services(&self) -> Vec<(String, String)> {
        let state = match *self.stage.lock() {
            Stage::Starting => "Starting",
            Stage::Running => "Running",
            Stage::Stopping => "Stopping",
        };
        self.config.target.split(',').map(|t| (t.trim().to_owned(), state.to_owned())).collect()
    }

    fn config(&self, view: ConfigView) -> String {
        match view {
            ConfigView::Effective => self.config.to_yaml(),
            ConfigView::Defaults => Config::default().to_yaml(),
            ConfigView::Diff => self.config.diff_to_yaml(),
        }
    }

    fn tenant_limits(&self, tenant: &TenantId) -> String {
        self.limits.get().map(|l| l.limits_to_yaml(tenant)).unwrap_or_default()
    }

    fn runtime_config(&self, own: bool) -> String {
        let shown = if own { Shown::Own } else { Shown::All };
        self.limits.get().map(|l| l.to_yaml(shown)).unwrap_or_default()
    }

    fn log_level(&self) -> String {
        self.level.get().to_owned()
    }

    fn set_log_level(&self, level: &str) -> Result<(), String> {
        let before = self.level.get();
        self.level.set(level).map_err(|e| e.to_string())?;
        tracing::warn!(before, after = self.level.get(), "log level changed by request");
        Ok(())
    }

    fn build(&self) -> BuildInfo {
        build_info::INFO
    }
}
