//! Go's `fmt.Sprintf`, as far as templates have values for it.

use super::value::Value;
use crate::units::format_float_short;

#[derive(Default)]
struct Spec {
    minus: bool,
    plus: bool,
    sharp: bool,
    space: bool,
    zero: bool,
    width: Option<usize>,
    precision: Option<usize>,
}

/// Widths and precisions beyond this are cut.
const MAX_WIDTH: usize = 10_000;

/// Formats values; mistakes show in the text, as in Go.
pub(super) fn sprintf(format: &[u8], values: &[Value<'_>]) -> Vec<u8> {
    let format = String::from_utf8_lossy(format);
    let mut out = Vec::with_capacity(format.len() + 16);
    let mut rest = &format[..];
    let mut next = 0;
    let mut reordered = false;
    while let Some(at) = rest.find('%') {
        out.extend_from_slice(&rest.as_bytes()[..at]);
        rest = &rest[at + 1..];
        let mut spec = Spec::default();
        loop {
            match rest.bytes().next() {
                Some(b'-') => {
                    spec.minus = true;
                    spec.zero = false;
                }
                Some(b'+') => spec.plus = true,
                Some(b'#') => spec.sharp = true,
                Some(b' ') => spec.space = true,
                Some(b'0') => spec.zero = !spec.minus,
                _ => break,
            }
            rest = &rest[1..];
        }
        if let Some((index, after)) = argument_index(rest) {
            next = index;
            rest = after;
            reordered = true;
        }
        spec.width = count(&mut rest, values, &mut next);
        if let Some(after) = rest.strip_prefix('.') {
            rest = after;
            spec.precision = Some(count(&mut rest, values, &mut next).unwrap_or(0));
        }
        if let Some((index, after)) = argument_index(rest) {
            next = index;
            rest = after;
            reordered = true;
        }
        let Some(verb) = rest.chars().next() else {
            out.extend_from_slice(b"%!(NOVERB)");
            break;
        };
        rest = &rest[verb.len_utf8()..];
        if verb == '%' {
            out.push(b'%');
            continue;
        }
        let Some(value) = values.get(next) else {
            out.extend_from_slice(format!("%!{verb}(MISSING)").as_bytes());
            continue;
        };
        next += 1;
        one(&spec, verb, value, &mut out);
    }
    out.extend_from_slice(rest.as_bytes());
    if !reordered && next < values.len() {
        out.extend_from_slice(b"%!(EXTRA ");
        for (i, value) in values[next..].iter().enumerate() {
            if i > 0 {
                out.extend_from_slice(b", ");
            }
            out.extend_from_slice(value.type_name().as_bytes());
            out.push(b'=');
            value.print(&mut out);
        }
        out.push(b')');
    }
    out
}

fn argument_index(text: &str) -> Option<(usize, &str)> {
    let (digits, after) = text.strip_prefix('[')?.split_once(']')?;
    Some((digits.parse::<usize>().ok()?.checked_sub(1)?, after))
}

fn count(rest: &mut &str, values: &[Value<'_>], next: &mut usize) -> Option<usize> {
    if let Some(after) = rest.strip_prefix('*') {
        *rest = after;
        let value = values.get(*next);
        *next += 1;
        return match value {
            Some(Value::Int(i)) => usize::try_from(*i).ok().map(|w| w.min(MAX_WIDTH)),
            _ => None,
        };
    }
    let len = rest.bytes().take_while(u8::is_ascii_digit).count();
    let value = rest[..len].parse::<usize>().ok().map(|w| w.min(MAX_WIDTH));
    *rest = &rest[len..];
    value
}

fn one(spec: &Spec, verb: char, value: &Value<'_>, out: &mut Vec<u8>) {
    let text: Option<Vec<u8>> = match (verb, value) {
        ('T', value) => Some(value.type_name().as_bytes().to_vec()),
        ('v', Value::Int(i)) => Some(signed(spec, *i, 10, false)),
        ('v', Value::Float(f)) => Some(float(spec, 'v', *f)),
        ('v', Value::Nothing) => Some(b"<nil>".to_vec()),
        ('v', Value::Text(t)) if spec.sharp => Some(crate::units::go_quote(t.as_str()).into_bytes()),
        ('v', value) => {
            let mut shown = vec![];
            value.print(&mut shown);
            Some(shown)
        }
        ('t', Value::Bool(b)) => Some(b.to_string().into_bytes()),
        ('s', Value::Text(t)) => Some(cut(spec, t.bytes())),
        ('q', Value::Text(t)) => Some(crate::units::go_quote(t.as_str()).into_bytes()),
        ('x' | 'X', Value::Text(t)) => Some(
            t.bytes()
                .iter()
                .flat_map(|b| if verb == 'x' { format!("{b:02x}") } else { format!("{b:02X}") }.into_bytes())
                .collect(),
        ),
        ('d', Value::Int(i)) => Some(signed(spec, *i, 10, false)),
        ('b', Value::Int(i)) => Some(signed(spec, *i, 2, false)),
        ('o' | 'O', Value::Int(i)) => Some(signed(spec, *i, 8, false)),
        ('x', Value::Int(i)) => Some(signed(spec, *i, 16, false)),
        ('X', Value::Int(i)) => Some(signed(spec, *i, 16, true)),
        ('c', Value::Int(i)) => {
            let c = u32::try_from(*i).ok().and_then(char::from_u32).unwrap_or(char::REPLACEMENT_CHARACTER);
            Some(c.to_string().into_bytes())
        }
        ('q', Value::Int(i)) => {
            let c = u32::try_from(*i).ok().and_then(char::from_u32).unwrap_or(char::REPLACEMENT_CHARACTER);
            Some(format!("'{c}'").into_bytes())
        }
        ('U', Value::Int(i)) => Some(format!("U+{i:04X}").into_bytes()),
        ('e' | 'E' | 'f' | 'F' | 'g' | 'G', Value::Float(f)) => Some(float(spec, verb, *f)),
        ('s', Value::Time(_) | Value::List(_) | Value::Map(_)) => {
            let mut shown = vec![];
            value.print(&mut shown);
            Some(shown)
        }
        _ => None,
    };
    match text {
        Some(text) => pad(spec, &text, matches!(value, Value::Int(_) | Value::Float(_)), out),
        None => {
            out.extend_from_slice(format!("%!{verb}(").as_bytes());
            if let Value::Nothing = value {
                out.extend_from_slice(b"<nil>)");
                return;
            }
            out.extend_from_slice(value.type_name().as_bytes());
            out.push(b'=');
            value.print(out);
            out.push(b')');
        }
    }
}

fn cut(spec: &Spec, text: &[u8]) -> Vec<u8> {
    match (spec.precision, std::str::from_utf8(text)) {
        (Some(p), Ok(t)) => t.chars().take(p).collect::<String>().into_bytes(),
        (Some(p), Err(_)) => text[..p.min(text.len())].to_vec(),
        (None, _) => text.to_vec(),
    }
}

fn signed(spec: &Spec, value: i64, base: u32, upper: bool) -> Vec<u8> {
    let magnitude = value.unsigned_abs();
    let mut digits = match (base, upper) {
        (2, _) => format!("{magnitude:b}"),
        (8, _) => format!("{magnitude:o}"),
        (16, false) => format!("{magnitude:x}"),
        (16, true) => format!("{magnitude:X}"),
        _ => magnitude.to_string(),
    };
    if let Some(p) = spec.precision {
        digits = format!("{digits:0>p$}");
    }
    let prefix = match base {
        16 if spec.sharp => "0x",
        8 if spec.sharp => "0",
        2 if spec.sharp => "0b",
        _ => "",
    };
    format!("{}{prefix}{digits}", sign(spec, value < 0)).into_bytes()
}

fn sign(spec: &Spec, negative: bool) -> &'static str {
    if negative {
        "-"
    } else if spec.plus {
        "+"
    } else if spec.space {
        " "
    } else {
        ""
    }
}

fn float(spec: &Spec, verb: char, value: f64) -> Vec<u8> {
    let magnitude = value.abs();
    let body = if value.is_nan() {
        "NaN".to_owned()
    } else if value.is_infinite() {
        return format!("{}Inf", if value < 0.0 { "-" } else { "+" }).into_bytes();
    } else {
        match verb {
            'f' | 'F' => format!("{magnitude:.*}", spec.precision.unwrap_or(6)),
            'e' | 'E' => exponent(&format!("{magnitude:.*e}", spec.precision.unwrap_or(6)), verb == 'E'),
            _ => match spec.precision {
                None => format_float_short(magnitude),
                Some(p) => general(magnitude, p.max(1), verb == 'G'),
            },
        }
    };
    format!("{}{body}", sign(spec, value.is_sign_negative() && !value.is_nan())).into_bytes()
}

/// Rust's exponents have no sign and no padding; Go's have both.
fn exponent(text: &str, upper: bool) -> String {
    let (mantissa, exponent) = text.split_once('e').unwrap_or((text, "0"));
    let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |d| ('-', d));
    format!("{mantissa}{}{sign}{digits:0>2}", if upper { 'E' } else { 'e' })
}

