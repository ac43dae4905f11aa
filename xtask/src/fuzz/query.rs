//! Questions that cannot be answered: wrong queries, times, numbers and escapes, in the URL or in a form.

use super::pick;
use super::request::Request;
use crate::random::Random;

/// A parameter by its name.
type Parameters = Vec<(&'static str, String)>;

/// A malformed question.
pub(super) fn generate(random: &mut Random) -> Request {
    match random.within(0..100) {
        0..45 => bad_query(random),
        45..80 => bad_parameter(random),
        80..90 => bad_escape(random),
        _ => other(random),
    }
}

/// GET with the parameters in the URL, or POST with them in a form.
fn request(random: &mut Random, family: &'static str, path: &str, parameters: &Parameters) -> Request {
    let text: Vec<String> =
        parameters.iter().map(|(name, value)| format!("{name}={}", escape(value))).collect();
    let text = text.join("&");
    // A line of a request has a bound; a form has a larger one.
    if text.len() > 16_000 || random.percent(30) {
        return Request::new(family, "POST", path)
            .with("Content-Type", "application/x-www-form-urlencoded")
            .body(text);
    }
    Request::new(family, "GET", format!("{path}?{text}"))
}

fn escape(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' => out.push(byte as char),
            _ => write!(out, "%{byte:02X}").expect("a string takes everything"),
        }
    }
    out
}

/// Texts that no query is.
fn no_query(random: &mut Random) -> String {
    // Without templates, regular expressions of line filters and ip(): Loki looks at these when there are lines.
    const TEXTS: &[&str] = &[
        "",
        " ",
        "{",
        "}",
        "{}{}",
        "{a}",
        "{a=}",
        "{=\"b\"}",
        "{a=\"b\"",
        "{a=\"b\"}}",
        "{a=\"b\",,}",
        "{a=~\"(\"}",
        "{a=~\"[z-a]\"}",
        "{a=~\"*\"}",
        "{a==\"b\"}",
        "{a=\"b\"} |",
        "{a=\"b\"} |=",
        "{a=\"b\"} |= x",
        "{a=\"b\"} | foo bar",
        "{a=\"b\"} | json |",
        "{a=\"b\"} | regexp \"(\"",
        "{a=\"b\"} | pattern \"\"",
        "{a=\"b\"} | label_format",
        "{a=\"b\"} | x >",
        "{a=\"b\"} | x > 5xyz",
        "{a=\"b\"} | unwrap",
        "{a=\"b\"}[",
        "rate({a=\"b\"})",
        "rate({a=\"b\"}[)",
        "rate({a=\"b\"}[5x])",
        "rate({a=\"b\"}[5m]) by",
        "rate({a=\"b\"}[5m]) offset",
        "sum(",
        "sum by (",
        "sum by (x)",
        "topk({a=\"b\"}[5m])",
        "topk(0, rate({a=\"b\"}[5m]))",
        "quantile_over_time(x, {a=\"b\"} | unwrap y [5m])",
        "sum_over_time({a=\"b\"}[5m])",
        "1 +",
        "+",
        "1 1",
        "foo(1)",
        "vector()",
        "label_replace(vector(1))",
        "{a=\"b\"} /* x",
        "\u{0}",
    ];
    match random.within(0..10) {
        0 => {
            // Nested as deep as the text may be long.
            let open = pick(
                random,
                &["(", "sum(", "-", "rate({a=\"b\"} | (", "vector(1) + (", "{a=\"b\"} | (((a=\"b\" or "],
            );
            open.repeat(random.within(1..100_000 / open.len() as u64) as usize)
        }
        1 => format!("{{a=\"{}\"}}", "x".repeat(random.within(131_073..140_000) as usize)),
        2 => (0..random.within(1..200))
            .map(|_| char::from(random.within(1..128) as u8))
            .chain(['\u{0}'])
            .collect(),
        3 => {
            // Never closed.
            let inside = "é\\\"".repeat(random.within(0..50) as usize);
            format!("{{a=\"b\"}} |= \"{inside}")
        }
        4 => format!("{}{{a=\"b\"", pick(random, TEXTS)),
        _ => pick(random, TEXTS).to_owned(),
    }
}

fn bad_query(random: &mut Random) -> Request {
    let text = no_query(random);
    let endpoints = [
        ("/loki/api/v1/query_range", "query"),
        ("/loki/api/v1/query", "query"),
        ("/loki/api/v1/format_query", "query"),
        ("/api/prom/query", "query"),
        ("/loki/api/v1/labels", "query"),
        ("/loki/api/v1/label/a/values", "query"),
        ("/loki/api/v1/series", "match[]"),
        ("/loki/api/v1/index/stats", "query"),
        ("/loki/api/v1/index/volume", "query"),
        ("/loki/api/v1/index/volume_range", "query"),
        ("/loki/api/v1/patterns", "query"),
        ("/loki/api/v1/detected_fields", "query"),
        ("/loki/api/v1/detected_labels", "query"),
        ("/loki/api/v1/tail", "query"),
    ];
    let (path, name) = endpoints[random.within(0..endpoints.len() as u64) as usize];
    // Without a selector these tell of everything.
    let optional = !path.contains("/query") && !path.contains("format_query");
    let text = if optional && text.trim().is_empty() { "{".to_owned() } else { text };
    request(random, "query", path, &vec![(name, text)])
}

