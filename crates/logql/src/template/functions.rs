//! The functions of templates.

use std::rc::Rc;

use base64_text::{decode, encode};
use skald_model::Timestamp;
use skald_model::regex::{Mode, Regex};

use super::layout;
use super::number::{decimal_operation, to_float, to_int};
use super::parse::{Argument, Kind};
use super::printf::sprintf;
use super::value::{Time, Value};
use crate::units;

mod base64_text;
mod escape;

/// What functions know of the entry.
#[derive(Clone, Copy)]
pub(super) struct Call<'a> {
    pub line: &'a [u8],
    pub timestamp: Timestamp,
}

/// What an argument must be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Want {
    Any,
    Text,
    Int,
    Time,
}

macro_rules! functions {
    ($($variant:ident $name:literal $min:literal..$max:literal [$($want:ident)*];)*) => {
        /// A function by name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Function { $($variant),* }

        impl Function {
            /// The function called `name`.
            pub(super) fn find(name: &str) -> Option<Self> {
                match name { $($name => Some(Function::$variant),)* _ => None }
            }
            /// The name as written.
            pub(super) fn name(self) -> &'static str {
                match self { $(Function::$variant => $name),* }
            }
            /// Fewest and most arguments, and what each must be; the last holds for all that follow.
            fn signature(self) -> (usize, usize, &'static [Want]) {
                match self { $(Function::$variant => ($min, $max, &[$(Want::$want),*])),* }
            }
        }
    };
}

functions! {
    // Go's own.
    And "and" 1..99 [Any];
    Or "or" 1..99 [Any];
    Not "not" 1..1 [Any];
    Len "len" 1..1 [Any];
    Index "index" 1..99 [Any];
    Slice "slice" 1..4 [Any];
    Print "print" 0..99 [Any];
    Printf "printf" 1..99 [Text Any];
    Println "println" 0..99 [Any];
    Html "html" 0..99 [Any];
    Js "js" 0..99 [Any];
    UrlQuery "urlquery" 0..99 [Any];
    Eq "eq" 1..99 [Any];
    Ne "ne" 2..2 [Any];
    Lt "lt" 2..2 [Any];
    Le "le" 2..2 [Any];
    Gt "gt" 2..2 [Any];
    Ge "ge" 2..2 [Any];
    // The entry.
    Line "__line__" 0..0 [];
    EntryTime "__timestamp__" 0..0 [];
    // Time.
    Now "now" 0..0 [];
    Date "date" 2..2 [Text Any];
    ToDate "toDate" 2..2 [Text Text];
    ToDateInZone "toDateInZone" 3..3 [Text Text Text];
    UnixEpoch "unixEpoch" 1..1 [Time];
    UnixEpochMillis "unixEpochMillis" 1..1 [Time];
    UnixEpochNanos "unixEpochNanos" 1..1 [Time];
    UnixToTime "unixToTime" 1..1 [Text];
    Duration "duration" 1..1 [Text];
    DurationSeconds "duration_seconds" 1..1 [Text];
    // Text.
    ToLower "ToLower" 1..1 [Text];
    ToUpper "ToUpper" 1..1 [Text];
    GoReplace "Replace" 4..4 [Text Text Text Int];
    GoTrim "Trim" 2..2 [Text];
    TrimLeft "TrimLeft" 2..2 [Text];
    TrimRight "TrimRight" 2..2 [Text];
    GoTrimPrefix "TrimPrefix" 2..2 [Text];
    GoTrimSuffix "TrimSuffix" 2..2 [Text];
    TrimSpace "TrimSpace" 1..1 [Text];
    Lower "lower" 1..1 [Text];
    Upper "upper" 1..1 [Text];
    Title "title" 1..1 [Text];
    Trunc "trunc" 2..2 [Int Text];
    Substr "substr" 3..3 [Int Int Text];
    Contains "contains" 2..2 [Text];
    HasPrefix "hasPrefix" 2..2 [Text];
    HasSuffix "hasSuffix" 2..2 [Text];
    Indent "indent" 2..2 [Int Text];
    Nindent "nindent" 2..2 [Int Text];
    Replace "replace" 3..3 [Text];
    Repeat "repeat" 2..2 [Int Text];
    Trim "trim" 1..1 [Text];
    TrimAll "trimAll" 2..2 [Text];
    TrimPrefix "trimPrefix" 2..2 [Text];
    TrimSuffix "trimSuffix" 2..2 [Text];
    AlignLeft "alignLeft" 2..2 [Int Text];
    AlignRight "alignRight" 2..2 [Int Text];
    Default "default" 2..2 [Any];
    FromJson "fromJson" 1..1 [Text];
    Bytes "bytes" 1..1 [Text];
    Base64Encode "b64enc" 1..1 [Text];
    Base64Decode "b64dec" 1..1 [Text];
    UrlEncode "urlencode" 1..1 [Text];
    UrlDecode "urldecode" 1..1 [Text];
    // Numbers.
    ToInt "int" 1..1 [Any];
    ToFloat "float64" 1..1 [Any];
    Add "add" 0..99 [Any];
    Sub "sub" 2..2 [Any];
    Mul "mul" 1..99 [Any];
    Div "div" 2..2 [Any];
    Mod "mod" 2..2 [Any];
    Addf "addf" 0..99 [Any];
    Subf "subf" 1..99 [Any];
    Mulf "mulf" 1..99 [Any];
    Divf "divf" 1..99 [Any];
    Max "max" 1..99 [Any];
    Min "min" 1..99 [Any];
    Maxf "maxf" 1..99 [Any];
    Minf "minf" 1..99 [Any];
    Ceil "ceil" 1..1 [Any];
    Floor "floor" 1..1 [Any];
    Round "round" 2..3 [Any Int Any];
    // Regular expressions.
    RegexReplaceAll "regexReplaceAll" 3..3 [Text];
    RegexReplaceAllLiteral "regexReplaceAllLiteral" 3..3 [Text];
    Count "count" 2..2 [Text];
}

