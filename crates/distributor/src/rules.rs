//! A tenant's limits in the form in which pushes are checked against them: levels' detector, policies' selectors.

use std::sync::Arc;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use skald_model::label_text::parse_selector;
use skald_model::{LabelsRef, Limits, Selector, Timestamp};

use crate::level::LevelDetector;

/// Streams without a policy, as settings name them.
const NO_POLICY: &str = "*";

/// Limits, ready to be applied.
#[derive(Debug)]
pub(crate) struct Rules {
    pub(crate) limits: Arc<Limits>,
    /// Finds levels; `None` when they are not wanted.
    pub(crate) levels: Option<LevelDetector>,
    /// Selectors with priority and name, the highest priority first.
    policies: Vec<(i64, Arc<str>, Selector)>,
}

impl Rules {
    pub(crate) fn new(limits: Arc<Limits>) -> Self {
        let wanted = limits.discover_log_levels && limits.allow_structured_metadata;
        let mut policies = Vec::new();
        for (name, selectors) in &limits.policy_stream_mapping {
            let name: Arc<str> = name.as_str().into();
            for s in selectors {
                match parse_selector(&s.selector) {
                    Ok(selector) => policies.push((s.priority, name.clone(), selector)),
                    // The configuration refuses such selectors; limits that come another way have them without effect.
                    Err(error) => {
                        tracing::error!(%name, selector = s.selector, %error, "policy cannot be read")
                    }
                }
            }
        }
        policies.sort_by_key(|(priority, ..)| std::cmp::Reverse(*priority));
        Self { levels: wanted.then(|| LevelDetector::new(&limits)), policies, limits }
    }

    /// The policy of a stream with these labels.
    pub(crate) fn policy_of(&self, labels: LabelsRef<'_>) -> Option<Arc<str>> {
        self.policies.iter().find(|(.., selector)| selector.matches(labels)).map(|(_, name, _)| name.clone())
    }

    /// Until when streams of the policy are refused, if they are now.
    pub(crate) fn policy_blocked_until(&self, policy: Option<&str>, now: Timestamp) -> Option<Timestamp> {
        let until = *self.limits.block_ingestion_policy_until.get(policy.unwrap_or(NO_POLICY))?;
        (now < until).then_some(until)
    }

    /// The labels that streams of the policy must have and these do not.
    pub(crate) fn missing_labels<'a>(&'a self, policy: Option<&str>, labels: LabelsRef<'_>) -> Vec<&'a str> {
        let of_policy = self.limits.policy_enforced_labels.get(policy.unwrap_or(NO_POLICY));
        let mut missing: Vec<&str> = self
            .limits
            .enforced_labels
            .iter()
            .chain(of_policy.into_iter().flatten())
            .map(String::as_str)
            .filter(|name| labels.get(name).is_none())
            .collect();
        missing.sort_unstable();
        missing.dedup();
        missing
    }
}

/// The rules of limits that were asked for. Most tenants share one set of limits.
#[derive(Default)]
pub(crate) struct RuleCache(Mutex<FxHashMap<usize, Arc<Rules>>>);

/// Rules that are kept while nobody else knows their limits any more.
const STALE_MAX: usize = 64;

impl RuleCache {
    /// The rules of `limits`.
    pub(crate) fn of(&self, limits: &Arc<Limits>) -> Arc<Rules> {
        let key = Arc::as_ptr(limits).addr();
        let mut known = self.0.lock();
        // What is in the map holds its limits, so that no others can have come to lie at the same place.
        if let Some(rules) = known.get(&key) {
            return rules.clone();
        }
        if known.len() >= STALE_MAX {
            known.retain(|_, rules| Arc::strong_count(&rules.limits) > 1);
        }
        let rules = Arc::new(Rules::new(limits.clone()));
        known.insert(key, rules.clone());
        rules
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skald_model::Labels;
    use skald_model::limits::PolicySelector;

    #[test]
    fn the_highest_priority_names_the_policy() {
        let of = |selector: &str, priority| vec![PolicySelector { selector: selector.into(), priority }];
        let limits = Limits {
            policy_stream_mapping: [
                ("low".to_owned(), of(r#"{env=~".+"}"#, 1)),
                ("prod".to_owned(), of(r#"{env="prod"}"#, 2)),
            ]
            .into(),
            enforced_labels: vec!["team".into()],
            policy_enforced_labels: [("prod".to_owned(), vec!["app".to_owned()])].into(),
            block_ingestion_policy_until: [("prod".to_owned(), 10), ("*".to_owned(), 20)].into(),
            ..Limits::default()
        };
        let rules = Rules::new(limits.into());
        let policy = |env: &str| rules.policy_of(Labels::from_pairs([("env", env)]).as_ref());
        assert_eq!(policy("prod").as_deref(), Some("prod"));
        assert_eq!(policy("dev").as_deref(), Some("low"));
        assert_eq!(policy(""), None);
        let labels = Labels::from_pairs([("env", "prod")]);
        assert_eq!(rules.missing_labels(Some("prod"), labels.as_ref()), ["app", "team"]);
        assert_eq!(rules.missing_labels(None, labels.as_ref()), ["team"]);
        assert_eq!(rules.policy_blocked_until(Some("prod"), 9), Some(10));
        assert_eq!(rules.policy_blocked_until(Some("prod"), 10), None);
        assert_eq!(rules.policy_blocked_until(None, 10), Some(20));
        assert_eq!(rules.policy_blocked_until(Some("low"), 0), None);
    }

    #[test]
    fn rules_of_limits_that_are_gone_are_forgotten() {
        let cache = RuleCache::default();
        let kept = Arc::new(Limits::default());
        let first = cache.of(&kept);
        for _ in 0..1000 {
            cache.of(&Arc::new(Limits::default()));
        }
        assert!(Arc::ptr_eq(&first, &cache.of(&kept)));
        assert!(cache.0.lock().len() <= STALE_MAX + 1);
    }
}
