//! `limits_config`: the limits of `skald-model`, with durations and sizes as text.

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};
use skald_model::Limits;
use skald_runtime::units;

/// Limits whose value is a duration; `Limits` has them in nanoseconds.
const DURATIONS: [&str; 7] = [
    "reject_old_samples_max_age",
    "creation_grace_period",
    "max_query_length",
    "max_query_lookback",
    "max_query_range",
    "query_timeout",
    "split_queries_by_interval",
];

/// Limits whose value is a size; `Limits` has them in bytes.
const SIZES: [&str; 5] = [
    "max_line_size",
    "max_structured_metadata_size",
    "per_stream_rate_limit",
    "per_stream_rate_limit_burst",
    "max_query_bytes_read",
];

/// The limits that hold for tenants without their own.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct LimitsSection(pub(crate) Arc<Limits>);

impl LimitsSection {
    /// These limits with some of them changed, given as they stand in a file.
    ///
    /// # Errors
    /// Names the limit whose value is wrong.
    pub(crate) fn with(&self, changes: &Map<String, Value>) -> Result<Limits, String> {
        let mut all = to_text(&self.0);
        for (key, value) in changes {
            all.insert(key.clone(), value.clone());
        }
        from_text(all)
    }
}

impl Serialize for LimitsSection {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        to_text(&self.0).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for LimitsSection {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let given = Map::<String, Value>::deserialize(deserializer)?;
        from_text(given).map(|l| Self(Arc::new(l))).map_err(serde::de::Error::custom)
    }
}

fn to_text(limits: &Limits) -> Map<String, Value> {
    let Ok(Value::Object(mut all)) = serde_json::to_value(limits) else { return Map::new() };
    for key in DURATIONS {
        if let Some(nanos) = all.get(key).and_then(Value::as_i64) {
            all.insert(key.into(), units::format_nanos(nanos).into());
        }
    }
    for key in SIZES {
        if let Some(bytes) = all.get(key).and_then(Value::as_u64) {
            all.insert(key.into(), units::format_bytes(bytes).into());
        }
    }
    all
}

fn from_text(mut given: Map<String, Value>) -> Result<Limits, String> {
    for key in DURATIONS {
        convert(&mut given, key, |text| units::parse_nanos(text).map(Value::from))?;
    }
    for key in SIZES {
        convert(&mut given, key, |text| units::parse_bytes(text).map(Value::from))?;
    }
    // Key by key, so that an error can say which.
    let mut all = serde_json::to_value(Limits::default()).map_err(|e| e.to_string())?;
    for (key, value) in given {
        let Some(slot) = all.get_mut(&key) else { continue };
        let before = std::mem::replace(slot, value.clone());
        if let Err(e) = Limits::deserialize(&all) {
            return Err(format!("{key} is {value}: {e}; a value like {before} is expected"));
        }
    }
    serde_json::from_value(all).map_err(|e| e.to_string())
}

fn convert(
    given: &mut Map<String, Value>,
    key: &str,
    read: impl Fn(&str) -> Result<Value, String>,
) -> Result<(), String> {
    let Some(value) = given.get_mut(key) else { return Ok(()) };
    let text = match &*value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return Ok(()),
    };
    *value = read(&text).map_err(|e| format!("{key}: {e}"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn with(changes: &Value) -> Result<Limits, String> {
        LimitsSection::default().with(changes.as_object().unwrap())
    }

    #[test]
    fn every_key_with_a_unit_is_a_limit() {
        let all = serde_json::to_value(Limits::default()).unwrap();
        for key in DURATIONS.iter().chain(&SIZES) {
            assert!(all[key].is_number(), "{key}");
        }
    }

    #[test]
    fn durations_and_sizes_are_text_outside_and_numbers_inside() {
        let limits =
            with(&json!({"max_line_size": "1MB", "query_timeout": "5m", "max_query_length": 0})).unwrap();
        assert_eq!((limits.max_line_size, limits.query_timeout), (1 << 20, 300_000_000_000));
        assert_eq!(limits.max_query_length, 0);
        let text = serde_json::to_value(LimitsSection(Arc::new(limits.clone()))).unwrap();
        assert_eq!(text["query_timeout"], "5m");
        let back: LimitsSection = serde_json::from_value(text).unwrap();
        assert_eq!(*back.0, limits);
    }

    #[test]
    fn a_wrong_value_is_named() {
        let error = with(&json!({"max_query_series": "many"})).unwrap_err();
        assert!(
            error.contains("max_query_series") && error.contains("many") && error.contains("500"),
            "{error}"
        );
        let error = with(&json!({"query_timeout": "soon"})).unwrap_err();
        assert!(error.contains("query_timeout") && error.contains("30s"), "{error}");
    }
}