/// Whether a value counts as true.
pub(super) fn truth(value: &Value<'_>) -> bool {
    match value {
        Value::Nothing => false,
        Value::Bool(b) => *b,
        Value::Int(i) => *i != 0,
        Value::Float(f) => *f != 0.0,
        Value::Text(t) => !t.bytes().is_empty(),
        Value::List(l) => !l.is_empty(),
        Value::Map(m) => !m.is_empty(),
        Value::Time(_) | Value::Labels => true,
    }
}

type Outcome<'a> = Result<Value<'a>, String>;

/// Results of `repeat`, `indent` and the like may not be longer.
const MAX_RESULT_BYTES: usize = 16 << 20;

impl Function {
    /// Whether the function takes so many arguments; if not, how many it wants.
    pub(super) fn check_count(self, count: usize) -> Result<(), String> {
        let (min, max, _) = self.signature();
        if count < min {
            return Err(if max > 9 { format!("at least {min}") } else { min.to_string() });
        }
        if count > max { Err(max.to_string()) } else { Ok(()) }
    }

    /// Whether argument `i` has the type that it must have.
    pub(super) fn check_argument(
        self,
        i: usize,
        _count: usize,
        value: &Value<'_>,
        argument: Option<&Argument>,
    ) -> Result<(), String> {
        let (_, _, wants) = self.signature();
        let want = wants.get(i).or(wants.last()).copied().unwrap_or(Want::Any);
        let (fits, name) = match want {
            Want::Any => (true, ""),
            Want::Text => (matches!(value, Value::Text(_)), "string"),
            Want::Int => (
                matches!(value, Value::Int(_))
                    || matches!(value, Value::Float(f) if f.fract() == 0.0 && is_literal(argument)),
                "int",
            ),
            Want::Time => (matches!(value, Value::Time(_)), "time.Time"),
        };
        if fits {
            return Ok(());
        }
        // Go words it by whether the argument is a literal.
        if let Some(argument) = argument.filter(|a| is_literal(Some(a))) {
            return Err(match want {
                Want::Text => format!("expected string; found {argument}"),
                Want::Int => format!("expected integer; found {argument}"),
                _ => format!("can't handle {argument} for arg of type {name}"),
            });
        }
        Err(match value {
            Value::Nothing => format!("invalid value; expected {name}"),
            _ => format!("wrong type for value; expected {name}; got {}", value.type_name()),
        })
    }

