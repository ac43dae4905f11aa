//! The configuration: defaults, then the file, then the environment, then flags.
//!
//! Keys are Loki's where Loki has the thing, so that a Loki file starts Skald. Loki keys that Skald has no use for are
//! warned about once; keys that nobody knows are an error. Each crate owns its `Config`; this module composes them.

mod expand;
mod keys;
mod layer;
mod limits;
mod overrides;
mod sections;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use figment::Figment;
use figment::providers::Serialized;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use skald_runtime::tls::TlsError;

use layer::Layer;
pub(crate) use limits::LimitsSection;
pub(crate) use overrides::{Overrides, Shown};
pub(crate) use sections::{
    Common, CompactorSection, DistributorSection, FrontendSection, IngesterClientSection, QuerierSection,
    RuntimeConfig, Server, Storage,
};

/// Sections about TLS, as errors name them.
pub(crate) const HTTP_TLS: &str = "server.http_tls_config";
pub(crate) const GRPC_TLS: &str = "server.grpc_tls_config";
pub(crate) const CLIENT_TLS: &str = "ingester_client.grpc_client_config";

/// Everything that can be configured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Config {
    /// The roles of this process: `all`, or a list of roles with commas.
    pub(crate) target: String,
    /// Whether requests must name their tenant in `X-Scope-OrgID`. Loki's default is `true`; Skald's is `false`, so
    /// that everything works without a file.
    pub(crate) auth_enabled: bool,
    /// The tenant of all requests when `auth_enabled` is off.
    pub(crate) no_auth_tenant: String,
    /// Who may do what.
    pub(crate) auth: skald_api::auth::AuthConfig,
    pub(crate) server: Server,
    pub(crate) common: Common,
    pub(crate) memberlist: skald_cluster::MemberlistConfig,
    pub(crate) limits_config: LimitsSection,
    pub(crate) runtime_config: RuntimeConfig,
    pub(crate) distributor: DistributorSection,
    pub(crate) ingester: skald_ingester::Config,
    pub(crate) ingester_client: IngesterClientSection,
    pub(crate) pattern_ingester: skald_ingester::patterns::Config,
    pub(crate) querier: QuerierSection,
    pub(crate) frontend: FrontendSection,
    pub(crate) compactor: CompactorSection,
    /// How tables are committed to and kept.
    pub(crate) table: skald_storage::table::CatalogConfig,
    pub(crate) tracing: skald_runtime::telemetry::TracingConfig,
}

impl Default for Config {
    fn default() -> Self {
        let mut ingester = skald_ingester::Config::default();
        // Below `common.path_prefix` unless it is set.
        ingester.wal.dir = PathBuf::new();
        Self {
            target: "all".into(),
            auth_enabled: false,
            no_auth_tenant: "fake".into(),
            auth: skald_api::auth::AuthConfig::default(),
            server: Server::default(),
            common: Common::default(),
            memberlist: skald_cluster::MemberlistConfig::default(),
            limits_config: LimitsSection::default(),
            runtime_config: RuntimeConfig::default(),
            distributor: DistributorSection::default(),
            ingester,
            ingester_client: IngesterClientSection::default(),
            pattern_ingester: skald_ingester::patterns::Config::default(),
            querier: QuerierSection::default(),
            frontend: FrontendSection::default(),
            compactor: CompactorSection::default(),
            table: skald_storage::table::CatalogConfig::default(),
            tracing: skald_runtime::telemetry::TracingConfig::default(),
        }
    }
}

/// Where the configuration comes from.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    /// Files, of which the first that exists is read; none reads no file.
    pub(crate) files: Vec<PathBuf>,
    /// Whether `${NAME}` and `${NAME:-default}` in the file are replaced from the environment.
    pub(crate) expand_env: bool,
    /// Environment variables; those that begin with `SKALD_` count.
    pub(crate) environment: Vec<(String, String)>,
    /// Keys with values from the command line, the strongest, each with the flag it came from.
    pub(crate) flags: Vec<Flag>,
}

/// A key that a flag sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Flag {
    /// The flag as typed, for errors.
    pub(crate) name: String,
    /// The key with dots.
    pub(crate) key: String,
    /// The value as text.
    pub(crate) value: String,
}

