//! Values of templates.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::units::format_float_short;

/// A text: bytes, as Go's strings are.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Text<'a>(pub Cow<'a, [u8]>);

impl<'a> Text<'a> {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
    /// The text as far as it is UTF-8, for functions that work on characters.
    pub(super) fn as_str(&self) -> &str {
        match std::str::from_utf8(&self.0) {
            Ok(text) => text,
            Err(e) => std::str::from_utf8(&self.0[..e.valid_up_to()]).unwrap_or_default(),
        }
    }
}

/// A value.
#[derive(Clone, Debug)]
pub(super) enum Value<'a> {
    /// What Go shows as `<no value>`.
    Nothing,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Text<'a>),
    /// A point of time in nanoseconds with its zone.
    Time(Time),
    List(Rc<Vec<Value<'a>>>),
    Map(Rc<BTreeMap<String, Value<'a>>>),
    /// The labels of the entry.
    Labels,
}

/// A point of time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Time {
    /// Seconds since the Unix epoch.
    pub seconds: i64,
    /// And nanoseconds.
    pub nanos: u32,
    /// The zone it is shown in.
    pub zone: chrono_tz::Tz,
}

impl Time {
    /// Go's zero time, the first of January of year 1.
    pub(super) const ZERO: Time = Time { seconds: -62_135_596_800, nanos: 0, zone: chrono_tz::UTC };

    pub(super) fn from_nanos(nanos: i128) -> Self {
        Self {
            seconds: nanos.div_euclid(1_000_000_000) as i64,
            nanos: nanos.rem_euclid(1_000_000_000) as u32,
            zone: chrono_tz::UTC,
        }
    }

    pub(super) fn unix_nanos(&self) -> i128 {
        i128::from(self.seconds) * 1_000_000_000 + i128::from(self.nanos)
    }
}

impl<'a> Value<'a> {
    pub(super) fn text(text: impl Into<Cow<'a, str>>) -> Self {
        Value::Text(Text(match text.into() {
            Cow::Borrowed(t) => Cow::Borrowed(t.as_bytes()),
            Cow::Owned(t) => Cow::Owned(t.into_bytes()),
        }))
    }

    pub(super) fn bytes(bytes: impl Into<Cow<'a, [u8]>>) -> Self {
        Value::Text(Text(bytes.into()))
    }

    /// The name of Go's type, for errors.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Value::Nothing => "nil",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Float(_) => "float64",
            Value::Text(_) => "string",
            Value::Time(_) => "time.Time",
            Value::List(_) => "[]interface {}",
            Value::Map(_) => "map[string]interface {}",
            Value::Labels => "map[string]string",
        }
    }

    /// A value of JSON.
    pub(super) fn from_json(json: serde_json::Value) -> Self {
        match json {
            serde_json::Value::Null => Value::Nothing,
            serde_json::Value::Bool(b) => Value::Bool(b),
            serde_json::Value::Number(n) => Value::Float(n.as_f64().unwrap_or(f64::NAN)),
            serde_json::Value::String(s) => Value::text(s),
            serde_json::Value::Array(list) => {
                Value::List(Rc::new(list.into_iter().map(Value::from_json).collect()))
            }
            serde_json::Value::Object(map) => {
                Value::Map(Rc::new(map.into_iter().map(|(k, v)| (k, Value::from_json(v))).collect()))
            }
        }
    }

    /// Appends the value as Go's `fmt.Print` shows it.
    pub(super) fn print(&self, out: &mut Vec<u8>) {
        match self {
            Value::Nothing => out.extend_from_slice(b"<no value>"),
            Value::Bool(b) => out.extend_from_slice(if *b { b"true" } else { b"false" }),
            Value::Int(i) => out.extend_from_slice(itoa::Buffer::new().format(*i).as_bytes()),
            Value::Float(f) => out.extend_from_slice(format_float_short(*f).as_bytes()),
            Value::Text(t) => out.extend_from_slice(t.bytes()),
            Value::Time(t) => out.extend_from_slice(super::layout::show(t).as_bytes()),
            Value::List(list) => {
                out.push(b'[');
                for (i, v) in list.iter().enumerate() {
                    if i > 0 {
                        out.push(b' ');
                    }
                    v.print_inner(out);
                }
                out.push(b']');
            }
            Value::Map(map) => {
                out.extend_from_slice(b"map[");
                for (i, (k, v)) in map.iter().enumerate() {
                    if i > 0 {
                        out.push(b' ');
                    }
                    out.extend_from_slice(k.as_bytes());
                    out.push(b':');
                    v.print_inner(out);
                }
                out.push(b']');
            }
            Value::Labels => out.extend_from_slice(b"map[]"),
        }
    }

    /// Inside of lists and maps nothing is shown as `<nil>`.
    fn print_inner(&self, out: &mut Vec<u8>) {
        match self {
            Value::Nothing => out.extend_from_slice(b"<nil>"),
            other => other.print(out),
        }
    }
}