    /// Calls the function; the error is what Go would say after `error calling name: `.
    pub(super) fn apply<'a>(self, call: &Call<'a>, v: &[Value<'a>]) -> Outcome<'a> {
        let text = |i: usize| -> &str {
            match v.get(i) {
                Some(Value::Text(t)) => t.as_str(),
                _ => "",
            }
        };
        let raw = |i: usize| -> &[u8] {
            match v.get(i) {
                Some(Value::Text(t)) => t.bytes(),
                _ => b"",
            }
        };
        let int = |i: usize| v.get(i).map_or(0, to_int);
        let floats = || v.iter().map(to_float).collect::<Vec<f64>>();
        let boolean = |b: bool| Ok(Value::Bool(b));
        let owned = |s: String| Ok(Value::text(s));
        match self {
            Function::And | Function::Or => Ok(v.last().cloned().unwrap_or(Value::Nothing)),
            Function::Not => boolean(!truth(&v[0])),
            Function::Len => len(&v[0]),
            Function::Index => index(v),
            Function::Slice => slice(v),
            Function::Print => Ok(Value::bytes(print_all(v, false))),
            Function::Println => Ok(Value::bytes(print_all(v, true))),
            Function::Printf => Ok(Value::bytes(sprintf(raw(0), &v[1..]))),
            Function::Html => Ok(Value::bytes(escape::html(&joined(v)))),
            Function::Js => owned(escape::js(&String::from_utf8_lossy(&joined(v)))),
            Function::UrlQuery => owned(escape::url_query(&joined(v))),
            Function::Eq => {
                if v.len() < 2 {
                    return Err("missing argument for comparison".into());
                }
                for other in &v[1..] {
                    if equal(&v[0], other)? {
                        return boolean(true);
                    }
                }
                boolean(false)
            }
            Function::Ne => boolean(!equal(&v[0], &v[1])?),
            Function::Lt => boolean(less(&v[0], &v[1])?),
            Function::Le => boolean(less(&v[0], &v[1])? || equal(&v[0], &v[1])?),
            Function::Gt => boolean(!(less(&v[0], &v[1])? || equal(&v[0], &v[1])?)),
            Function::Ge => boolean(!less(&v[0], &v[1])?),
            Function::Line => Ok(Value::bytes(call.line)),
            Function::EntryTime => Ok(Value::Time(Time::from_nanos(i128::from(call.timestamp)))),
            Function::Now => {
                let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
                Ok(Value::Time(Time::from_nanos(now.map_or(0, |d| d.as_nanos() as i128))))
            }
            Function::Date => {
                let time = match &v[1] {
                    Value::Time(t) => *t,
                    Value::Int(seconds) => Time::from_nanos(i128::from(*seconds) * 1_000_000_000),
                    _ => Function::Now.apply(call, &[]).map(|v| as_time(&v))?,
                };
                owned(layout::format(&time, text(0)))
            }
            Function::ToDate => {
                Ok(Value::Time(layout::parse(text(0), text(1), chrono_tz::UTC).unwrap_or(Time::ZERO)))
            }
            Function::ToDateInZone => {
                let zone = match text(1) {
                    "" | "UTC" | "Local" => Some(chrono_tz::UTC),
                    name => name.parse().ok(),
                };
                let time = zone.and_then(|z| layout::parse(text(0), text(2), z));
                Ok(Value::Time(time.unwrap_or(Time::ZERO)))
            }
            Function::UnixEpoch => owned(as_time(&v[0]).seconds.to_string()),
            Function::UnixEpochMillis => {
                owned((as_time(&v[0]).unix_nanos().div_euclid(1_000_000)).to_string())
            }
            Function::UnixEpochNanos => owned(as_time(&v[0]).unix_nanos().to_string()),
            Function::UnixToTime => unix_to_time(text(0)),
            Function::Duration | Function::DurationSeconds => {
                units::parse_go_duration(text(0)).map(|nanos| Value::Float(nanos as f64 / 1e9))
            }
            Function::ToLower | Function::Lower => Ok(map_text(raw(0), str::to_lowercase)),
            Function::ToUpper | Function::Upper => Ok(map_text(raw(0), str::to_uppercase)),
            Function::GoReplace => owned(match usize::try_from(int(3)) {
                Ok(n) => text(0).replacen(text(1), text(2), n),
                Err(_) => text(0).replace(text(1), text(2)),
            }),
            Function::GoTrim => owned(text(0).trim_matches(|c| text(1).contains(c)).to_owned()),
            Function::TrimLeft => owned(text(0).trim_start_matches(|c| text(1).contains(c)).to_owned()),
            Function::TrimRight => owned(text(0).trim_end_matches(|c| text(1).contains(c)).to_owned()),
            Function::GoTrimPrefix => owned(text(0).strip_prefix(text(1)).unwrap_or(text(0)).to_owned()),
            Function::GoTrimSuffix => owned(text(0).strip_suffix(text(1)).unwrap_or(text(0)).to_owned()),
            Function::TrimSpace | Function::Trim => owned(text(0).trim().to_owned()),
            Function::Title => owned(title(text(0))),
            Function::Trunc => {
                let (n, s) = (int(0), raw(1));
                let len = s.len() as i64;
                Ok(Value::bytes(match n {
                    0.. if len > n => s[..n as usize].to_vec(),
                    ..0 if len + n > 0 => s[(len + n) as usize..].to_vec(),
                    _ => s.to_vec(),
                }))
            }
            Function::Substr => substr(int(0), int(1), raw(2)),
            Function::Contains => boolean(memchr::memmem::find(raw(1), raw(0)).is_some()),
            Function::HasPrefix => boolean(raw(1).starts_with(raw(0))),
            Function::HasSuffix => boolean(raw(1).ends_with(raw(0))),
            Function::Indent => indent(int(0), text(1)).map(Value::text),
            Function::Nindent => indent(int(0), text(1)).map(|t| Value::text(format!("\n{t}"))),
            Function::Replace => owned(text(2).replace(text(0), text(1))),
            Function::Repeat => {
                let count = usize::try_from(int(0)).map_err(|_| "strings: negative Repeat count")?;
                bounded(count.saturating_mul(text(1).len()))?;
                owned(text(1).repeat(count))
            }
            Function::TrimAll => owned(text(1).trim_matches(|c| text(0).contains(c)).to_owned()),
            Function::TrimPrefix => owned(text(1).strip_prefix(text(0)).unwrap_or(text(1)).to_owned()),
            Function::TrimSuffix => owned(text(1).strip_suffix(text(0)).unwrap_or(text(1)).to_owned()),
            Function::AlignLeft | Function::AlignRight => align(self == Function::AlignLeft, int(0), text(1)),
            Function::Default => Ok(if truth(&v[1]) { v[1].clone() } else { v[0].clone() }),
            Function::FromJson => Ok(serde_json::from_slice(raw(0)).map_or(Value::Nothing, Value::from_json)),
            Function::Bytes => units::parse_bytes(text(0)).map(|b| Value::Float(b as f64)),
            Function::Base64Encode => owned(encode(raw(0))),
            Function::Base64Decode => Ok(Value::bytes(decode(raw(0)).unwrap_or_else(String::into_bytes))),
            Function::UrlEncode => owned(escape::url_query(raw(0))),
            Function::UrlDecode => escape::url_unescape(raw(0)).map(Value::bytes),
            Function::ToInt => Ok(Value::Int(to_int(&v[0]))),
            Function::ToFloat => Ok(Value::Float(to_float(&v[0]))),
            Function::Add => Ok(Value::Int(v.iter().fold(0i64, |a, b| a.wrapping_add(to_int(b))))),
            Function::Sub => Ok(Value::Int(int(0).wrapping_sub(int(1)))),
            Function::Mul => Ok(Value::Int(v.iter().fold(1i64, |a, b| a.wrapping_mul(to_int(b))))),
            Function::Div | Function::Mod if int(1) == 0 => {
                Err("runtime error: integer divide by zero".into())
            }
            Function::Div => Ok(Value::Int(int(0).wrapping_div(int(1)))),
            Function::Mod => Ok(Value::Int(int(0).wrapping_rem(int(1)))),
            Function::Addf => decimal_operation('+', &floats()).map(Value::Float),
            Function::Subf => decimal_operation('-', &floats()).map(Value::Float),
            Function::Mulf => decimal_operation('*', &floats()).map(Value::Float),
            Function::Divf => decimal_operation('/', &floats()).map(Value::Float),
            Function::Max => Ok(Value::Int(v.iter().map(to_int).max().unwrap_or(0))),
            Function::Min => Ok(Value::Int(v.iter().map(to_int).min().unwrap_or(0))),
            Function::Maxf => Ok(Value::Float(floats().into_iter().fold(f64::NEG_INFINITY, f64::max))),
            Function::Minf => Ok(Value::Float(floats().into_iter().fold(f64::INFINITY, f64::min))),
            Function::Ceil => Ok(Value::Float(to_float(&v[0]).ceil())),
            Function::Floor => Ok(Value::Float(to_float(&v[0]).floor())),
            Function::Round => {
                let scale = 10f64.powi(int(1).clamp(-300, 300) as i32);
                let digit = to_float(&v[0]) * scale;
                let up = digit.fract() >= v.get(2).map_or(0.5, to_float);
                Ok(Value::Float(if up { digit.ceil() } else { digit.floor() } / scale))
            }
            Function::RegexReplaceAll => replace_all(text(0), raw(1), text(2), true),
            Function::RegexReplaceAllLiteral => replace_all(text(0), raw(1), text(2), false),
            Function::Count => {
                let regex = Regex::new(text(0), Mode::Search)?;
                Ok(Value::Int(regex.engine().find_iter(raw(1)).count() as i64))
            }
        }
    }
}

fn is_literal(argument: Option<&Argument>) -> bool {
    argument.is_some_and(|a| matches!(a.kind, Kind::Number(_) | Kind::Text(..) | Kind::Bool(_)))
}

fn as_time(value: &Value<'_>) -> Time {
    if let Value::Time(t) = value { *t } else { Time::ZERO }
}

fn bounded(bytes: usize) -> Result<(), String> {
    if bytes > MAX_RESULT_BYTES {
        return Err(format!("the result would be longer than {MAX_RESULT_BYTES} bytes"));
    }
    Ok(())
}

/// Changes a text; bytes that are not UTF-8 become replacement characters, as in Go.
fn map_text<'a>(bytes: &[u8], change: impl Fn(&str) -> String) -> Value<'a> {
    Value::text(change(&String::from_utf8_lossy(bytes)))
}

fn len<'a>(value: &Value<'a>) -> Outcome<'a> {
    Ok(Value::Int(match value {
        Value::Text(t) => t.bytes().len(),
        Value::List(l) => l.len(),
        Value::Map(m) => m.len(),
        Value::Nothing => return Err("len of nil pointer".into()),
        other => return Err(format!("len of type {}", other.type_name())),
    } as i64))
}

