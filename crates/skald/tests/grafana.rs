//! What Grafana asks (data source, Explore, Logs Drilldown, dashboards), asked of a real process, with everything in
//! memory and again with everything in the table.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod support;

use serde_json::{Value, json};
use support::{Server, now};

const SECOND: i64 = 1_000_000_000;

/// A time as Grafana's apps write it.
fn rfc3339(nanos: i64) -> String {
    chrono::DateTime::from_timestamp_nanos(nanos).to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}

fn encode(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

struct Grafana {
    server: Server,
    start: i64,
    end: i64,
}

impl Grafana {
    /// Asks with parameters and headers; the answer must be JSON.
    fn ask(&self, path: &str, params: &[(&str, &str)], headers: &[(&str, &str)]) -> Value {
        let pairs: Vec<String> = params.iter().map(|(n, v)| format!("{n}={}", encode(v))).collect();
        let path = format!("{path}?{}", pairs.join("&"));
        let (status, body) = self.server.get_with(&path, headers);
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap_or_else(|e| panic!("{path}: {e}: {body}"))
    }

    /// With the range in nanoseconds, as the data source sends it.
    fn explore(&self, path: &str, params: &[(&str, &str)], headers: &[(&str, &str)]) -> Value {
        let (start, end) = (self.start.to_string(), self.end.to_string());
        let mut all = vec![("start", start.as_str()), ("end", end.as_str())];
        all.extend(params);
        self.ask(path, &all, headers)
    }

    /// With the range and the tag that Logs Drilldown sends.
    fn drilldown(&self, path: &str, params: &[(&str, &str)]) -> Value {
        let (start, end) = (rfc3339(self.start), rfc3339(self.end));
        let mut all = vec![("start", start.as_str()), ("end", end.as_str())];
        all.extend(params);
        self.ask(path, &all, &[("X-Query-Tags", "Source=grafana-lokiexplore-app")])
    }
}

/// Two services: one with JSON lines and levels, one with logfmt lines. One line a second, `lines` of each.
fn pushed(server: &Server, start: i64, lines: i64) {
    let levels = ["info", "error", "warn"];
    let json: Vec<Value> = (0..lines)
        .map(|i| {
            let (time, level) = ((start + i * SECOND).to_string(), levels[i as usize % 3]);
            let line = json!({"msg": format!("order {i}"), "req": {"ms": i}}).to_string();
            json!([time, line, {"detected_level": level, "trace_id": format!("t{i}")}])
        })
        .collect();
    let logfmt: Vec<Value> = (0..lines)
        .map(|i| json!([(start + i * SECOND).to_string(), format!("n={i} took={i}ms ok=true"), {"detected_level": "info"}]))
        .collect();
    let streams = json!({"streams": [
        {"stream": {"service_name": "shop", "pod": "shop-0"}, "values": json},
        {"stream": {"service_name": "mail", "pod": "mail-0"}, "values": logfmt},
    ]});
    let answer = server.post("/loki/api/v1/push", "application/json", &streams.to_string());
    assert_eq!(answer.0, 204, "{answer:?}");
}

#[test]
fn grafana_gets_what_it_asks_for() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &["--set", "limits_config.max_query_series=5"]);
    let start = now() / SECOND * SECOND - 600 * SECOND;
    pushed(&server, start, 30);
    let grafana = Grafana { server, start, end: start + 60 * SECOND };
    for round in ["memory", "table"] {
        println!("in {round}");
        data_source(&grafana);
        explore(&grafana);
        log_context(&grafana);
        dashboards(&grafana);
        drilldown(&grafana);
        assert_eq!(grafana.server.post("/flush", "text/plain", "").0, 204);
    }
}

