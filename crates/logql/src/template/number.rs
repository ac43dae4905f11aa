//! Numbers of templates: literals, conversions, decimal arithmetic.

use super::parse::Number;
use super::value::Value;
use crate::units;

/// Reads a numeric literal in Go's syntax.
pub(super) fn literal(text: &str) -> Option<Number> {
    let int = parse_int_any_base(text);
    let float = match int {
        Some(i) => i as f64,
        None => units::parse_go_float(&text.replace('_', "")).ok()?,
    };
    // A float that is whole may be used as an integer, as in Go.
    let whole = (float.fract() == 0.0 && float.abs() < 9e15).then_some(float as i64);
    Some(Number { text: text.to_owned(), int: int.or(whole), float })
}

/// Reads an integer with an optional prefix (`0x`, `0b`, `0o`, `0`), as Go's `ParseInt` with base 0.
pub(super) fn parse_int_any_base(text: &str) -> Option<i64> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let lower = digits.to_ascii_lowercase();
    let (base, body) = if let Some(b) = lower.strip_prefix("0x") {
        (16, b)
    } else if let Some(b) = lower.strip_prefix("0b") {
        (2, b)
    } else if let Some(b) = lower.strip_prefix("0o") {
        (8, b)
    } else if lower.len() > 1 && lower.starts_with('0') {
        (8, &lower[1..])
    } else {
        (10, &lower[..])
    };
    if body.is_empty() || body.starts_with(['+', '-']) {
        return None;
    }
    let value = i128::from_str_radix(&body.replace('_', ""), base).ok()?;
    i64::try_from(if negative { -value } else { value }).ok()
}

/// Anything as an integer, as the `int` function: what is no number is 0.
pub(super) fn to_int(value: &Value<'_>) -> i64 {
    match value {
        Value::Int(i) => *i,
        Value::Float(f) => *f as i64,
        Value::Bool(b) => i64::from(*b),
        Value::Text(t) => {
            let text = trim_zero_decimal(t.as_str());
            parse_int_any_base(text).unwrap_or(0)
        }
        _ => 0,
    }
}

/// Without a fraction of zeros: `12.00` counts as `12`.
fn trim_zero_decimal(text: &str) -> &str {
    match text.split_once('.') {
        Some((whole, fraction)) if !fraction.is_empty() && fraction.bytes().all(|b| b == b'0') => whole,
        _ => text,
    }
}

/// Anything as a float, as the `float64` function: what is no number is 0.
pub(super) fn to_float(value: &Value<'_>) -> f64 {
    match value {
        Value::Int(i) => *i as f64,
        Value::Float(f) => *f,
        Value::Bool(b) => f64::from(u8::from(*b)),
        Value::Text(t) => units::parse_go_float(t.as_str()).unwrap_or(0.0),
        _ => 0.0,
    }
}

/// A decimal: `digits / 10^scale`.
#[derive(Clone, Copy, Debug)]
struct Decimal {
    digits: i128,
    scale: u32,
}

/// Digits after the point of a quotient.
const DIVISION_SCALE: u32 = 16;

impl Decimal {
    /// The shortest decimal that stands for `value`.
    fn new(value: f64) -> Option<Self> {
        if !value.is_finite() {
            return None;
        }
        let text = format!("{value}");
        let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
        Some(Self { digits: format!("{whole}{fraction}").parse().ok()?, scale: fraction.len() as u32 })
    }

    fn rescale(self, scale: u32) -> Option<i128> {
        self.digits.checked_mul(10i128.checked_pow(scale.checked_sub(self.scale)?)?)
    }

    fn float(self) -> f64 {
        format!("{}e-{}", self.digits, self.scale).parse().unwrap_or(f64::NAN)
    }

    fn apply(self, operator: char, other: Self) -> Option<Self> {
        let scale = self.scale.max(other.scale);
        let (a, b) = (self.rescale(scale)?, other.rescale(scale)?);
        Some(match operator {
            '+' => Self { digits: a.checked_add(b)?, scale },
            '-' => Self { digits: a.checked_sub(b)?, scale },
            '*' => Self { digits: self.digits.checked_mul(other.digits)?, scale: self.scale + other.scale },
            _ => {
                let (a, b) = (a.checked_mul(10i128.pow(DIVISION_SCALE))?, b);
                let (quotient, rest) = (a.checked_div(b)?, a % b);
                let up = rest.unsigned_abs() * 2 >= b.unsigned_abs();
                let sign = if (a < 0) == (b < 0) { 1 } else { -1 };
                Self { digits: quotient + if up { sign } else { 0 }, scale: DIVISION_SCALE }
            }
        })
    }
}

/// `addf` and its relatives: exact in decimals as far as they go, so that `0.1 + 0.2` is `0.3`.
pub(super) fn decimal_operation(operator: char, values: &[f64]) -> Result<f64, String> {
    let mut values = values.iter().copied();
    let Some(first) = values.next() else { return Ok(0.0) };
    let mut total = first;
    for value in values {
        if operator == '/' && value == 0.0 {
            return Err("decimal division by 0".into());
        }
        let exact = Decimal::new(total).zip(Decimal::new(value)).and_then(|(a, b)| a.apply(operator, b));
        total = match exact {
            Some(d) => d.float(),
            None => match operator {
                '+' => total + value,
                '-' => total - value,
                '*' => total * value,
                _ => total / value,
            },
        };
    }
    Ok(total)
}