fn index<'a>(v: &[Value<'a>]) -> Outcome<'a> {
    let mut value = v[0].clone();
    for key in &v[1..] {
        let place = |len: usize| match key {
            Value::Int(i) => usize::try_from(*i)
                .ok()
                .filter(|p| *p < len)
                .ok_or_else(|| format!("index out of range: {i}")),
            Value::Nothing => Err("cannot index slice/array with nil".to_owned()),
            other => Err(format!("cannot index slice/array with type {}", other.type_name())),
        };
        value = match &value {
            Value::Text(t) => Value::Int(i64::from(t.bytes()[place(t.bytes().len())?])),
            Value::List(l) => l[place(l.len())?].clone(),
            Value::Map(m) => match key {
                Value::Text(k) => m.get(k.as_str()).cloned().unwrap_or(Value::Nothing),
                other => {
                    return Err(format!("value has type {}; should be string", other.type_name()));
                }
            },
            Value::Nothing => return Err("index of nil pointer".into()),
            other => return Err(format!("can't index item of type {}", other.type_name())),
        };
    }
    Ok(value)
}

fn slice<'a>(v: &[Value<'a>]) -> Outcome<'a> {
    let len = match &v[0] {
        Value::Text(t) => t.bytes().len(),
        Value::List(l) => l.len(),
        Value::Nothing => return Err("slice of untyped nil".into()),
        other => return Err(format!("can't slice item of type {}", other.type_name())),
    };
    if v.len() == 4 && matches!(v[0], Value::Text(_)) {
        return Err("cannot 3-index slice a string".into());
    }
    let mut bounds = [0, len];
    for (bound, value) in bounds.iter_mut().zip(&v[1..]) {
        let Value::Int(i) = value else {
            return Err(format!("cannot index slice/array with type {}", value.type_name()));
        };
        *bound = usize::try_from(*i)
            .ok()
            .filter(|i| *i <= len)
            .ok_or_else(|| format!("index out of range: {i}"))?;
    }
    let [from, to] = bounds;
    if from > to {
        return Err(format!("invalid slice index: {from} > {to}"));
    }
    Ok(match &v[0] {
        Value::List(l) => Value::List(Rc::new(l[from..to].to_vec())),
        Value::Text(t) => Value::bytes(t.bytes()[from..to].to_vec()),
        _ => Value::Nothing,
    })
}