/// A configuration with what is to be said about it.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// The configuration in effect.
    pub(crate) config: Config,
    /// Loki's keys, variables and flags that were given and have no effect here.
    pub(crate) unused: Vec<String>,
    /// The file that was read.
    pub(crate) file: Option<PathBuf>,
}

/// Why there is no configuration. The message names the file or variable and the key.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Error(pub(crate) String);

impl Config {
    /// Reads and joins `sources`.
    ///
    /// # Errors
    /// When a file cannot be read, a key is unknown, a value has the wrong type or contradicts another.
    pub(crate) fn load(sources: &Sources) -> Result<Loaded, Error> {
        let defaults = as_tree(&Config::default());
        let file = first_existing(&sources.files)?;
        let mut layers = Vec::new();
        if let Some(path) = &file {
            layers.push(Layer::file(path, sources.expand_env, &sources.environment, &defaults)?);
        }
        layers.push(Layer::environment(&sources.environment, &defaults)?);
        layers.push(Layer::flags(&sources.flags, &defaults)?);
        let mut unused = Vec::new();
        let mut figment = Figment::from(Serialized::defaults(Config::default()));
        for (layer, without_effect) in layers {
            figment = figment.merge(layer);
            unused.extend(without_effect);
        }
        let mut config: Config = figment.extract().map_err(|e| Error(layer::explain(e)))?;
        config.fill_in();
        config.validate()?;
        Ok(Loaded { config, unused, file })
    }

    /// The configuration as YAML; secrets are masked.
    pub(crate) fn to_yaml(&self) -> String {
        yaml_of(&as_tree(self))
    }

    /// Only what differs from the defaults, as YAML.
    pub(crate) fn diff_to_yaml(&self) -> String {
        yaml_of(&self.diff())
    }

    /// Only what differs from the defaults, as `key=value` pairs with commas, for the log.
    pub(crate) fn diff_to_line(&self) -> String {
        let mut pairs = Vec::new();
        pairs_of(&self.diff(), "", &mut pairs);
        pairs.join(", ")
    }

    fn diff(&self) -> Value {
        let mut defaults = Config::default();
        defaults.fill_in();
        let changed = difference(&as_tree(self), &as_tree(&defaults));
        changed.unwrap_or_else(|| Value::Object(serde_json::Map::new()))
    }

    /// Whether this process is one of several: it names members to join, or leaves roles to others and says how it is
    /// found. The first process of a cluster may name itself.
    pub(crate) fn is_clustered(&self) -> bool {
        !self.memberlist.join_members.is_empty()
            || (self.memberlist != skald_cluster::MemberlistConfig::default()
                && !crate::node::is_all(&self.target))
    }

    /// What is not set follows from the rest: paths lie below `common.path_prefix`, a cluster keeps three copies.
    pub(crate) fn fill_in(&mut self) {
        if self.common.replication_factor == 0 {
            self.common.replication_factor = if self.is_clustered() { 3 } else { 1 };
        }
        let prefix = &self.common.path_prefix;
        if self.ingester.wal.dir.as_os_str().is_empty() {
            self.ingester.wal.dir = prefix.join("wal");
        }
        let tables = &mut self.common.storage.filesystem.chunks_directory;
        if tables.as_os_str().is_empty() {
            *tables = prefix.join("tables");
        }
    }

    fn validate(&self) -> Result<(), Error> {
        let fail = |text: String| Err(Error(text));
        if let Err(e) = skald_model::TenantId::new(&self.no_auth_tenant) {
            return fail(format!("no_auth_tenant: {e}"));
        }
        if let Err(e) = skald_runtime::telemetry::LogLevel::new(&self.server.log_level) {
            return fail(format!("server.log_level: {e}"));
        }
        let prefix = &self.server.http_path_prefix;
        if !prefix.is_empty() && (!prefix.starts_with('/') || prefix.ends_with('/')) {
            return fail(format!(
                "server.http_path_prefix is {prefix:?}; it begins with / and does not end with it"
            ));
        }
        if self.ingester.flush_interval.is_zero() {
            return fail("ingester.flush_interval is 0; it must be longer".into());
        }
        if self.ingester.memory_budget < 1 << 20 {
            return fail("ingester.memory_budget is below 1MB".into());
        }
        if !(0.0..=1.0).contains(&self.tracing.sample_ratio) {
            return fail(format!(
                "tracing.sample_ratio is {}; it lies between 0 and 1",
                self.tracing.sample_ratio
            ));
        }
        self.validate_compactor()?;
        self.validate_tls().map_err(|e| Error(e.to_string()))?;
        self.memberlist.validate().map_err(Error)?;
        self.common.storage.validate("common.storage").map_err(Error)
    }

