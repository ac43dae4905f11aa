//! Limits of single tenants from `runtime_config.file`, read again while the process runs.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use prometheus::{IntGauge, Registry};
use serde_json::{Map, Value};
use skald_model::limits::TenantLimits;
use skald_model::{Limits, TenantId};
use skald_runtime::reload::{Reloaded, Source};
use skald_runtime::{Instruments, Tasks};

use super::{Config, Error, LimitsSection, RuntimeConfig, as_tree, keys, layer, read, yaml_of};

/// Tells the limits of each tenant. A file that cannot be read or is wrong changes nothing: the last good one counts.
pub(crate) struct Overrides(Arc<Reloaded<Files>>);

/// The files and what they stand on.
struct Files {
    base: LimitsSection,
    paths: Vec<PathBuf>,
    usable: IntGauge,
}

#[derive(Default)]
struct Tenants {
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
        let paths =
            config.file.split(',').map(str::trim).filter(|f| !f.is_empty()).map(PathBuf::from).collect();
        let usable = Instruments(registry)
            .gauge(
                "loki_runtime_config_last_reload_successful",
                "Whether the last reading of runtime_config.file succeeded.",
            )
            .map_err(|e| Error(e.to_string()))?;
        let files = Reloaded::load(Files { base, paths, usable })?;
        Ok(Arc::new(Self(Arc::new(files))))
    }

    /// Reads the files again when they have changed, as long as `tasks` live.
    pub(crate) fn watch(&self, tasks: &Tasks, period: std::time::Duration) {
        if !self.0.source().paths.is_empty() && !period.is_zero() {
            self.0.clone().watch(tasks, period);
        }
    }

    /// The limits of one tenant as YAML.
    pub(crate) fn limits_to_yaml(&self, tenant: &TenantId) -> String {
        yaml_of(&Value::Object(LimitsSection::to_text(&self.of(tenant))))
    }

    /// The limits of all tenants that have some of their own, as YAML.
    pub(crate) fn to_yaml(&self, shown: Shown) -> String {
        let tenants = self.0.current();
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
}

impl Source for Files {
    type Files = Vec<String>;
    type Made = Tenants;
    type Error = Error;

    fn setting(&self) -> &str {
        "runtime_config.file"
    }

    fn read(&self) -> Result<Vec<String>, Error> {
        self.paths.iter().map(|f| read(f)).collect()
    }

    fn make(&self, texts: &Vec<String>) -> Result<Tenants, Error> {
        let mut changes = BTreeMap::<TenantId, Changes>::new();
        for (file, text) in self.paths.iter().zip(texts) {
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
        Ok(Tenants { limits, changes })
    }

    fn summary(&self, tenants: &Tenants) -> String {
        format!("limits of {} tenants", tenants.limits.len())
    }

    fn looked(&self, usable: bool) {
        self.usable.set(i64::from(usable));
    }
}

impl TenantLimits for Overrides {
    fn of(&self, tenant: &TenantId) -> Arc<Limits> {
        self.0.current().limits.get(tenant).unwrap_or(&self.0.source().base.0).clone()
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

        std::fs::write(&file, "overrides:\n  a:\n    max_line_sise: 2KB\n").unwrap();
        assert!(limits.0.look().unwrap().is_none());
        let error = limits.0.look().err().unwrap().to_string();
        assert!(error.contains("overrides.a.max_line_sise") && error.contains("max_line_size"), "{error}");
        let usable = || limits.0.source().usable.get();
        assert_eq!(usable(), 0);
        assert_eq!(limits.of(&tenant("a")).max_line_size, 1024);

        std::fs::write(&file, "overrides:\n  a:\n    max_line_size: 2KB\n").unwrap();
        assert!(limits.0.look().unwrap().is_none() && limits.0.look().unwrap().is_some());
        assert_eq!(limits.of(&tenant("a")).max_line_size, 2048);
        assert_eq!(usable(), 1);
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
