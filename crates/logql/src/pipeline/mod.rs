//! Pipelines: what happens to an entry between the store and the answer.
//!
//! A [`Pipeline`] is compiled once per query and shared; each task runs it through a [`PipelineTask`] of its own, which
//! holds the buffers and caches. Parsers extract only the labels that later stages or the answer name.

mod compile;
mod filter;
mod ip;
mod json_paths;
mod json_scan;
pub(crate) mod labels;
pub(crate) mod line;
mod logfmt_scan;
mod parsers;
mod path;
pub(crate) mod pattern;
mod reduce;
mod skim;

use std::sync::Arc;

use bytes::Bytes;
use skald_model::regex::{Mode, Regex};
use skald_model::{EntryLabels, Labels, LabelsRef, LineFilter, Matcher, Timestamp};

pub(crate) use compile::{Needs, unwrap_labels};
pub(crate) use filter::Filter;
pub(crate) use json_paths::json_paths;
pub(crate) use labels::{Category, EntryState, NameId, pack, sanitize};
pub use labels::{ERROR, ERROR_DETAILS};
use parsers::{Parser, ParserCache};
use skim::Skim;

use crate::template::Template;

/// What `__error__` says when a template fails.
const TEMPLATE_ERROR: &str = "TemplateFormatErr";

/// A compiled pipeline.
#[derive(Debug)]
pub struct Pipeline {
    stages: Vec<Op>,
    /// Names that stages know by number.
    names: Vec<String>,
    parsers: usize,
    decolorize: Option<Regex>,
}

/// A compiled stage.
#[derive(Debug)]
enum Op {
    Line(LineFilter),
    Parse(Parse),
    Filter(Filter),
    LineFormat(Template),
    LabelFormat(Vec<(NameId, Assign)>),
    Decolorize,
    Drop(Vec<Pick>),
    Keep(Vec<Pick>),
}

/// A parser with what is known of the stages after it.
#[derive(Debug)]
struct Parse {
    parser: Parser,
    hints: Hints,
    probe: Option<Probe>,
    skims: Vec<Skim>,
}

#[derive(Debug)]
enum Assign {
    Rename(NameId),
    Template(Template),
}

#[derive(Debug)]
struct Pick {
    id: NameId,
    matcher: Option<Matcher>,
}

/// What a parser may leave out.
#[derive(Debug, Default)]
pub(crate) struct Hints {
    /// The labels that anything later looks at; `None` for all.
    needs: Option<Vec<NameId>>,
    /// Simple filters on single labels that come later: when one fails on a fresh label, the line is done for.
    filters: Vec<(NameId, Filter)>,
}

/// A first run of a parser for nothing but the labels of simple filters, where most lines are expected to fail one:
/// those that pass are parsed again for everything.
#[derive(Debug)]
pub(crate) struct Probe {
    labels: Vec<NameId>,
    hints: Hints,
}

/// Whether probing pays.
#[derive(Debug, Default)]
struct ProbeCounts {
    tried: u32,
    dropped: u32,
    /// Lines not to be probed, because too many passed.
    paused: u32,
}

impl ProbeCounts {
    const ROUND: u32 = 256;
    const PAUSE: u32 = 16 * 1024;

    fn is_due(&mut self) -> bool {
        if self.paused > 0 {
            self.paused -= 1;
            return false;
        }
        if self.tried == Self::ROUND {
            if self.dropped < Self::ROUND / 8 * 7 {
                self.paused = Self::PAUSE;
            }
            (self.tried, self.dropped) = (0, 0);
        }
        self.paused == 0
    }
}

/// One entry after the pipeline.
#[derive(Clone, Debug)]
pub struct Processed {
    /// The line as the stages left it.
    pub line: Bytes,
    /// Its labels; entries with equal sets share them.
    pub labels: Arc<EntryLabels>,
}

/// A pipeline at work in one task, with its buffers and caches.
#[derive(Debug)]
pub struct PipelineTask {
    pipeline: Arc<Pipeline>,
    pub(crate) state: EntryState,
    /// Per parser: for its probe, and for itself.
    caches: Vec<(ParserCache, ParserCache)>,
    probes: Vec<ProbeCounts>,
    /// The line, once a stage has changed it.
    line: Vec<u8>,
    spare: Vec<u8>,
}