fn bad_parameter(random: &mut Random) -> Request {
    let time = [
        "x",
        "2026-13-01T00:00:00Z",
        "1.2.3",
        "99999999999999999999",
        "now",
        "--5",
        "2026-01-01",
        "1e999",
        "\u{0}",
    ];
    let number = ["x", "-1", "1.5", "99999999999999999999", "0x10", "1e3", "ten", "\u{0}"];
    let range: (&str, &[(&str, &[&str])]) = (
        "/loki/api/v1/query_range",
        &[
            ("start", &time),
            ("end", &time),
            ("limit", &["x", "-1", "0", "5001", "99999999999999999999", "1.5", "0x10"]),
            ("step", &["x", "-5m", "0", "-1", "NaN", "1h1x", "1ns", "0.000001"]),
            ("interval", &["x", "-1", "-5m", "1h1x"]),
            ("direction", &["up", "forwards", "1", "\u{0}"]),
            ("since", &["x", "-1h", "1.5h", "1h1h", "99999999y"]),
        ],
    );
    let instant: (&str, &[(&str, &[&str])]) =
        ("/loki/api/v1/query", &[("time", &time), ("limit", &number), ("direction", &["up", "sideways"])]);
    let names: (&str, &[(&str, &[&str])]) =
        ("/loki/api/v1/labels", &[("start", &time), ("end", &time), ("since", &["x", "-1h", "1.5h"])]);
    let values = ("/loki/api/v1/label/a/values", names.1);
    let series = ("/loki/api/v1/series", names.1);
    let stats = ("/loki/api/v1/index/stats", &names.1[..2]);
    let volume = ("/loki/api/v1/index/volume", &names.1[..2]);
    let tail: (&str, &[(&str, &[&str])]) = (
        "/loki/api/v1/tail",
        &[("delay_for", &["x", "-1", "6", "100"]), ("limit", &["x", "-1"]), ("start", &time)],
    );
    let legacy: (&str, &[(&str, &[&str])]) = (
        "/api/prom/query",
        &[("start", &time), ("end", &time), ("limit", &["x", "-1"]), ("direction", &["up"])],
    );
    let among = [range, range, instant, names, values, series, stats, volume, tail, legacy];
    let (path, parameters) = among[random.within(0..among.len() as u64) as usize];
    let (name, wrong) = parameters[random.within(0..parameters.len() as u64) as usize];
    let mut all: Parameters = vec![(name, pick(random, wrong).to_owned())];
    match path {
        "/loki/api/v1/query" => all.push(("query", "vector(1)".into())),
        _ => all.push(("query", "{a=\"b\"}".into())),
    }
    if path == "/loki/api/v1/query_range" && random.percent(15) {
        // Each of these is fine by itself.
        all = vec![("query", "{a=\"b\"}".into())];
        all.extend(match random.within(0..3) {
            0 => vec![("start", "1700000001".to_owned()), ("end", "1700000000".to_owned())],
            1 => vec![
                ("start", "1700000000".to_owned()),
                ("end", "1700100000".to_owned()),
                ("step", "1".to_owned()),
            ],
            _ => vec![("start", "1600000000".to_owned()), ("end", "1700000000".to_owned())],
        });
    }
    request(random, "parameter", path, &all)
}

/// Escapes that mean nothing.
fn bad_escape(random: &mut Random) -> Request {
    let wrong = pick(random, &["%", "%z", "%zz", "%2", "%u0041", "a;b=c", "%%", "%-1"]);
    let path = pick(random, &["/loki/api/v1/query_range", "/loki/api/v1/query", "/api/prom/query"]);
    if random.percent(50) {
        return Request::new("escape", "GET", format!("{path}?query={wrong}"));
    }
    Request::new("escape", "POST", path)
        .with("Content-Type", "application/x-www-form-urlencoded")
        .body(format!("query={wrong}"))
}

fn other(random: &mut Random) -> Request {
    match random.within(0..3) {
        0 => Request::new("other", "POST", "/log_level?log_level=loud"),
        // A body that is no form: the query is missing.
        1 => Request::new("other", "POST", pick(random, &["/loki/api/v1/query_range", "/loki/api/v1/query"]))
            .with(
                "Content-Type",
                pick(random, &["application/json", "text/plain", "a/b/c", "multipart/form-data"]),
            )
            .body("query=vector(1)"),
        _ => Request::new(
            "other",
            "GET",
            format!("/loki/api/v1/query?query=vector(1)&time={}", "9".repeat(20_000)),
        ),
    }
}
