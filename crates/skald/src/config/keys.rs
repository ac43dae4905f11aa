//! Which keys there are: Skald's own by the defaults, Loki's others by a table.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use serde_json::{Map, Value};

/// Loki's keys that Skald does not read; see the head of the file.
static LOKI_KEYS: LazyLock<LokiKeys> = LazyLock::new(|| LokiKeys::parse(include_str!("loki_keys.txt")));

#[derive(Default)]
struct LokiKeys {
    /// Without effect: full keys, and sections (ending in `.*`) with all that is in them.
    unused: BTreeSet<&'static str>,
    /// Refused, with the reason: starting without what they ask for would be worse.
    refused: Vec<(&'static str, &'static str)>,
}

impl LokiKeys {
    fn parse(table: &'static str) -> Self {
        let mut keys = Self::default();
        for line in table.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
            match line.strip_prefix('!').and_then(|l| l.split_once(' ')) {
                Some((key, reason)) => keys.refused.push((key, reason.trim())),
                None => drop(keys.unused.insert(line)),
            }
        }
        keys
    }

    /// What to say about `path`, if Loki knows it and Skald has no use for it.
    fn unused_name(&self, path: &str) -> Option<String> {
        let whole = format!("{path}.*");
        if self.unused.contains(path) || self.unused.contains(whole.as_str()) {
            return Some(path.to_owned());
        }
        let mut section = path;
        while let Some((parent, _)) = section.rsplit_once('.') {
            section = parent;
            if self.unused.contains(format!("{section}.*").as_str()) {
                return Some(section.to_owned());
            }
        }
        None
    }

    fn refusal(&self, path: &str) -> Option<&'static str> {
        self.refused.iter().find(|(key, _)| *key == path).map(|(_, reason)| *reason)
    }
}

/// Checks the keys of a file and takes those without effect out of it; returns their names.
///
/// # Errors
/// Lists the keys that nobody knows, each with the nearest one, and those that are refused.
pub(super) fn check(tree: &mut Value, defaults: &Value) -> Result<Vec<String>, String> {
    let mut found = Found { root: defaults, unused: BTreeSet::new(), wrong: Vec::new() };
    if let Value::Object(map) = tree {
        found.walk(map, defaults, "");
    }
    let Found { root: _, unused, wrong } = found;
    if wrong.is_empty() { Ok(unused.into_iter().collect()) } else { Err(wrong.join("; ")) }
}

/// Whether a key with dots, which is not a section, has an effect; `false` for one that only Loki reads.
///
/// # Errors
/// When nobody knows the key.
pub(super) fn has_effect(key: &str, defaults: &Value) -> Result<bool, String> {
    let mut at = Some(defaults);
    for part in key.split('.') {
        at = at.and_then(|v| v.get(part));
    }
    match at {
        Some(Value::Object(_)) => Err(format!("{key} is a section, not a key")),
        Some(_) => Ok(true),
        None => match (LOKI_KEYS.refusal(key), LOKI_KEYS.unused_name(key)) {
            (Some(reason), _) => Err(format!("{key}: {reason}")),
            (None, Some(_)) => Ok(false),
            (None, None) => Err(unknown(key, defaults)),
        },
    }
}

struct Found<'a> {
    /// The defaults from the top, to find the nearest key in.
    root: &'a Value,
    unused: BTreeSet<String>,
    wrong: Vec<String>,
}

impl Found<'_> {
    fn walk(&mut self, map: &mut Map<String, Value>, defaults: &Value, parent: &str) {
        map.retain(|key, value| {
            let path = if parent.is_empty() { key.clone() } else { format!("{parent}.{key}") };
            let empty = value.as_object().is_some_and(Map::is_empty) || value == "";
            if let Some(reason) = LOKI_KEYS.refusal(&path) {
                if !empty {
                    self.wrong.push(format!("{path}: {reason}"));
                }
                return false;
            }
            match (defaults.get(key), value) {
                // A map whose keys are names that users give.
                (Some(Value::Object(free)), _) if free.is_empty() => true,
                (Some(default @ Value::Object(_)), Value::Object(inner)) => {
                    self.walk(inner, default, &path);
                    true
                }
                (Some(_), _) => true,
                (None, value) => {
                    self.not_ours(&path, value);
                    false
                }
            }
        });
    }

    /// A key that the defaults do not have. Its section may be Loki's while only parts of it are in the table.
    fn not_ours(&mut self, path: &str, value: &mut Value) {
        if let Some(name) = LOKI_KEYS.unused_name(path) {
            self.unused.insert(name);
            return;
        }
        let inside = format!("{path}.");
        let is_section = LOKI_KEYS.unused.iter().any(|k| k.starts_with(&inside));
        match value {
            Value::Object(map) if is_section => self.walk(map, &Value::Null, path),
            _ => self.wrong.push(unknown(path, self.root)),
        }
    }
}

/// The words for an unknown key, with the nearest one there is.
fn unknown(path: &str, defaults: &Value) -> String {
    let mut known = Vec::new();
    collect(defaults, "", &mut known);
    known.extend(LOKI_KEYS.unused.iter().map(|k| k.trim_end_matches(".*").to_owned()));
    let nearest = known.iter().map(|k| (similarity(path, k), k)).max_by(|a, b| a.0.total_cmp(&b.0));
    match nearest {
        Some((score, nearest)) if score > 0.6 => format!("unknown key {path}; did you mean {nearest}?"),
        _ => format!("unknown key {path}; `skald config show` lists the keys there are"),
    }
}