    fn validate_compactor(&self) -> Result<(), Error> {
        self.compactor.compaction.validate().map_err(Error)?;
        if let Some(archive) = self.compactor.archive() {
            archive.validate("compactor.archive").map_err(Error)?;
            let place = archive.place();
            if place == self.common.storage.place() {
                return Err(Error(format!(
                    "compactor.archive is {place}, where the tables lie (common.storage); an archive needs another place"
                )));
            }
        }
        let (delay, abandon) =
            (self.compactor.compaction.retention_delete_delay, self.ingester.flush_abandon_after);
        if abandon * 4 > delay {
            return Err(Error(format!(
                "compactor.retention_delete_delay is {delay:?}; it must be at least four times \
                 ingester.flush_abandon_after ({abandon:?}), because a flush may commit a file for that long"
            )));
        }
        let commit = self.table.commit_timeout;
        if (abandon + commit * 2) * 2 > delay {
            return Err(Error(format!(
                "compactor.retention_delete_delay is {delay:?}; it must be at least twice \
                 ingester.flush_abandon_after ({abandon:?}) and four times table.commit_timeout ({commit:?}) together"
            )));
        }
        Ok(())
    }

    /// Looks at no file, so that a configuration can be checked elsewhere than where it is used.
    fn validate_tls(&self) -> Result<(), TlsError> {
        self.server.http_tls_config.validate(HTTP_TLS)?;
        self.server.grpc_tls_config.validate(GRPC_TLS)?;
        self.server.tls_policy().validate()?;
        self.ingester_client.grpc_client_config.validate(CLIENT_TLS)
    }
}

/// A configuration as a tree, which shows which keys there are.
fn as_tree(config: &Config) -> Value {
    serde_json::to_value(config).expect("a configuration is plain data")
}

fn yaml_of(tree: &Value) -> String {
    serde_yaml_ng::to_string(tree).expect("a tree of JSON is YAML")
}

fn pairs_of(tree: &Value, parent: &str, out: &mut Vec<String>) {
    match tree {
        Value::Object(map) => {
            for (key, value) in map {
                let path = if parent.is_empty() { key.clone() } else { format!("{parent}.{key}") };
                pairs_of(value, &path, out);
            }
        }
        Value::String(text) => out.push(format!("{parent}={text}")),
        other => out.push(format!("{parent}={other}")),
    }
}

/// The parts of `value` that are not as in `base`.
fn difference(value: &Value, base: &Value) -> Option<Value> {
    let (Value::Object(value_map), Value::Object(base_map)) = (value, base) else {
        return (value != base).then(|| value.clone());
    };
    let changed: serde_json::Map<_, _> = value_map
        .iter()
        .filter_map(|(key, v)| Some((key.clone(), difference(v, base_map.get(key).unwrap_or(&Value::Null))?)))
        .collect();
    (!changed.is_empty()).then_some(Value::Object(changed))
}

fn first_existing(files: &[PathBuf]) -> Result<Option<PathBuf>, Error> {
    match files.iter().find(|f| f.exists()) {
        Some(file) => Ok(Some(file.clone())),
        None if files.is_empty() => Ok(None),
        None => {
            let names: Vec<_> = files.iter().map(|f| f.display().to_string()).collect();
            Err(Error(format!("configuration file {} does not exist", names.join(" or "))))
        }
    }
}

fn read(path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|e| Error(format!("failed to read {}: {e}", path.display())))
}
