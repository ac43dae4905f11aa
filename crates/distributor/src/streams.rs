//! From labels as they were pushed to a stream's identity, remembered by the labels' text.

use std::sync::Arc;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use skald_model::label_text::{LabelTextError, parse_label_set};
use skald_model::{Error, Labels, LabelsBuilder, Limits, PushLabels, Result, StreamId, TenantId};

use crate::level::Level;
use crate::rules::Rules;
use crate::validate::Reason;

/// A stream as the distributor knows it.
#[derive(Clone, Debug)]
pub(crate) struct Stream {
    pub(crate) id: StreamId,
    pub(crate) labels: Labels,
    /// Why the tenant's limits refuse it, if they do.
    pub(crate) refused: Option<Arc<(Reason, String)>>,
    /// The level that its labels tell, if it is asked for.
    pub(crate) level: Option<Level>,
    /// The policy that it belongs to.
    pub(crate) policy: Option<Arc<str>>,
}

type Key = (TenantId, PushLabels);

/// Parsed streams by tenant and label text: two generations, the older forgotten when the younger is full.
pub(crate) struct StreamCache {
    generations: Mutex<Generations>,
    bytes_max: usize,
}

#[derive(Default)]
struct Generations {
    young: FxHashMap<Key, (Arc<Rules>, Stream)>,
    old: FxHashMap<Key, (Arc<Rules>, Stream)>,
    young_bytes: usize,
}

impl StreamCache {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { generations: Mutex::default(), bytes_max }
    }

    /// The stream that `labels` name, with `service_name` added where it is missing.
    pub(crate) fn resolve(
        &self,
        tenant: &TenantId,
        labels: &PushLabels,
        rules: &Arc<Rules>,
    ) -> Result<Stream> {
        let key = (tenant.clone(), owned(labels));
        if let Some(known) = self.get(&key, rules) {
            return Ok(known);
        }
        let stream = parse(tenant, labels, rules)?;
        let mut g = self.generations.lock();
        g.young_bytes += cost(&key, &stream);
        g.young.insert(key, (rules.clone(), stream.clone()));
        if g.young_bytes > self.bytes_max / 2 {
            g.old = std::mem::take(&mut g.young);
            g.young_bytes = 0;
        }
        Ok(stream)
    }

    fn get(&self, key: &Key, rules: &Arc<Rules>) -> Option<Stream> {
        let mut g = self.generations.lock();
        if let Some((r, s)) = g.young.get(key) {
            return Arc::ptr_eq(r, rules).then(|| s.clone());
        }
        // A hit in the old generation moves up, so that what is in use is never forgotten.
        let (key, value) = g.old.remove_entry(key)?;
        if !Arc::ptr_eq(&value.0, rules) {
            return None;
        }
        let stream = value.1.clone();
        g.young_bytes += cost(&key, &stream);
        g.young.insert(key, value);
        Some(stream)
    }
}

/// Label text as a key must not keep the body that it was cut from alive.
fn owned(labels: &PushLabels) -> PushLabels {
    match labels {
        PushLabels::Text(t) => PushLabels::Text(bytes::Bytes::copy_from_slice(t)),
        PushLabels::Set(l) => PushLabels::Set(l.clone()),
    }
}

fn cost((_, labels): &Key, stream: &Stream) -> usize {
    let key = match labels {
        PushLabels::Text(t) => t.len(),
        PushLabels::Set(l) => l.packed().len(),
    };
    key + stream.labels.packed().len() + 160
}

fn parse(tenant: &TenantId, labels: &PushLabels, rules: &Rules) -> Result<Stream> {
    let limits = &*rules.limits;
    let text = match labels {
        PushLabels::Text(t) => String::from_utf8_lossy(t).into_owned(),
        // JSON labels go through their text, as in Loki: the same names are refused with the same words.
        PushLabels::Set(l) => l.to_string(),
    };
    let parsed = parse_label_set(&text).map_err(|e| match e {
        LabelTextError::Syntax(_) => Error::invalid(format!("couldn't parse labels: {e}")),
        LabelTextError::Duplicate { .. } => Error::invalid(e.to_string()),
    })?;
    let (labels, added) = with_service_name(parsed, limits);
    let policy = rules.policy_of(labels.as_ref());
    let checked = check(&labels, added, limits)
        .and_then(|()| check_enforced(tenant, &labels, policy.as_deref(), rules));
    Ok(Stream {
        id: StreamId::of(tenant, labels.as_ref()),
        refused: checked.err().map(Arc::new),
        level: rules.levels.as_ref().and_then(|levels| levels.of_labels(labels.as_ref())),
        policy,
        labels,
    })
}