/// `print` and `println`: the former puts spaces only between operands of which neither is a text.
fn print_all(v: &[Value<'_>], line: bool) -> Vec<u8> {
    let mut out = vec![];
    for (i, value) in v.iter().enumerate() {
        let texts = i > 0 && (matches!(value, Value::Text(_)) || matches!(v[i - 1], Value::Text(_)));
        if i > 0 && (line || !texts) {
            out.push(b' ');
        }
        match value {
            Value::Nothing => out.extend_from_slice(b"<nil>"),
            other => other.print(&mut out),
        }
    }
    if line {
        out.push(b'\n');
    }
    out
}

/// The operands of an escaping function as one text.
fn joined(v: &[Value<'_>]) -> Vec<u8> {
    print_all(v, false)
}

const BAD_COMPARISON_TYPE: &str = "invalid type for comparison";
const BAD_COMPARISON: &str = "incompatible types for comparison";

fn equal(a: &Value<'_>, b: &Value<'_>) -> Result<bool, String> {
    Ok(match (a, b) {
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::Int(a), Value::Int(b)) => a == b,
        (Value::Float(a), Value::Float(b)) => a == b,
        (Value::Text(a), Value::Text(b)) => a == b,
        (Value::Time(a), Value::Time(b)) => a == b,
        (Value::Nothing, Value::Nothing) => true,
        (Value::Nothing, _) | (_, Value::Nothing) => false,
        (Value::List(_) | Value::Map(_), _) | (_, Value::List(_) | Value::Map(_)) => {
            return Err(format!("non-comparable type {}: {}", show(a), a.type_name()));
        }
        _ => return Err(BAD_COMPARISON.into()),
    })
}

fn show(value: &Value<'_>) -> String {
    let mut out = vec![];
    value.print(&mut out);
    String::from_utf8_lossy(&out).into_owned()
}

fn less(a: &Value<'_>, b: &Value<'_>) -> Result<bool, String> {
    Ok(match (a, b) {
        (Value::Int(a), Value::Int(b)) => a < b,
        (Value::Float(a), Value::Float(b)) => a < b,
        (Value::Text(a), Value::Text(b)) => a.bytes() < b.bytes(),
        (
            Value::Int(_) | Value::Float(_) | Value::Text(_),
            Value::Int(_) | Value::Float(_) | Value::Text(_),
        ) => {
            return Err(BAD_COMPARISON.into());
        }
        _ => return Err(BAD_COMPARISON_TYPE.into()),
    })
}

fn unix_to_time<'a>(text: &str) -> Outcome<'a> {
    let number: i64 = text.parse().map_err(|_| {
        format!(
            "unable to parse time '{text}': strconv.ParseInt: parsing {}: invalid syntax",
            units::go_quote(text)
        )
    })?;
    let factor: i128 = match text.len() {
        5 => 86_400 * 1_000_000_000,
        10 => 1_000_000_000,
        13 => 1_000_000,
        16 => 1_000,
        19 => 1,
        _ => return Err(format!("unable to parse time '{text}': %!w(<nil>)")),
    };
    Ok(Value::Time(Time::from_nanos(i128::from(number) * factor)))
}

/// The first letter of each word in upper case; a word begins after anything that is no letter, digit, `_` or `'`.
fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut begins = true;
    for c in text.chars() {
        if begins {
            out.extend(c.to_uppercase());
        } else {
            out.push(c);
        }
        begins = if c.is_ascii() {
            !(c.is_ascii_alphanumeric() || c == '_')
        } else {
            !c.is_alphanumeric() && c.is_whitespace()
        };
    }
    out
}