/// `%g` with a precision: significant digits without trailing zeros.
fn general(value: f64, precision: usize, upper: bool) -> String {
    let scientific = format!("{value:.*e}", precision - 1);
    let (mantissa, power) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let power: i32 = power.parse().unwrap_or(0);
    let strip = |t: &str| {
        if t.contains('.') { t.trim_end_matches('0').trim_end_matches('.').to_owned() } else { t.to_owned() }
    };
    if power < -4 || power >= precision as i32 {
        return exponent(&format!("{}e{power}", strip(mantissa)), upper);
    }
    let decimals = (precision as i32 - 1 - power).max(0) as usize;
    strip(&format!("{value:.decimals$}"))
}

fn pad(spec: &Spec, text: &[u8], number: bool, out: &mut Vec<u8>) {
    let chars = String::from_utf8_lossy(text).chars().count();
    let missing = spec.width.unwrap_or(0).saturating_sub(chars);
    if missing == 0 {
        out.extend_from_slice(text);
    } else if spec.minus {
        out.extend_from_slice(text);
        out.resize(out.len() + missing, b' ');
    } else if spec.zero {
        // Zeros go between the sign and the digits.
        let signed = number && matches!(text.first(), Some(b'-' | b'+' | b' '));
        let (sign, digits) = text.split_at(usize::from(signed));
        out.extend_from_slice(sign);
        out.resize(out.len() + missing, b'0');
        out.extend_from_slice(digits);
    } else {
        out.resize(out.len() + missing, b' ');
        out.extend_from_slice(text);
    }
}
