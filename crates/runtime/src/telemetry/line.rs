//! Events as lines of logfmt or JSON.

use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::sync::OnceLock;

use opentelemetry::trace::TraceContextExt as _;
use prometheus::{IntCounter, IntCounterVec};
use serde::{Deserialize, Serialize};
use tracing::dispatcher::WeakDispatch;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Dispatch, Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// `ts=… level=… msg="…" key=value`
    #[default]
    Logfmt,
    /// `{"ts":"…","level":"…","msg":"…","key":"value"}`
    Json,
}

/// Takes finished lines, each with its line break.
pub type Sink = Box<dyn Fn(&str) + Send + Sync>;

/// Standard error. A line that cannot be written is lost: there is nobody left to tell.
pub(super) fn stderr() -> Sink {
    Box::new(|line| {
        let _ = std::io::stderr().lock().write_all(line.as_bytes());
    })
}

/// Writes each event as one line, with the fields of the spans it happened in.
pub(super) struct LineLayer {
    format: Format,
    sink: Sink,
    counters: [IntCounter; 5],
    /// Where trace ids are asked for; set when the layer is installed.
    dispatch: OnceLock<WeakDispatch>,
}

/// Fields of a span, kept until it closes.
struct SpanFields(Vec<(&'static str, Value)>);

enum Value {
    Text(String),
    /// Numbers and booleans, which need no quotes.
    Bare(String),
}

impl Value {
    fn is_empty(&self) -> bool {
        matches!(self, Value::Text(text) if text.is_empty())
    }
}

#[derive(Default)]
struct Collected {
    message: String,
    fields: Vec<(&'static str, Value)>,
}

impl LineLayer {
    pub(super) fn new(format: Format, sink: Sink, messages: &IntCounterVec) -> Self {
        let counters =
            ["error", "warn", "info", "debug", "trace"].map(|level| messages.with_label_values(&[level]));
        Self { format, sink, counters, dispatch: OnceLock::new() }
    }

    /// The trace that `span` belongs to, when traces are exported.
    fn trace_id(&self, span: &Id) -> Option<String> {
        let dispatch = self.dispatch.get()?.upgrade()?;
        let context = tracing_opentelemetry::get_otel_context(span, &dispatch)?;
        let span_context = context.span().span_context().clone();
        span_context.is_valid().then(|| span_context.trace_id().to_string())
    }
}

impl<S> Layer<S> for LineLayer
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_register_dispatch(&self, subscriber: &Dispatch) {
        let _ = self.dispatch.set(subscriber.downgrade());
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut collected = Collected::default();
        attributes.record(&mut collected);
        span.extensions_mut().insert(SpanFields(collected.fields));
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut collected = Collected::default();
        values.record(&mut collected);
        if let Some(SpanFields(fields)) = span.extensions_mut().get_mut() {
            fields.retain(|(name, _)| collected.fields.iter().all(|(new, _)| new != name));
            fields.append(&mut collected.fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let level = *event.metadata().level();
        let (name, counter) = match level {
            Level::ERROR => ("error", 0),
            Level::WARN => ("warn", 1),
            Level::INFO => ("info", 2),
            Level::DEBUG => ("debug", 3),
            Level::TRACE => ("trace", 4),
        };
        self.counters[counter].inc();
        let mut collected = Collected::default();
        event.record(&mut collected);

        let mut line = Line::new(self.format);
        let mut time = String::new();
        let _ = SystemTime.format_time(&mut Writer::new(&mut time));
        line.bare_text("ts", &time);
        line.bare_text("level", name);
        line.quoted("msg", &collected.message);
        for (key, value) in &collected.fields {
            line.value(key, value);
        }
        let trace_id = context.event_span(event).and_then(|span| self.trace_id(&span.id()));
        if let Some(scope) = context.event_scope(event) {
            for span in scope.from_root() {
                if let Some(SpanFields(fields)) = span.extensions().get() {
                    // What a span does not know is left out; of two trace ids the exported one is to be searched for.
                    let hidden = |key: &str, value: &Value| {
                        value.is_empty() || (trace_id.is_some() && key == "trace_id")
                    };
                    let shown = fields.iter().filter(|(key, value)| !hidden(key, value));
                    shown.for_each(|(key, value)| line.value(key, value));
                }
            }
        }
        if let Some(trace_id) = trace_id {
            line.bare_text("trace_id", &trace_id);
        }
        (self.sink)(&line.finish());
    }
}

impl Visit for Collected {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            let _ = write!(self.message, "{value:?}");
        } else {
            self.fields.push((field.name(), Value::Text(format!("{value:?}"))));
        }
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push_str(value);
        } else {
            self.fields.push((field.name(), Value::Text(value.to_owned())));
        }
    }
    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut text = value.to_string();
        let mut source = value.source();
        while let Some(cause) = source {
            let _ = write!(text, ": {cause}");
            source = cause.source();
        }
        self.fields.push((field.name(), Value::Text(text)));
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.fields.push((field.name(), Value::Bare(value.to_string())));
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.fields.push((field.name(), Value::Bare(value.to_string())));
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.fields.push((field.name(), Value::Bare(value.to_string())));
    }
    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON has no number for these.
        let text = value.to_string();
        self.fields
            .push((field.name(), if value.is_finite() { Value::Bare(text) } else { Value::Text(text) }));
    }
}

