//! Limits of single tenants from `runtime_config.file`, read again while the process runs.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use prometheus::{IntGauge, Registry};
use serde_json::{Map, Value};
use skald_model::limits::TenantLimits;
use skald_model::{Limits, TenantId};
use skald_runtime::Tasks;

use super::{Config, Error, LimitsSection, RuntimeConfig, as_tree, keys, layer, read, yaml_of};

/// Tells the limits of each tenant. A file that cannot be read or is wrong changes nothing: the last good one counts.
pub(crate) struct Overrides {
    base: LimitsSection,
    files: Vec<PathBuf>,
    tenants: parking_lot::RwLock<Arc<Tenants>>,
    good: IntGauge,
}

#[derive(Default)]
struct Tenants {
    /// The files as they were, to see whether they have changed.
    text: Vec<String>,
    limits: HashMap<TenantId, Arc<Limits>>,
    /// What is not as for all, as it stands in the files.
    changes: BTreeMap<TenantId, Changes>,
}

/// How `/runtime_config` shows the limits of tenants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    /// All limits of each tenant that has some of its own.
    All,
    /// Only those that are its own.
    Own,
}

impl Overrides {
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// When one of them cannot be read or is wrong: at start nothing good is there to go on with.
    pub(crate) fn load(
        base: LimitsSection,
        config: &RuntimeConfig,
        registry: &Registry,
    ) -> Result<Arc<Self>, Error> {
        let files =
            config.file.split(',').map(str::trim).filter(|f| !f.is_empty()).map(PathBuf::from).collect();
        let good = IntGauge::new(
            "loki_runtime_config_last_reload_successful",
            "Whether the last reading of runtime_config.file succeeded.",
        )
        .and_then(|g| registry.register(Box::new(g.clone())).map(|()| g))
        .map_err(|e| Error(e.to_string()))?;
        let this = Self { base, files, tenants: Default::default(), good };
        this.reload()?;
        Ok(Arc::new(this))
    }

    /// Reads the files again every `period`.
    pub(crate) fn watch(self: Arc<Self>, tasks: &Tasks, period: std::time::Duration) {
        if self.files.is_empty() || period.is_zero() {
            return;
        }
        let mut last_error = String::new();
        tasks.spawn_every("runtime-config", period, move || {
            match self.reload() {
                Ok(false) => {}
                Ok(true) => {
                    last_error.clear();
                    tracing::info!(tenants = self.tenants.read().limits.len(), "read new limits of tenants");
                }
                // Once per error, not once per period.
                Err(error) if error.0 != last_error => {
                    tracing::error!(%error, "runtime_config.file is not usable, the limits stay as they were");
                    last_error = error.0;
                }
                Err(_) => {}
            }
            std::future::ready(())
        });
    }

    /// The limits of one tenant as YAML.
    pub(crate) fn limits_to_yaml(&self, tenant: &TenantId) -> String {
        yaml_of(&Value::Object(LimitsSection::to_text(&self.of(tenant))))
    }

    /// The limits of all tenants that have some of their own, as YAML.
    pub(crate) fn to_yaml(&self, shown: Shown) -> String {
        let tenants = self.tenants.read().clone();
        let limits = |(tenant, changes): (&TenantId, &Changes)| {
            let shown = match shown {
                Shown::All => LimitsSection::to_text(&self.of(tenant)),
                Shown::Own => changes.clone(),
            };
            (tenant.to_string(), Value::Object(shown))
        };
        let overrides: Map<String, Value> = tenants.changes.iter().map(limits).collect();
        yaml_of(&Value::Object(Map::from_iter([("overrides".to_owned(), Value::Object(overrides))])))
    }

    /// Whether there was something new.
    fn reload(&self) -> Result<bool, Error> {
        let outcome = self.read_files();
        self.good.set(i64::from(outcome.is_ok()));
        let Some(tenants) = outcome? else { return Ok(false) };
        *self.tenants.write() = Arc::new(tenants);
        Ok(true)
    }

    fn read_files(&self) -> Result<Option<Tenants>, Error> {
        let text = self.files.iter().map(|f| read(f)).collect::<Result<Vec<_>, _>>()?;
        if self.tenants.read().text == text {
            return Ok(None);
        }
        let mut changes = BTreeMap::<TenantId, Changes>::new();
        for (file, text) in self.files.iter().zip(&text) {
            for (tenant, limits) in parse(file, text)? {
                changes.entry(tenant).or_default().extend(limits);
            }
        }
        let mut limits = HashMap::new();
        for (tenant, changes) in &changes {
            let all =
                self.base.with(changes).map_err(|e| Error(format!("overrides of tenant {tenant}: {e}")))?;
            limits.insert(tenant.clone(), Arc::new(all));
        }
        Ok(Some(Tenants { text, limits, changes }))
    }
}

impl TenantLimits for Overrides {
    fn of(&self, tenant: &TenantId) -> Arc<Limits> {
        self.tenants.read().limits.get(tenant).unwrap_or(&self.base.0).clone()
    }
}

/// Limits of a tenant that are not as for all, as they stand in the file.
type Changes = Map<String, Value>;