fn substr<'a>(start: i64, end: i64, text: &[u8]) -> Outcome<'a> {
    let len = text.len() as i64;
    let (from, to) = if start < 0 {
        (0, end)
    } else if end < 0 || end > len {
        (start, len)
    } else {
        (start, end)
    };
    if from > to || to > len || to < 0 {
        return Err(format!("runtime error: slice bounds out of range [{from}:{to}]"));
    }
    Ok(Value::bytes(text[from as usize..to as usize].to_vec()))
}

fn indent(spaces: i64, text: &str) -> Result<String, String> {
    let spaces = usize::try_from(spaces).map_err(|_| "strings: negative Repeat count")?;
    bounded(spaces.saturating_mul(1 + text.matches('\n').count()))?;
    let pad = " ".repeat(spaces);
    Ok(format!("{pad}{}", text.replace('\n', &format!("\n{pad}"))))
}

fn align<'a>(left: bool, count: i64, text: &str) -> Outcome<'a> {
    let chars = text.chars().count();
    let Ok(count) = usize::try_from(count) else { return Ok(Value::text(text.to_owned())) };
    bounded(count)?;
    let out = if count >= chars {
        let pad = " ".repeat(count - chars);
        if left { format!("{text}{pad}") } else { format!("{pad}{text}") }
    } else if left {
        text.chars().take(count).collect()
    } else {
        text.chars().skip(chars - count).collect()
    };
    Ok(Value::text(out))
}

fn replace_all<'a>(expression: &str, text: &[u8], with: &str, expand: bool) -> Outcome<'a> {
    let regex = Regex::new(expression, Mode::Search)?;
    let mut captures = regex.engine().create_captures();
    let mut out = vec![];
    let mut end = 0;
    let found: Vec<_> = regex.engine().find_iter(text).collect();
    for m in found {
        out.extend_from_slice(&text[end..m.start()]);
        if expand {
            let input =
                regex_automata::Input::new(text).range(m.start()..).anchored(regex_automata::Anchored::Yes);
            regex.engine().search_captures(&input, &mut captures);
            regex.expand(with, text, &captures, &mut out);
        } else {
            out.extend_from_slice(with.as_bytes());
        }
        bounded(out.len())?;
        end = m.end();
    }
    out.extend_from_slice(&text[end..]);
    Ok(Value::bytes(out))
}