/// From 0 to 1. A key in the wrong section counts nearly as much as one with a typing error.
fn similarity(a: &str, b: &str) -> f64 {
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let whole = strsim::normalized_damerau_levenshtein(a, b);
    let names = strsim::normalized_damerau_levenshtein(&last(a), &last(b));
    // Of two equally near names the one in the nearer section is meant.
    whole.max(0.9 * names + 0.05 * whole)
}

fn collect(tree: &Value, parent: &str, out: &mut Vec<String>) {
    let Value::Object(map) = tree else { return };
    for (key, value) in map {
        let path = if parent.is_empty() { key.clone() } else { format!("{parent}.{key}") };
        collect(value, &path, out);
        out.push(path);
    }
}

/// Moves the buckets of Loki's `storage_config` to `common.storage`, where nothing stands there: many installations
/// name them only in the former, and without them Skald would write to the local disk.
///
/// # Errors
/// When a URL of a bucket is not understood.
pub(super) fn adopt_storage_config(tree: &mut Value) -> Result<(), String> {
    if let Some(s3) = tree.pointer_mut("/common/storage/s3").and_then(Value::as_object_mut)
        && let Some(url) = s3.remove("s3")
    {
        read_s3_url(url.as_str().unwrap_or_default(), s3)?;
    }
    let Some(wanted) = store_in_use(tree) else { return Ok(()) };
    let (from, to) = match wanted.as_str() {
        "s3" | "aws" => (&["aws", "s3"][..], "s3"),
        "gcs" => (&["gcs"][..], "gcs"),
        "azure" => (&["azure"][..], "azure"),
        "filesystem" => (&["filesystem"][..], "filesystem"),
        other => {
            return Err(format!(
                "schema_config.configs.object_store is {other:?}; Skald keeps tables in filesystem, s3, gcs or azure"
            ));
        }
    };
    let common = tree.pointer("/common/storage").and_then(Value::as_object);
    if common.is_some_and(|c| c.contains_key(to)) {
        return Ok(());
    }
    let Some(section) = tree.get_mut("storage_config").and_then(Value::as_object_mut) else { return Ok(()) };
    let Some(mut found) = from.iter().find_map(|name| section.remove(*name)) else { return Ok(()) };
    if let Some(map) = found.as_object_mut() {
        if let Some(directory) = map.remove("directory") {
            map.insert("chunks_directory".into(), directory);
        }
        if let Some(url) = map.remove("s3") {
            read_s3_url(url.as_str().unwrap_or_default(), map)?;
        }
        map.retain(|_, v| !v.is_null());
    }
    let common = object(tree, "common");
    let storage = object(common, "storage");
    storage[to] = found;
    Ok(())
}

/// Moves the zone of Loki's `common.ring` to the ingester, the one whose zone matters, where nothing stands there.
pub(super) fn adopt_zone(tree: &mut Value) {
    let ring = tree.pointer_mut("/common/ring").and_then(Value::as_object_mut);
    let Some(zone) = ring.and_then(|r| r.remove("instance_availability_zone")) else { return };
    let lifecycler = object(object(tree, "ingester"), "lifecycler");
    if lifecycler.get("availability_zone").is_none_or(Value::is_null) {
        lifecycler["availability_zone"] = zone;
    }
}

fn object<'a>(tree: &'a mut Value, key: &str) -> &'a mut Value {
    let slot = &mut tree[key];
    if !slot.is_object() {
        *slot = Value::Object(Map::new());
    }
    slot
}

/// The object store that the latest period of `schema_config` names.
fn store_in_use(tree: &Value) -> Option<String> {
    let periods = tree.pointer("/schema_config/configs")?.as_array()?;
    let latest = periods.iter().max_by_key(|p| p.get("from").map(Value::to_string))?;
    Some(latest.get("object_store")?.as_str()?.to_owned())
}

/// Reads Loki's `s3://key:secret@host-or-region/bucket` into single keys.
fn read_s3_url(url: &str, into: &mut Map<String, Value>) -> Result<(), String> {
    let wrong = || "the key s3 of an S3 section is not a URL like s3://key:secret@region/bucket".to_owned();
    let rest = url.strip_prefix("s3://").ok_or_else(wrong)?;
    let (credentials, place) = match rest.rsplit_once('@') {
        Some((credentials, place)) => (Some(credentials), place),
        None => (None, rest),
    };
    let mut set = |key: &str, value: &str| {
        into.entry(key).or_insert_with(|| Value::from(value));
    };
    if let Some((key, secret)) = credentials.and_then(|c| c.split_once(':')) {
        set("access_key_id", &percent_decoded(key));
        set("secret_access_key", &percent_decoded(secret));
    }
    let (host, bucket) = place.split_once('/').unwrap_or(("", place));
    if !bucket.is_empty() {
        set("bucketnames", bucket.trim_end_matches('/'));
    }
    match host {
        "" => {}
        host if host.contains(['.', ':']) => set("endpoint", host),
        region => set("region", region),
    }
    Ok(())
}

fn percent_decoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|h| std::str::from_utf8(h).ok());
        match (bytes[at], hex.and_then(|h| u8::from_str_radix(h, 16).ok())) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 3;
            }
            (byte, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