/// The changed limits of each tenant in a file.
fn parse(file: &Path, text: &str) -> Result<Vec<(TenantId, Changes)>, Error> {
    let name = file.display();
    let fail = |text: String| Error(format!("{name}: {text}"));
    let Value::Object(tree) = layer::parse_yaml(text).map_err(fail)? else { return Ok(Vec::new()) };
    // `configs` and the like switch logging of single tenants on, which Skald does not have.
    let ignored = ["configs", "multi_kv_config"];
    if let Some(other) = tree.keys().find(|k| *k != "overrides" && !ignored.contains(&k.as_str())) {
        return Err(fail(format!("unknown key {other}; expected overrides")));
    }
    let overrides = match tree.get("overrides") {
        None => return Ok(Vec::new()),
        Some(Value::Object(map)) => map,
        Some(_) => return Err(fail("overrides: expected tenants with their limits".into())),
    };
    let defaults = as_tree(&Config::default());
    let mut tenants = Vec::new();
    for (tenant, limits) in overrides {
        let place = format!("overrides.{tenant}");
        let id = TenantId::new(tenant).map_err(|e| fail(format!("{place}: {e}")))?;
        let mut limits = Value::Object(Map::from_iter([("limits_config".to_owned(), limits.clone())]));
        let unused = keys::check(&mut limits, &defaults)
            .map_err(|e| fail(e.replace("limits_config.", &format!("{place}."))))?;
        if !unused.is_empty() {
            let keys = unused.join(", ").replace("limits_config.", "");
            tracing::warn!(file = %name, tenant, keys, "limits that have no effect in Skald");
        }
        match limits.get("limits_config") {
            Some(Value::Object(map)) => tenants.push((id, map.clone())),
            _ => return Err(fail(format!("{place}: expected limits with their values"))),
        }
    }
    Ok(tenants)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(id: &str) -> TenantId {
        TenantId::new(id).unwrap()
    }

    fn overrides(file: &Path) -> Result<Arc<Overrides>, Error> {
        let config = RuntimeConfig { file: file.display().to_string(), ..RuntimeConfig::default() };
        Overrides::load(LimitsSection::default(), &config, &Registry::new())
    }

    #[test]
    fn tenants_have_limits_of_their_own_and_the_last_good_file_counts() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("overrides.yaml");
        std::fs::write(
            &file,
            "overrides:\n  a:\n    max_line_size: 1KB\n    retention_period: 24h\n  \"7\": {}\n",
        )
        .unwrap();
        let limits = overrides(&file).unwrap();
        assert_eq!(limits.of(&tenant("a")).max_line_size, 1024);
        assert_eq!(limits.of(&tenant("b")).max_line_size, 256 << 10);
        assert_eq!(limits.of(&tenant("a")).query_timeout, limits.of(&tenant("b")).query_timeout);

        assert!(limits.limits_to_yaml(&tenant("a")).contains("\nmax_line_size: 1KB\n"));
        assert_eq!(limits.of(&tenant("a")).retention_period, 86_400_000_000_000);
        assert_eq!(
            limits.to_yaml(Shown::Own),
            "overrides:\n  '7': {}\n  a:\n    max_line_size: 1KB\n    retention_period: 24h\n"
        );
        assert!(limits.to_yaml(Shown::All).contains("query_timeout: 1m"));

        assert!(!limits.reload().unwrap());
        std::fs::write(&file, "overrides:\n  a:\n    max_line_sise: 2KB\n").unwrap();
        let error = limits.reload().unwrap_err().to_string();
        assert!(error.contains("overrides.a.max_line_sise") && error.contains("max_line_size"), "{error}");
        assert_eq!(limits.good.get(), 0);
        assert_eq!(limits.of(&tenant("a")).max_line_size, 1024);

        std::fs::write(&file, "overrides:\n  a:\n    max_line_size: 2KB\n").unwrap();
        assert!(limits.reload().unwrap());
        assert_eq!(limits.of(&tenant("a")).max_line_size, 2048);
        assert_eq!(limits.good.get(), 1);
    }

    #[test]
    fn files_are_merged_and_sections_changed_key_by_key() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one.yaml"), dir.path().join("two.yaml"));
        std::fs::write(&one, "overrides: {a: {max_line_size: 1KB, shard_streams: {enabled: false}}}")
            .unwrap();
        std::fs::write(&two, "overrides: {a: {max_line_size: 2KB}, b: {policy_enforced_labels: {p: [x]}}}")
            .unwrap();
        let file = format!("{},{}", one.display(), two.display());
        let config = RuntimeConfig { file, ..RuntimeConfig::default() };
        let limits = Overrides::load(LimitsSection::default(), &config, &Registry::new()).unwrap();
        let (a, b) = (limits.of(&tenant("a")), limits.of(&tenant("b")));
        assert_eq!((a.max_line_size, a.shard_streams.enabled), (2048, false));
        assert_eq!(a.shard_streams.desired_rate, 1536 << 10);
        assert_eq!(b.policy_enforced_labels["p"], ["x"]);
    }

    #[test]
    fn a_file_that_is_wrong_at_start_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert!(overrides(&dir.path().join("missing.yaml")).is_err());
        let file = dir.path().join("wrong.yaml");
        for text in [
            "overrides: 7",
            "tenants: {}",
            "overrides: {a/b: {}}",
            "overrides: {a: 1}",
            "overrides: {a: {query_timeout: x}}",
        ] {
            std::fs::write(&file, text).unwrap();
            assert!(overrides(&file).is_err(), "{text}");
        }
    }
}
