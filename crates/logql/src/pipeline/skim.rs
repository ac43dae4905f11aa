//! Finds out that a parsed line would fail a label filter, without parsing it.
//!
//! In `| json | status >= 500` most lines fail. A label `status` can only come from a place in the line that reads
//! `status"` and then a colon (`status=` in logfmt), wherever that is: also inside of objects, texts and longer keys.
//! If the value at every such place fails the filter, or there is none and the filter needs the label, the line is
//! dropped. Whatever is not certain is left to the parser.

use memchr::memmem::Finder;

use super::filter::Filter;
use super::json_scan::{self, Kind, skip_space};
use super::labels::NameId;
use super::logfmt_scan::end_of_word;
use super::parsers::Parser;

/// A filter that can be decided without a parser for most lines.
#[derive(Debug)]
pub(crate) struct Skim {
    /// The label that the filter looks at.
    pub(crate) label: NameId,
    filter: Filter,
    syntax: Syntax,
    /// What stands before each value that can become the label, and more.
    place: Finder<'static>,
}

#[derive(Clone, Copy, Debug)]
enum Syntax {
    Json,
    Logfmt,
}

impl Skim {
    /// For a filter on the label `name`, with no stage between it and the parser that makes labels. `None` if it
    /// can't be done.
    pub(crate) fn new(parser: &Parser, filter: &Filter, name: &str) -> Option<Self> {
        let (syntax, border) = match parser {
            Parser::Json => (Syntax::Json, '"'),
            Parser::Logfmt { .. } => (Syntax::Logfmt, '='),
            _ => return None,
        };
        // Other characters of a key, and the borders of objects, become `_`; what follows the last one stands in the
        // line as it is.
        let tail = name.rsplit('_').next().filter(|tail| !tail.is_empty())?;
        let usable = filter.needs_label() && name.is_ascii() && !name.ends_with("_extracted");
        usable.then(|| Self {
            label: filter.single_label().unwrap_or_default(),
            filter: filter.clone(),
            syntax,
            place: Finder::new(format!("{tail}{border}").as_bytes()).into_owned(),
        })
    }

    /// Whether the line fails for certain, if the label comes from the parser and from nowhere else.
    pub(crate) fn rejects(&self, line: &[u8]) -> bool {
        match self.syntax {
            Syntax::Json => self.rejects_json(line),
            Syntax::Logfmt => self.rejects_logfmt(line),
        }
    }

    fn rejects_json(&self, line: &[u8]) -> bool {
        for at in self.place.find_iter(line) {
            let Some(colon) = skip_space(line, at + self.place.needle().len()) else { break };
            if line[colon] != b':' {
                // The end of a text.
                continue;
            }
            match json_scan::value(line, colon + 1) {
                Ok((text, Kind::String | Kind::Number | Kind::Boolean, _)) if self.fails(text) => {}
                // These make no label of this name.
                Ok((_, Kind::Object | Kind::Array, _)) => {}
                _ => return false,
            }
        }
        // A key may be written with escapes.
        memchr::memchr(b'\\', line).is_none()
    }

    fn rejects_logfmt(&self, line: &[u8]) -> bool {
        self.place.find_iter(line).all(|at| {
            let start = at + self.place.needle().len();
            if line.get(start) == Some(&b'"') {
                let text = &line[start + 1..];
                let Some(end) = memchr::memchr2(b'"', b'\\', text) else { return false };
                return text[end] == b'"' && self.fails(&text[..end]);
            }
            let end = end_of_word(line, start);
            match line.get(end) {
                // Not a pair, or inside of a quoted value.
                Some(b'=' | b'"') => true,
                _ => self.fails(&line[start..end]),
            }
        })
    }

