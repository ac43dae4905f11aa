//! What becomes of which attributes, by the tenant's `otlp_config`.

use std::sync::Arc;

use parking_lot::Mutex;
use skald_model::Limits;
use skald_model::limits::{AttributeRule, OtlpAction, OtlpConfig};
use skald_model::regex::{Mode, Regex};

/// The attributes of a resource that become labels, Loki's default.
const LABELS: [&str; 18] = [
    "service.name",
    "service.namespace",
    "service.instance.id",
    "deployment.environment",
    "deployment.environment.name",
    "cloud.region",
    "cloud.availability_zone",
    "k8s.cluster.name",
    "k8s.namespace.name",
    "k8s.pod.name",
    "k8s.container.name",
    "container.name",
    "k8s.replicaset.name",
    "k8s.deployment.name",
    "k8s.statefulset.name",
    "k8s.daemonset.name",
    "k8s.cronjob.name",
    "k8s.job.name",
];

/// Rules, ready to be applied.
#[derive(Debug)]
pub struct OtlpRules {
    resource: Vec<Rule>,
    ignore_defaults: bool,
    scope: Vec<Rule>,
    log: Vec<Rule>,
    /// Whether the text of a record's severity becomes a label.
    pub(super) severity_text_as_label: bool,
}

#[derive(Debug)]
struct Rule {
    action: OtlpAction,
    attributes: Vec<String>,
    regex: Option<Regex>,
}

impl Default for OtlpRules {
    fn default() -> Self {
        Self::new(&OtlpConfig::default())
    }
}

impl OtlpRules {
    /// Reads the regular expressions; the configuration has refused those that are none.
    pub fn new(config: &OtlpConfig) -> Self {
        let rules = |rules: &[AttributeRule]| rules.iter().map(Rule::new).collect();
        Self {
            resource: rules(&config.resource_attributes.attributes_config),
            ignore_defaults: config.resource_attributes.ignore_defaults,
            scope: rules(&config.scope_attributes),
            log: rules(&config.log_attributes),
            severity_text_as_label: config.severity_text_as_label,
        }
    }

    pub(super) fn of_resource(&self, attribute: &str) -> OtlpAction {
        let by_default = !self.ignore_defaults && LABELS.contains(&attribute);
        first(&self.resource, attribute).unwrap_or(match by_default {
            true => OtlpAction::IndexLabel,
            false => OtlpAction::StructuredMetadata,
        })
    }

    pub(super) fn of_scope(&self, attribute: &str) -> OtlpAction {
        first(&self.scope, attribute).unwrap_or(OtlpAction::StructuredMetadata)
    }

    pub(super) fn of_record(&self, attribute: &str) -> OtlpAction {
        first(&self.log, attribute).unwrap_or(OtlpAction::StructuredMetadata)
    }
}

fn first(rules: &[Rule], attribute: &str) -> Option<OtlpAction> {
    rules.iter().find(|r| r.names(attribute)).map(|r| r.action)
}

impl Rule {
    fn new(rule: &AttributeRule) -> Self {
        let AttributeRule { action, attributes, regex } = rule;
        let regex = if regex.is_empty() { None } else { Regex::new(regex, Mode::Anchored).ok() };
        Self { action: *action, attributes: attributes.clone(), regex }
    }

    fn names(&self, attribute: &str) -> bool {
        self.attributes.iter().any(|a| a == attribute)
            || self.regex.as_ref().is_some_and(|r| r.is_match(attribute.as_bytes()))
    }
}

/// The rules of the limits that were asked for last. Most tenants share one set of limits.
#[derive(Debug, Default)]
pub(crate) struct RuleCache(Mutex<Vec<(Arc<Limits>, Arc<OtlpRules>)>>);

/// Sets of limits whose rules are kept.
const CACHED_MAX: usize = 32;

impl RuleCache {
    /// The rules of `limits`.
    pub(crate) fn of(&self, limits: &Arc<Limits>) -> Arc<OtlpRules> {
        let mut known = self.0.lock();
        if let Some((_, rules)) = known.iter().find(|(l, _)| Arc::ptr_eq(l, limits)) {
            return rules.clone();
        }
        let rules = Arc::new(OtlpRules::new(&limits.otlp_config));
        if known.len() == CACHED_MAX {
            known.remove(0);
        }
        known.push((limits.clone(), rules.clone()));
        rules
    }
}
