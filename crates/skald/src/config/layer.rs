//! Layers of the configuration: the file, the environment, the flags. Each is checked against the keys there are.

use std::path::Path;

use figment::error::Kind;
use figment::value::{Dict, Map as Profiles};
use figment::{Metadata, Profile, Provider};
use serde_json::{Map, Value};

use super::{Error, Flag, expand, keys, read};

/// One layer: a tree of keys with where it comes from.
pub(super) struct Layer {
    /// What to call a key of this layer in an error.
    origin: Origin,
    tree: Value,
}

#[derive(Clone)]
enum Origin {
    File(String),
    Environment,
    Flags(Vec<Flag>),
}

/// Before the name of a variable that sets a key; sections are separated by two underscores.
const VARIABLE_PREFIX: &str = "SKALD_";

impl Layer {
    /// The file, with the Loki keys in it that have no effect.
    pub(super) fn file(
        path: &Path,
        expand_env: bool,
        environment: &[(String, String)],
        defaults: &Value,
    ) -> Result<(Self, Vec<String>), Error> {
        let name = path.display().to_string();
        let fail = |text: String| Error(format!("{name}: {text}"));
        let mut text = read(path)?;
        if expand_env {
            text = expand::expand(&text, environment).map_err(|e| fail(e.0))?;
        }
        let mut tree = parse_yaml(&text).map_err(fail)?;
        keys::adopt_storage_config(&mut tree).map_err(fail)?;
        keys::adopt_zone(&mut tree);
        let unused = keys::check(&mut tree, defaults).map_err(fail)?;
        coerce(&mut tree, defaults, false);
        Ok((Self { origin: Origin::File(name), tree }, unused))
    }

    /// Variables such as `SKALD_SERVER__HTTP_LISTEN_PORT`, with those that have no effect.
    ///
    /// A variable without two underscores that names no key at the top is left alone: Kubernetes sets such ones
    /// (`SKALD_SERVICE_HOST`) beside every service of that name.
    pub(super) fn environment(
        variables: &[(String, String)],
        defaults: &Value,
    ) -> Result<(Self, Vec<String>), Error> {
        let mut tree = Value::Object(Map::new());
        let mut unused = Vec::new();
        for (name, value) in variables {
            let Some(rest) = name.strip_prefix(VARIABLE_PREFIX) else { continue };
            let key = rest.to_ascii_lowercase().replace("__", ".");
            if !rest.contains("__") && defaults.get(&key).is_none_or(Value::is_object) {
                continue;
            }
            let fail = |e| Error(format!("environment variable {name}: {e}"));
            if keys::has_effect(&key, defaults).map_err(fail)? {
                insert(&mut tree, &key, Value::String(value.clone()));
            } else {
                unused.push(name.clone());
            }
        }
        coerce(&mut tree, defaults, true);
        Ok((Self { origin: Origin::Environment, tree }, unused))
    }

    /// Keys from the command line, with the flags that have no effect.
    pub(super) fn flags(flags: &[Flag], defaults: &Value) -> Result<(Self, Vec<String>), Error> {
        let mut tree = Value::Object(Map::new());
        let mut unused = Vec::new();
        for flag in flags {
            let fail = |e| Error(format!("flag {}: {e}", flag.name));
            if keys::has_effect(&flag.key, defaults).map_err(fail)? {
                insert(&mut tree, &flag.key, Value::String(flag.value.clone()));
            } else {
                unused.push(flag.name.clone());
            }
        }
        coerce(&mut tree, defaults, true);
        Ok((Self { origin: Origin::Flags(flags.to_vec()), tree }, unused))
    }
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        let origin = self.origin.clone();
        Metadata::named("configuration").interpolater(move |_, path| {
            let key = path.join(".");
            match &origin {
                Origin::File(name) => format!("{name}: {key}"),
                Origin::Environment => {
                    let variable = path.join("__").to_ascii_uppercase();
                    format!("environment variable {VARIABLE_PREFIX}{variable}: {key}")
                }
                Origin::Flags(flags) => {
                    let flag = flags.iter().rfind(|f| f.key == key).map_or("", |f| f.name.as_str());
                    format!("flag {flag}: {key}")
                }
            }
        })
    }

    fn data(&self) -> figment::Result<Profiles<Profile, Dict>> {
        let value = figment::value::Value::serialize(&self.tree)?;
        let dict = value.into_dict().unwrap_or_default();
        Ok(Profiles::from([(Profile::Default, dict)]))
    }
}