/// Adds `service_name` from the first of the tenant's `discover_service_name` labels; says whether it did.
fn with_service_name(labels: Labels, limits: &Limits) -> (Labels, bool) {
    if limits.discover_service_name.is_empty() || labels.get("service_name").is_some() {
        return (labels, false);
    }
    let name = limits.discover_service_name.iter().find_map(|n| labels.get(n)).unwrap_or("unknown_service");
    let mut b = LabelsBuilder::from_labels(&labels);
    b.set("service_name", name);
    (b.build(), true)
}

fn check(
    labels: &Labels,
    service_name_added: bool,
    limits: &Limits,
) -> std::result::Result<(), (Reason, String)> {
    let count = labels.len() - usize::from(service_name_added);
    if count > limits.max_label_names_per_series {
        let limit = limits.max_label_names_per_series;
        let text = format!("entry for stream '{labels}' has {count} label names; limit {limit}");
        return Err((Reason::MaxLabelNamesPerSeries, text));
    }
    for (name, value) in labels.iter() {
        if name.len() > limits.max_label_name_length {
            let text = format!("stream '{labels}' has label name too long: '{name}'");
            return Err((Reason::LabelNameTooLong, text));
        }
        if value.len() > limits.max_label_value_length {
            let text = format!("stream '{labels}' has label value too long: '{value}'");
            return Err((Reason::LabelValueTooLong, text));
        }
    }
    Ok(())
}

fn check_enforced(
    tenant: &TenantId,
    labels: &Labels,
    policy: Option<&str>,
    rules: &Rules,
) -> std::result::Result<(), (Reason, String)> {
    let missing = rules.missing_labels(policy, labels.as_ref());
    if missing.is_empty() {
        return Ok(());
    }
    let missing = missing.join(",");
    let text = format!("missing required labels {missing} for user {tenant} for stream {labels}");
    Err((Reason::MissingEnforcedLabels, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(cache: &StreamCache, text: &'static str, rules: &Arc<Rules>) -> Result<String> {
        let tenant = TenantId::new("t").unwrap();
        let labels = PushLabels::Text(bytes::Bytes::from_static(text.as_bytes()));
        cache.resolve(&tenant, &labels, rules).map(|s| s.labels.to_string())
    }

    fn rules(limits: Limits) -> Arc<Rules> {
        Arc::new(Rules::new(limits.into()))
    }

    #[test]
    fn streams_without_enforced_labels_are_refused() {
        let rules = rules(Limits { enforced_labels: vec!["team".into(), "env".into()], ..Limits::default() });
        let tenant = TenantId::new("t").unwrap();
        let labels = PushLabels::Set(Labels::from_pairs([("app", "x"), ("env", "e")]));
        let stream = StreamCache::new(1 << 20).resolve(&tenant, &labels, &rules).unwrap();
        let (reason, text) = &*stream.refused.unwrap();
        assert_eq!(*reason, Reason::MissingEnforcedLabels);
        assert!(text.starts_with("missing required labels team for user t for stream {app=\"x\""), "{text}");
    }

    #[test]
    fn service_name_comes_from_the_first_known_label() {
        let (cache, limits) = (StreamCache::new(1 << 20), rules(Limits::default()));
        for _ in 0..2 {
            assert_eq!(
                resolve(&cache, r#"{job="j", app="a"}"#, &limits).unwrap(),
                r#"{app="a", job="j", service_name="a"}"#
            );
        }
        assert_eq!(resolve(&cache, "{}", &limits).unwrap(), r#"{service_name="unknown_service"}"#);
        let off = rules(Limits { discover_service_name: vec![], ..Limits::default() });
        assert_eq!(resolve(&cache, r#"{job="j", app="a"}"#, &off).unwrap(), r#"{app="a", job="j"}"#);
    }

    #[test]
    fn a_small_cache_forgets_but_answers_alike() {
        let (cache, limits) = (StreamCache::new(1000), rules(Limits::default()));
        for i in 0..200 {
            let text: &'static str = Box::leak(format!("{{app=\"{}\"}}", i % 7).into_boxed_str());
            let name = i % 7;
            assert_eq!(
                resolve(&cache, text, &limits).unwrap(),
                format!(r#"{{app="{name}", service_name="{name}"}}"#)
            );
        }
        let g = cache.generations.lock();
        assert!(g.young.len() + g.old.len() <= 7);
    }
}
