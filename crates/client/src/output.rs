//! Log entries on standard output.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write};

use serde::Serialize;
use skald_model::labels::write_go_quoted;
use xxhash_rust::xxh3::xxh3_64;

use crate::answer::{Entry, Pairs};
use crate::common::Format;
use crate::time::{self, Zone};

/// Which labels are shown before a line.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct Show {
    /// Show no labels
    #[arg(long)]
    pub(crate) no_labels: bool,
    /// Show this label only; may be repeated
    #[arg(long, value_name = "NAME")]
    pub(crate) include_label: Vec<String>,
    /// Do not show this label; may be repeated
    #[arg(long, value_name = "NAME")]
    pub(crate) exclude_label: Vec<String>,
    /// Show also the labels that all entries share, instead of telling them once
    #[arg(long)]
    pub(crate) include_common_labels: bool,
    /// Show times in UTC instead of the machine's time zone
    #[arg(long)]
    pub(crate) utc: bool,
}

impl Show {
    /// The zone for times.
    pub(crate) fn zone(&self) -> Zone {
        if self.utc { Zone::Utc } else { Zone::Local }
    }

    fn wants(&self, name: &str) -> bool {
        let included = self.include_label.is_empty() || self.include_label.iter().any(|n| n == name);
        included && !self.exclude_label.iter().any(|n| n == name)
    }
}

/// Writes entries, page by page.
#[derive(Debug)]
pub(crate) struct Printer {
    format: Format,
    show: Show,
    colours: bool,
    /// Labels that all entries so far share; `None` before the first.
    shared: Option<Pairs>,
    text: String,
}

/// An entry as a line of JSON; `skald push --format jsonl` reads it.
#[derive(Serialize)]
struct JsonLine<'a> {
    timestamp: String,
    labels: &'a Pairs,
    line: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: &'a Pairs,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    parsed: &'a Pairs,
}

impl Printer {
    /// Nothing is written yet.
    pub(crate) fn new(format: Format, show: Show, colours: bool) -> Self {
        Self { format, show, colours, shared: None, text: String::new() }
    }

    /// Finds the labels that all entries share and leaves them out from now on. Returns their text when there is something
    /// to tell: the first time, and each time that there are fewer of them.
    pub(crate) fn factor(&mut self, entries: &[Entry]) -> Option<String> {
        if self.format != Format::Default || self.show.no_labels || self.show.include_common_labels {
            return None;
        }
        let (first, rest) = entries.split_first()?;
        let is_first_page = self.shared.is_none();
        let mut shared = match self.shared.take() {
            Some(shared) => shared,
            None => first.all_labels().map(|(n, v)| (n.to_owned(), v.to_owned())).collect(),
        };
        let before = shared.len();
        let all = if is_first_page { rest } else { entries };
        for entry in all {
            if shared.is_empty() {
                break;
            }
            shared.retain(|name, value| entry.all_labels().any(|(n, v)| n == name && v == value));
        }
        let news = if is_first_page { !shared.is_empty() } else { shared.len() < before };
        let text = news.then(|| label_text(shared.iter().map(|(n, v)| (n.as_str(), v.as_str()))));
        self.shared = Some(shared);
        text
    }

    /// Writes entries.
    pub(crate) fn write(&mut self, out: &mut impl Write, entries: &[Entry]) -> io::Result<()> {
        for entry in entries {
            match self.format {
                Format::Raw => {
                    out.write_all(entry.line.as_bytes())?;
                    out.write_all(b"\n")?;
                }
                Format::Jsonl => {
                    let line = JsonLine {
                        timestamp: time::exact(entry.timestamp),
                        labels: &entry.labels,
                        line: &entry.line,
                        metadata: &entry.metadata,
                        parsed: &entry.parsed,
                    };
                    serde_json::to_writer(&mut *out, &line).map_err(io::Error::from)?;
                    out.write_all(b"\n")?;
                }
                Format::Default => self.write_for_people(out, entry)?,
            }
        }
        Ok(())
    }

    fn write_for_people(&mut self, out: &mut impl Write, entry: &Entry) -> io::Result<()> {
        self.text.clear();
        let when = time::show(entry.timestamp, self.show.zone());
        if self.colours {
            let _ = write!(self.text, "\x1b[2m{when}\x1b[0m ");
        } else {
            self.text.push_str(&when);
            self.text.push(' ');
        }
        if !self.show.no_labels {
            let shared = self.shared.as_ref();
            let labels =
                label_text(entry.all_labels().filter(|(name, _)| {
                    self.show.wants(name) && shared.is_none_or(|s| !s.contains_key(*name))
                }));
            if self.colours {
                // The same stream has the same colour on every page and in every run.
                let colour = 31 + xxh3_64(labels.as_bytes()) % 6;
                let _ = write!(self.text, "\x1b[{colour}m{labels}\x1b[0m ");
            } else {
                self.text.push_str(&labels);
                self.text.push(' ');
            }
        }
        self.text.push_str(&entry.line);
        self.text.push('\n');
        out.write_all(self.text.as_bytes())
    }
}