impl Pipeline {
    /// Whether any stage is left to run.
    pub(crate) fn has_stages(&self) -> bool {
        !self.stages.is_empty()
    }

    /// A task that runs this pipeline.
    pub fn task(self: &Arc<Self>) -> PipelineTask {
        let mut task = PipelineTask {
            pipeline: self.clone(),
            state: EntryState::default(),
            caches: vec![],
            probes: vec![],
            line: vec![],
            spare: vec![],
        };
        task.reset();
        task
    }
}

impl PipelineTask {
    fn reset(&mut self) {
        self.state = self.state.successor();
        for name in &self.pipeline.names {
            self.state.names.id(name);
        }
        self.caches = (0..self.pipeline.parsers).map(|_| Default::default()).collect();
        self.probes = (0..self.pipeline.parsers).map(|_| ProbeCounts::default()).collect();
    }

    /// Whether no filter of the pipeline drops the entry.
    pub fn accepts(
        &mut self,
        timestamp: Timestamp,
        line: &[u8],
        stream: &Labels,
        metadata: LabelsRef<'_>,
    ) -> bool {
        self.run(timestamp, line, stream, metadata).is_some()
    }

    /// Runs an entry through the pipeline; `None` if a filter dropped it.
    pub fn process(
        &mut self,
        timestamp: Timestamp,
        line: &Bytes,
        stream: &Labels,
        metadata: LabelsRef<'_>,
    ) -> Option<Processed> {
        let changed = self.run(timestamp, line, stream, metadata)?;
        let line = if changed { Bytes::copy_from_slice(&self.line) } else { line.clone() };
        Some(Processed { line, labels: self.state.finish() })
    }

    /// Runs an entry through the pipeline and leaves its labels in `state`; says whether the line was changed.
    pub(crate) fn run(
        &mut self,
        timestamp: Timestamp,
        input: &[u8],
        stream: &Labels,
        metadata: LabelsRef<'_>,
    ) -> Option<bool> {
        if self.state.is_overgrown() {
            self.reset();
        }
        let Self { pipeline, state, caches, probes, line: own_line, spare } = self;
        state.begin(stream, metadata);
        let mut changed = false;
        let mut parser = 0;
        for stage in &pipeline.stages {
            let line: &[u8] = if changed { own_line } else { input };
            match stage {
                Op::Line(filter) => {
                    if !filter.matches(line) {
                        return None;
                    }
                }
                Op::Parse(Parse { parser: p, hints, probe, skims }) => {
                    let (probe_cache, cache) = &mut caches[parser];
                    let counts = &mut probes[parser];
                    parser += 1;
                    let fresh = |s: &Skim| !state.is_touched(s.label) && !state.base_has(s.label);
                    if !skims.is_empty()
                        && !state.has_error()
                        && state.details().is_empty()
                        && skims.iter().any(|s| fresh(s) && s.rejects(line))
                    {
                        return None;
                    }
                    if let Some(probe) = probe
                        && !state.has_error()
                        && state.details().is_empty()
                        && !probe.labels.iter().any(|id| state.is_touched(*id))
                        && counts.is_due()
                    {
                        counts.tried += 1;
                        let mark = state.mark();
                        if let parsers::Outcome::Drop = p.run(line, state, probe_cache, &probe.hints, spare) {
                            counts.dropped += 1;
                            return None;
                        }
                        state.roll_back(mark);
                    }
                    spare.clear();
                    match p.run(line, state, cache, hints, spare) {
                        parsers::Outcome::Done => {}
                        parsers::Outcome::Drop => return None,
                        parsers::Outcome::NewLine => {
                            std::mem::swap(own_line, spare);
                            changed = true;
                        }
                    }
                }
                Op::Filter(filter) => {
                    if !filter.matches(state) {
                        return None;
                    }
                }
                Op::LineFormat(template) => {
                    spare.clear();
                    match template.execute(state, line, timestamp, spare) {
                        Ok(()) => {
                            std::mem::swap(own_line, spare);
                            changed = true;
                        }
                        Err(e) => state.fail(TEMPLATE_ERROR, Some(&e)),
                    }
                }
                Op::LabelFormat(formats) => {
                    label_format(state, formats, line, timestamp, spare);
                }
                Op::Decolorize => {
                    if let Some(regex) = &pipeline.decolorize
                        && memchr::memchr2(0x1b, 0xc2, line).is_some()
                    {
                        spare.clear();
                        let mut end = 0;
                        for found in regex.engine().find_iter(line) {
                            spare.extend_from_slice(&line[end..found.start()]);
                            end = found.end();
                        }
                        spare.extend_from_slice(&line[end..]);
                        std::mem::swap(own_line, spare);
                        changed = true;
                    }
                }
                Op::Drop(picks) => drop_labels(state, picks),
                Op::Keep(picks) => keep_labels(state, picks),
            }
        }
        Some(changed)
    }