/// "Save & test", the label browser, size hints, the format button.
fn data_source(g: &Grafana) {
    let health = g.ask(
        "/loki/api/v1/query",
        &[("query", "vector(1)+vector(1)"), ("direction", "backward"), ("time", "4000000000")],
        &[],
    );
    assert_eq!(health["data"]["resultType"], "vector");
    assert_eq!(health["data"]["result"], json!([{"metric": {}, "value": [4_000_000_000i64, "2"]}]));
    assert!(health["data"]["stats"]["summary"]["execTime"].is_number());

    let data = |answer: Value| answer["data"].clone();
    assert_eq!(data(g.explore("/loki/api/v1/labels", &[], &[])), json!(["pod", "service_name"]));
    let values = g.explore("/loki/api/v1/label/pod/values", &[("query", r#"{service_name="shop"}"#)], &[]);
    assert_eq!(data(values), json!(["shop-0"]));
    let series = g.explore("/loki/api/v1/series", &[("match[]", r#"{service_name="shop"}"#)], &[]);
    assert_eq!(data(series), json!([{"pod": "shop-0", "service_name": "shop"}]));
    let none = g.explore("/loki/api/v1/series", &[("match[]", r#"{service_name="none"}"#)], &[]);
    assert_eq!(data(none), json!([]));
    let stats = g.explore("/loki/api/v1/index/stats", &[("query", r#"{service_name=~".+"}"#)], &[]);
    assert_eq!((&stats["streams"], &stats["entries"]), (&json!(2), &json!(60)), "{stats}");
    assert!(stats["bytes"].as_u64().unwrap() > 1000 && stats["chunks"] == 2, "{stats}");
    let format = g.ask("/loki/api/v1/format_query", &[("query", r#"{a="b"}|="x""#)], &[]);
    assert_eq!(format["data"], r#"{a="b"} |= "x""#);
    let build = g.ask("/loki/api/v1/status/buildinfo", &[], &[]);
    assert!(build["version"].as_str().unwrap().starts_with("3."), "{build}");
}

/// Logs with categorised labels, the volume histogram, the sample of a metric query, an instant query.
fn explore(g: &Grafana) {
    let categorize = [("X-Loki-Response-Encoding-Flags", "categorize-labels")];
    let range = [("direction", "backward"), ("limit", "1000"), ("step", "1000ms")];
    let params = [&[("query", r#"{service_name="shop"} | json"#)][..], &range].concat();
    let logs = g.explore("/loki/api/v1/query_range", &params, &categorize);
    let data = &logs["data"];
    assert_eq!(data["encodingFlags"], json!(["categorize-labels"]));
    assert_eq!(data["result"][0]["stream"], json!({"pod": "shop-0", "service_name": "shop"}));
    let newest = &data["result"][0]["values"][0];
    assert_eq!(newest[0], (g.start + 29 * SECOND).to_string());
    let categories = json!({
        "structuredMetadata": {"detected_level": "warn", "trace_id": "t29"},
        "parsed": {"msg": "order 29", "req_ms": "29"},
    });
    assert_eq!(newest[2], categories);
    assert_eq!(data["result"][0]["values"].as_array().unwrap().len(), 30);

    let volume = g.explore(
        "/loki/api/v1/query_range",
        &[
            (
                "query",
                r#"sum by (level, detected_level) (count_over_time({service_name="shop"} | drop __error__[10s]))"#,
            ),
            ("step", "10000ms"),
        ],
        &[("X-Query-Tags", "Source=logvolhist")],
    );
    assert_eq!(volume["data"]["resultType"], "matrix");
    let series = volume["data"]["result"].as_array().unwrap();
    let levels: Vec<&str> = series.iter().map(|s| s["metric"]["detected_level"].as_str().unwrap()).collect();
    assert_eq!(levels, ["error", "info", "warn"]);
    let count = |s: &Value| s["values"].as_array().unwrap().iter().map(|v| number(&v[1])).sum::<f64>();
    assert_eq!(series.iter().map(count).collect::<Vec<_>>(), [10.0; 3]);

    let sample = g.explore(
        "/loki/api/v1/query_range",
        &[("query", r#"{service_name="shop"}"#), ("limit", "10"), ("step", "1000ms")],
        &[("X-Query-Tags", "Source=logsample")],
    );
    let entries: usize = sample["data"]["result"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["values"].as_array().unwrap().len())
        .sum();
    assert_eq!(entries, 10);
    let time = (g.start + 30 * SECOND).to_string();
    let query = r#"sum(count_over_time({service_name="mail"}[1m]))"#;
    let instant = g.ask("/loki/api/v1/query", &[("query", query), ("time", &time)], &[]);
    assert_eq!(instant["data"]["result"][0]["value"][1], "30");
}

fn number(value: &Value) -> f64 {
    value.as_str().unwrap().parse().unwrap()
}

/// Two queries around a row: forward with the row, backward before it.
fn log_context(g: &Grafana) {
    let row = g.start + 10 * SECOND;
    let hours = 7200 * SECOND;
    let lines = |direction: &str, start: i64, end: i64| {
        let (start, end) = (start.to_string(), end.to_string());
        let params = [
            ("query", r#"{pod="mail-0",service_name="mail"}"#),
            ("direction", direction),
            ("limit", "3"),
            ("start", &start),
            ("end", &end),
        ];
        let answer = g.ask("/loki/api/v1/query_range", &params, &[("X-Query-Tags", "Source=logscontext")]);
        let values = answer["data"]["result"][0]["values"].as_array().unwrap().clone();
        values
            .iter()
            .map(|v| v[1].as_str().unwrap().split(' ').next().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(lines("forward", row, row + hours), ["n=10", "n=11", "n=12"]);
    assert_eq!(lines("backward", row - hours, row), ["n=9", "n=8", "n=7"]);
}

/// Variables, and annotations, which are plain range queries.
fn dashboards(g: &Grafana) {
    let names = g.explore("/loki/api/v1/labels", &[], &[]);
    assert!(names["data"].as_array().unwrap().contains(&json!("pod")), "{names}");
    let values = g.explore("/loki/api/v1/label/service_name/values", &[], &[]);
    assert_eq!(values["data"], json!(["mail", "shop"]));
    let params = [("query", r#"{service_name="shop"} |= "order 7""#), ("limit", "100"), ("step", "1000ms")];
    let annotations = g.explore("/loki/api/v1/query_range", &params, &[]);
    let result = annotations["data"]["result"].as_array().unwrap();
    assert_eq!(result.len(), 1, "{annotations}");
    assert_eq!(result[0]["stream"]["trace_id"], "t7", "metadata is among the labels without the flag");
}

fn drilldown(g: &Grafana) {
    let limits = g.ask("/loki/api/v1/drilldown-limits", &[], &[]);
    assert_eq!(limits["limits"]["volume_enabled"], true);
    assert_eq!(limits["limits"]["discover_log_levels"], true);
    assert_eq!(limits["limits"]["max_query_length"], "30d1h");
    assert_eq!(limits["limits"]["retention_period"], "0s");
    assert!(limits["pattern_ingester_enabled"] == true && limits["version"].is_string(), "{limits}");

    let volume =
        g.drilldown("/loki/api/v1/index/volume", &[("query", r#"{service_name=~".+"}"#), ("limit", "5000")]);
    assert_eq!(volume["data"]["resultType"], "vector");
    let series = volume["data"]["result"].as_array().unwrap();
    let services: Vec<&str> = series.iter().map(|s| s["metric"]["service_name"].as_str().unwrap()).collect();
    assert_eq!(services, ["shop", "mail"], "largest first");
    assert!(number(&series[0]["value"][1]) > number(&series[1]["value"][1]));

    let labels = g.drilldown("/loki/api/v1/detected_labels", &[("query", "")]);
    let expected = json!([{"label": "pod", "cardinality": 2}, {"label": "service_name", "cardinality": 2}]);
    assert_eq!(labels["detectedLabels"], expected);

    let query = |service: &str| {
        format!(r#"{{service_name="{service}"}} | json | logfmt | drop __error__, __error_details__"#)
    };
    let fields = g.drilldown("/loki/api/v1/detected_fields", &[("query", &query("shop"))]);
    let field = |name: &str| {
        let all = fields["fields"].as_array().unwrap().iter();
        all.clone().find(|f| f["label"] == name).unwrap_or_else(|| panic!("no {name}: {fields}")).clone()
    };
    assert_eq!(
        field("detected_level"),
        json!({"label": "detected_level", "type": "string", "cardinality": 3, "parsers": null})
    );
    assert_eq!(
        field("req_ms"),
        json!({"label": "req_ms", "type": "int", "cardinality": 30, "parsers": ["json"], "jsonPath": ["req", "ms"]})
    );
    let fields = g.drilldown("/loki/api/v1/detected_fields", &[("query", &query("mail"))]);
    let kinds: Vec<(&str, &str)> = fields["fields"]
        .as_array()
        .unwrap()
        .iter()
        .map(|f| (f["label"].as_str().unwrap(), f["type"].as_str().unwrap()))
        .collect();
    assert_eq!(kinds, [("detected_level", "string"), ("n", "int"), ("ok", "boolean"), ("took", "duration")]);
    let values =
        g.drilldown("/loki/api/v1/detected_field/detected_level/values", &[("query", &query("shop"))]);
    assert_eq!(values["values"], json!(["error", "info", "warn"]));

    let by_level =
        r#"sum by (detected_level) (count_over_time({service_name="shop"} | detected_level != "" [10s]))"#;
    let levels = g.drilldown("/loki/api/v1/query_range", &[("query", by_level), ("step", "10s")]);
    assert_eq!(levels["data"]["result"].as_array().unwrap().len(), 3);
    assert!(levels.get("warnings").is_none());
    // More series than the limit of five: a part of them, and a word about it.
    let by_field = r#"sum by (req_ms) (count_over_time({service_name="shop"} | json | logfmt | drop __error__, __error_details__ [1m]))"#;
    let many = g.drilldown("/loki/api/v1/query_range", &[("query", by_field), ("step", "10s")]);
    assert_eq!(many["data"]["result"].as_array().unwrap().len(), 5);
    assert!(many["warnings"][0].as_str().unwrap().contains("maximum number of series (5)"), "{many}");
    // Others get an error.
    let path = format!(
        "/loki/api/v1/query_range?query={}&start={}&end={}&step=10s",
        encode(by_field),
        g.start,
        g.end
    );
    let (status, body) = g.server.get(&path);
    assert_eq!(status, 400, "{body}");
}