    /// Whether a value fails the filter. Characters beyond ASCII may be replaced on their way to the label.
    fn fails(&self, value: &[u8]) -> bool {
        let text = std::str::from_utf8(value).ok().filter(|t| t.is_ascii() && !t.contains('\\'));
        text.is_some_and(|t| self.filter.fails_on(t))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use proptest::prelude::*;
    use skald_model::{Labels, LabelsRef};

    use crate::ast::Expr;
    use crate::pipeline::{Op, Pipeline};
    use crate::plan::LogQuery;

    fn pipeline(stages: &str) -> Pipeline {
        let Expr::Log(log) = crate::parse(&format!("{{a=\"b\"}} {stages}")).unwrap() else {
            panic!("a log query")
        };
        Arc::into_inner(LogQuery::compile(&log).pipeline.unwrap()).unwrap()
    }

    fn run(pipeline: Pipeline, line: &str, stream: &Labels) -> Option<String> {
        let line = Bytes::from(line.to_owned());
        let done = Arc::new(pipeline).task().process(0, &line, stream, LabelsRef::EMPTY)?;
        Some(format!("{} {}", done.labels.stream, done.labels.parsed))
    }

    /// Whether the line is dropped before the parser sees it.
    fn skims(stages: &str, line: &str) -> bool {
        let pipeline = pipeline(stages);
        let Some(Op::Parse(parse)) = pipeline.stages.first() else { panic!("no parser") };
        parse.skims.iter().any(|s| s.rejects(line.as_bytes()))
    }

    #[test]
    fn most_failing_lines_are_not_parsed() {
        let json = "| json | status >= 500";
        assert!(skims(json, r#"{"status":200,"x":{"status" : "404"}}"#));
        assert!(skims(json, r#"{"msg":"the status","status":[500]}"#));
        assert!(skims(json, "no json"));
        assert!(!skims(json, r#"{"status":500}"#));
        assert!(!skims(json, r#"{"x":{"status":500}}"#), "left to the parser");
        assert!(!skims(json, r#"{"status":"many"}"#), "an error lets it pass");
        assert!(!skims(json, r#"{"msg":"\n","status":200}"#), "a key may have escapes");
        assert!(skims("| json | x_ms > 5", r#"{"x":{"ms":5},"other_ms":1}"#));
        assert!(skims(r#"| json | level="error""#, r#"{"level":"info"}"#));
        assert!(!skims(r#"| json | level!="error""#, r#"{"level":"error"}"#), "it may be missing");
        assert!(skims("| logfmt | d > 1s", r#"a=b d=5ms msg="c d=7s""#));
        assert!(skims("| logfmt | d > 1s", r#"a=b d="5ms""#));
        assert!(!skims("| logfmt | d > 1s", "a=b d=5s"));
        assert!(!skims("| logfmt | d > 1s", "a=b d="));
        assert!(!skims("| logfmt | drop x | d > 1s", "d=1ms"), "another stage may have made it");
        assert!(!skims("| logfmt | json | d > 1s", "d=1ms"));
    }

    proptest! {
        #[test]
        fn nothing_is_dropped_that_the_parser_would_keep(
            stages in prop_oneof![
                Just("| json | status >= 5"), Just("| json | level=\"error\""), Just("| json | x_ms > 2 | status < 7"),
                Just("| json | level=~\"err.*\" | x=\"1\""), Just("| json | __error__=\"\" | status = 5"),
                Just("| logfmt | status >= 5"), Just("| logfmt | level=\"error\""), Just("| logfmt | d > 2s | status < 7"),
                Just("| logfmt --strict | x_ms > 2"), Just("| logfmt --keep-empty | level=~\"e.+\""),
                Just("| json | logfmt | status > 3"), Just("| logfmt | x > 1KB or status > 3 | level=\"error\""),
            ],
            json in any::<bool>(),
            pairs in proptest::collection::vec(
                (
                    "(status|level|x|ms|x_ms|x-ms|d|a\\.status|st\\\\u0061tus|_)",
                    prop_oneof![
                        "[0-9]{1,2}(ms|s|kb)?", "(error|info|err|true|null|)", "\"[0-9a-z =]{0,8}(status\\\\\"|level)?\"",
                        "\\{\"(status|ms|x)\":[0-9]\\}", "\\[[0-9]\\]", "é|=|\"",
                    ],
                    "( |, |,)",
                ),
                0..5,
            ),
            end in "(\\}|x|)",
            own in any::<bool>(),
        ) {
            let text = pairs.iter().map(|(k, v, gap)| match json {
                true => format!("\"{k}\":{v}{gap}"),
                false => format!("{k}={v} "),
            }).collect::<String>();
            let line = if json { format!("{{{}{end}", text.trim_end_matches([' ', ','])) } else { text };
            let stream = Labels::from_pairs([("app", "a"), (if own { "status" } else { "pod" }, "6")]);
            let (skimming, mut parsing) = (pipeline(stages), pipeline(stages));
            for op in &mut parsing.stages {
                if let Op::Parse(parse) = op {
                    parse.skims.clear();
                }
            }
            prop_assert_eq!(run(skimming, &line, &stream), run(parsing, &line, &stream), "{}", line);
        }
    }
}