/// Says what is wrong with which value from where, one line per value.
pub(super) fn explain(errors: figment::Error) -> String {
    let explained = errors.into_iter().map(|error| {
        let path: Vec<&str> = error.path.iter().map(String::as_str).collect();
        let place = match &error.metadata {
            Some(metadata) => metadata.interpolate(&Profile::Default, &path),
            None => path.join("."),
        };
        match &error.kind {
            Kind::InvalidType(found, expected) | Kind::InvalidValue(found, expected) => {
                format!("{place}: expected {expected}, found {found}")
            }
            Kind::UnknownVariant(found, expected) => {
                format!("{place}: expected one of {}, found {found:?}", expected.join(", "))
            }
            Kind::Message(text) => format!("{place}: {text}"),
            other => format!("{place}: {other}"),
        }
    });
    explained.collect::<Vec<_>>().join("\n")
}

/// The tree of a YAML document. Keys become text, anchors and merges are resolved, a key without a value is left out.
pub(super) fn parse_yaml(text: &str) -> Result<Value, String> {
    use serde_yaml_ng::Value as Yaml;
    fn convert(yaml: Yaml) -> Result<Value, String> {
        Ok(match yaml {
            Yaml::Null => Value::Null,
            Yaml::Bool(b) => b.into(),
            Yaml::Number(n) => serde_json::to_value(&n).unwrap_or_else(|_| n.to_string().into()),
            Yaml::String(s) => s.into(),
            Yaml::Sequence(items) => items.into_iter().map(convert).collect::<Result<_, _>>()?,
            Yaml::Mapping(map) => {
                let mut out = Map::new();
                for (key, value) in map {
                    let key = match key {
                        Yaml::String(s) => s,
                        Yaml::Number(n) => n.to_string(),
                        Yaml::Bool(b) => b.to_string(),
                        _ => return Err("a key is neither text nor a number".into()),
                    };
                    let value = convert(value)?;
                    if !value.is_null() {
                        out.insert(key, value);
                    }
                }
                Value::Object(out)
            }
            Yaml::Tagged(tagged) => convert(tagged.value)?,
        })
    }
    let mut yaml: Yaml = serde_yaml_ng::from_str(text).map_err(|e| format!("not valid YAML: {e}"))?;
    yaml.apply_merge().map_err(|e| format!("not valid YAML: {e}"))?;
    match convert(yaml)? {
        Value::Null => Ok(Value::Object(Map::new())),
        tree @ Value::Object(_) => Ok(tree),
        _ => Err("expected keys with values at the top".into()),
    }
}

/// Sets the key with dots to `value`, making the maps on the way.
fn insert(tree: &mut Value, key: &str, value: Value) {
    let mut at = tree;
    for part in key.split('.') {
        if !at.is_object() {
            *at = Value::Object(Map::new());
        }
        at = &mut at[part];
    }
    *at = value;
}

/// Brings scalars to the type that the defaults have, where that is meant: `region: 1` is text. With `from_text`,
/// where all values are text, numbers, booleans and lists are read out of it.
fn coerce(tree: &mut Value, defaults: &Value, from_text: bool) {
    match (&mut *tree, defaults) {
        (Value::Object(map), Value::Object(defaults)) => {
            for (key, value) in map {
                if let Some(default) = defaults.get(key) {
                    coerce(value, default, from_text);
                }
            }
        }
        (Value::Number(n), Value::String(_)) => *tree = n.to_string().into(),
        (Value::Bool(b), Value::String(_)) => *tree = b.to_string().into(),
        (Value::String(text), Value::Array(_)) if from_text => {
            let parts = text.split(',').map(str::trim).filter(|p| !p.is_empty());
            *tree = parts.map(Value::from).collect();
        }
        (Value::String(text), Value::Number(_) | Value::Bool(_)) if from_text => {
            if let Ok(value @ (Value::Number(_) | Value::Bool(_))) = serde_json::from_str(text.trim()) {
                *tree = value;
            }
        }
        _ => {}
    }
}