/// `{name="value", …}`
pub(crate) fn label_text<'a>(labels: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut text = String::from("{");
    for (index, (name, value)) in labels.enumerate() {
        if index > 0 {
            text.push_str(", ");
        }
        text.push_str(name);
        text.push('=');
        let _ = write_go_quoted(&mut text, value);
    }
    text.push('}');
    text
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> Pairs {
        pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
    }

    fn entry(line: &str, labels: &[(&str, &str)], metadata: &[(&str, &str)]) -> Entry {
        Entry {
            timestamp: 1_700_000_000_123_456_789,
            line: line.into(),
            labels: Arc::new(pairs(labels)),
            metadata: pairs(metadata),
            parsed: Pairs::new(),
        }
    }

    fn written(printer: &mut Printer, entries: &[Entry]) -> String {
        let mut out = Vec::new();
        printer.write(&mut out, entries).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn utc() -> Show {
        Show { utc: true, ..Show::default() }
    }

    #[test]
    fn shared_labels_are_told_once() {
        let mut printer = Printer::new(Format::Default, utc(), false);
        let page = [
            entry("one", &[("app", "x"), ("pod", "1")], &[("level", "info")]),
            entry("two", &[("app", "x"), ("pod", "2")], &[("level", "info")]),
        ];
        assert_eq!(printer.factor(&page).unwrap(), r#"{app="x", level="info"}"#);
        let expected = "2023-11-14T22:13:20.123Z {pod=\"1\"} one\n2023-11-14T22:13:20.123Z {pod=\"2\"} two\n";
        assert_eq!(written(&mut printer, &page), expected);
        assert_eq!(printer.factor(&page), None, "nothing changed");
        let page = [entry("three", &[("app", "x"), ("pod", "1")], &[("level", "warn")])];
        assert_eq!(printer.factor(&page).unwrap(), r#"{app="x"}"#);
        assert_eq!(
            written(&mut printer, &page),
            "2023-11-14T22:13:20.123Z {pod=\"1\", level=\"warn\"} three\n"
        );
    }

    #[test]
    fn labels_are_chosen_by_name() {
        let entries = [entry("x", &[("a", "1"), ("b", "2"), ("c", "3")], &[])];
        let shown = |show: Show| written(&mut Printer::new(Format::Default, show, false), &entries);
        let time = "2023-11-14T22:13:20.123Z";
        let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
        assert_eq!(shown(Show { no_labels: true, ..utc() }), format!("{time} x\n"));
        assert_eq!(shown(Show { include_label: names(&["b"]), ..utc() }), format!("{time} {{b=\"2\"}} x\n"));
        assert_eq!(
            shown(Show { exclude_label: names(&["a", "b"]), ..utc() }),
            format!("{time} {{c=\"3\"}} x\n")
        );
    }

    #[test]
    fn colours_do_not_change_the_text() {
        let entries = [entry("x", &[("a", "1")], &[])];
        let coloured = written(&mut Printer::new(Format::Default, utc(), true), &entries);
        assert!(coloured.contains("\x1b["));
        let mut plain = String::new();
        let mut rest = coloured.as_str();
        while let Some((before, after)) = rest.split_once('\x1b') {
            plain.push_str(before);
            rest = after.split_once('m').unwrap().1;
        }
        plain.push_str(rest);
        assert_eq!(plain, written(&mut Printer::new(Format::Default, utc(), false), &entries));
    }

    #[test]
    fn raw_and_jsonl_are_for_programs() {
        let entries = [entry("a \"b\"", &[("app", "x")], &[("t", "1")])];
        let written = |format| written(&mut Printer::new(format, Show::default(), true), &entries);
        assert_eq!(written(Format::Raw), "a \"b\"\n");
        assert_eq!(
            written(Format::Jsonl),
            "{\"timestamp\":\"2023-11-14T22:13:20.123456789Z\",\"labels\":{\"app\":\"x\"},\
             \"line\":\"a \\\"b\\\"\",\"metadata\":{\"t\":\"1\"}}\n"
        );
    }
}