/// One line being written. Line breaks inside values are escaped, so an event is always one line.
struct Line {
    format: Format,
    out: String,
}

impl Line {
    fn new(format: Format) -> Self {
        Self { format, out: String::with_capacity(256) }
    }

    fn key(&mut self, key: &str) {
        match self.format {
            Format::Logfmt => {
                if !self.out.is_empty() {
                    self.out.push(' ');
                }
                self.out.push_str(key);
                self.out.push('=');
            }
            Format::Json => {
                self.out.push(if self.out.is_empty() { '{' } else { ',' });
                escape(&mut self.out, key);
                self.out.push(':');
            }
        }
    }

    fn value(&mut self, key: &str, value: &Value) {
        match value {
            Value::Bare(text) => {
                self.key(key);
                self.out.push_str(text);
            }
            Value::Text(text) => self.bare_text(key, text),
        }
    }

    /// Text that in logfmt goes without quotes where that is unambiguous.
    fn bare_text(&mut self, key: &str, text: &str) {
        let plain = !text.is_empty()
            && text.chars().all(|c| !c.is_whitespace() && !c.is_control() && !matches!(c, '"' | '=' | '\\'));
        if self.format == Format::Logfmt && plain {
            self.key(key);
            self.out.push_str(text);
        } else {
            self.quoted(key, text);
        }
    }

    fn quoted(&mut self, key: &str, text: &str) {
        self.key(key);
        escape(&mut self.out, text);
    }

    fn finish(mut self) -> String {
        self.out.push_str(if self.format == Format::Json { "}\n" } else { "\n" });
        self.out
    }
}

/// Writes a JSON string, which is what logfmt's quoted values are, too.
fn escape(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::super::{LogConfig, lines_to, memory_sink};
    use super::*;

    #[track_caller]
    fn check(format: Format, log: impl FnOnce(), expected: &str) {
        let (sink, lines) = memory_sink();
        let (dispatch, _) = lines_to(sink, &LogConfig { level: "info".into(), format }).unwrap();
        tracing::dispatcher::with_default(&dispatch, log);
        let lines = lines.lock();
        // The time differs from run to run; what follows it does not.
        let rest: Vec<_> = lines.lines().map(|l| &l[l.find("level").unwrap()..]).collect();
        assert_eq!(rest.join("\n"), expected);
    }

    #[test]
    fn logfmt_quotes_only_what_needs_it() {
        check(
            Format::Logfmt,
            || {
                tracing::info!(
                    n = 3,
                    path = "/a/b",
                    empty = "",
                    text = "two words",
                    "it went \"well\"\nreally"
                )
            },
            r#"level=info msg="it went \"well\"\nreally" n=3 path=/a/b empty="" text="two words""#,
        );
    }

    #[test]
    fn json_has_the_same_keys() {
        check(
            Format::Json,
            || tracing::warn!(n = 3, ok = true, ratio = f64::NAN, "odd"),
            r#"level":"warn","msg":"odd","n":3,"ok":true,"ratio":"NaN"}"#,
        );
    }

    #[test]
    fn fields_of_spans_follow() {
        check(
            Format::Logfmt,
            || {
                let outer = tracing::info_span!(
                    "request",
                    tenant = "team-a",
                    trace_id = "",
                    query = tracing::field::Empty
                );
                let _outer = outer.enter();
                outer.record("query", "{a=1}");
                let inner = tracing::info_span!("task", block = 7);
                inner.in_scope(|| tracing::error!(error = "broken", "failed to read block"));
            },
            r#"level=error msg="failed to read block" error=broken tenant=team-a query="{a=1}" block=7"#,
        );
    }

    #[test]
    fn the_level_can_be_changed() {
        let (sink, lines) = memory_sink();
        let (dispatch, level) =
            lines_to(sink, &LogConfig { level: "warn".into(), ..Default::default() }).unwrap();
        tracing::dispatcher::with_default(&dispatch, || {
            let say = |text: &str| tracing::debug!(text, "said");
            say("too early");
            level.set("debug").unwrap();
            say("now");
            assert!(level.set("loud").is_err());
            level.set("error").unwrap();
            say("too late");
        });
        assert_eq!(level.get(), "error");
        assert!(lines.lock().contains("text=now") && lines.lock().lines().count() == 1);
    }

    #[test]
    fn errors_are_written_with_their_causes() {
        #[derive(Debug, thiserror::Error)]
        #[error("outer")]
        struct Outer(#[source] std::io::Error);
        let error = Outer(std::io::Error::other("inner"));
        check(
            Format::Logfmt,
            || tracing::error!(error = &error as &(dyn std::error::Error + 'static), "failed"),
            r#"level=error msg="failed" error="outer: inner""#,
        );
    }
}