    /// The line as the last [`PipelineTask::run`] left it, if it said that it changed it.
    pub(crate) fn line(&self) -> &[u8] {
        &self.line
    }
}

fn label_format(
    state: &mut EntryState,
    formats: &[(NameId, Assign)],
    line: &[u8],
    timestamp: Timestamp,
    spare: &mut Vec<u8>,
) {
    // Templates see the labels as they were before the stage set any.
    let mut results: smallvec::SmallVec<[(NameId, Vec<u8>); 2]> = Default::default();
    let mut failed = None;
    for (id, assign) in formats {
        match assign {
            Assign::Rename(source) => {
                for (id, value) in results.drain(..) {
                    state.set(Category::Parsed, id, &value);
                }
                state.rename(*source, *id);
            }
            Assign::Template(template) => {
                spare.clear();
                match template.execute(state, line, timestamp, spare) {
                    Ok(()) if formats.len() == 1 => state.set(Category::Parsed, *id, spare),
                    Ok(()) => results.push((*id, spare.clone())),
                    Err(e) => failed = Some(e),
                }
            }
        }
    }
    for (id, value) in results {
        state.set(Category::Parsed, id, &value);
    }
    if let Some(e) = failed {
        state.fail(TEMPLATE_ERROR, Some(&e));
    }
}

fn drop_labels(state: &mut EntryState, picks: &[Pick]) {
    for pick in picks {
        let passes = |value: &str| pick.matcher.as_ref().is_none_or(|m| m.matches(value));
        match state.names.name(pick.id) {
            ERROR => {
                if passes(state.error()) {
                    state.clear_error();
                }
            }
            ERROR_DETAILS => {
                if passes(state.details()) {
                    state.clear_details();
                }
            }
            _ => {
                if state.get(pick.id).is_some_and(passes) {
                    state.remove(pick.id);
                }
            }
        }
    }
}

fn keep_labels(state: &mut EntryState, picks: &[Pick]) {
    let keeps = |id: NameId| {
        picks.iter().any(|p| {
            p.id == id && p.matcher.as_ref().is_none_or(|m| m.matches(state.get(id).unwrap_or_default()))
        })
    };
    let gone: smallvec::SmallVec<[NameId; 32]> = state.ids().filter(|id| !keeps(*id)).collect();
    for id in gone {
        state.remove(id);
    }
}

/// The labels of entries that no stage touches: the stream's and the metadata's, where a name that both have gets a
/// suffix, as Loki does.
#[derive(Debug, Default)]
pub struct PlainLabels {
    state: EntryState,
}

impl PlainLabels {
    /// The labels of an entry of `stream` with `metadata`; equal sets are shared.
    pub fn labels(&mut self, stream: &Labels, metadata: LabelsRef<'_>) -> Arc<EntryLabels> {
        if self.state.is_overgrown() {
            self.state = EntryState::default();
        }
        self.state.begin(stream, metadata);
        self.state.finish()
    }
}

/// Checks the expression of a `regexp` stage; the error has Loki's words.
pub(crate) fn check_regexp(expression: &str) -> Result<Regex, String> {
    let regex = Regex::new(expression, Mode::Search)?;
    let mut names = std::collections::BTreeSet::new();
    for name in regex.groups().iter().flatten() {
        if !names.insert(name) {
            return Err(format!("duplicate extracted label name '{name}'"));
        }
    }
    if names.is_empty() {
        return Err("at least one named capture must be supplied".into());
    }
    Ok(regex)
}

/// Checks the expression of a `pattern` stage; the error has Loki's words.
pub(crate) fn check_pattern(expression: &str) -> Result<pattern::Pattern, String> {
    pattern::Pattern::parser(expression)
}

#[cfg(test)]
mod tests;
