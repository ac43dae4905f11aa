//! From stages to a pipeline.

use std::sync::Arc;

use super::filter::Filter;
use super::parsers::Parser;
use super::path::{parse_json_path, parse_logfmt_key};
use super::skim::Skim;
use super::{
    Assign, ERROR, Hints, NameId, Op, Parse, Pick, Pipeline, Probe, check_pattern, check_regexp, line,
    sanitize,
};
use crate::ast::{Extraction, LabelFormatValue, LabelPick, Stage, Unwrap};
use crate::error::ParseError;
use crate::template::Template;

/// The labels that whoever takes a pipeline's entries looks at; `None` for all.
pub(crate) type Needs = Option<Vec<String>>;

/// Matches the escape sequences that color text on terminals.
const ANSI: &str = concat!(
    "[\u{1b}\u{9b}][[\\]()#;?]*",
    "(?:(?:(?:[a-zA-Z\\d]*(?:;[a-zA-Z\\d]*)*)?\u{7})",
    "|(?:(?:\\d{1,4}(?:;\\d{0,4})*)?[\\dA-PRZcf-ntqry=><~]))"
);

#[derive(Default)]
struct Compiler {
    names: Vec<String>,
    parsers: usize,
}

impl Pipeline {
    /// Compiles stages. Fails with the error that Loki reports when the stage first meets an entry.
    pub(crate) fn compile(stages: &[Stage], needs: &Needs) -> Result<Arc<Self>, ParseError> {
        Self::compile_with(stages, &[], needs)
    }

    /// Compiles stages, with filters after them that do not belong to the pipeline but look at its labels.
    pub(crate) fn compile_with(
        stages: &[Stage],
        names: &[&str],
        needs: &Needs,
    ) -> Result<Arc<Self>, ParseError> {
        let mut compiler = Compiler::default();
        for name in names {
            compiler.id(name);
        }
        let mut ops = Vec::with_capacity(stages.len());
        for stage in stages {
            compiler.stage(stage, &mut ops).map_err(|reason| ParseError::stage(stage, reason))?;
        }
        compiler.add_hints(&mut ops, needs);
        let decolorize = ops.iter().any(|op| matches!(op, Op::Decolorize)).then(|| {
            skald_model::regex::Regex::new(ANSI, skald_model::regex::Mode::Search)
                .expect("the expression for colors is valid")
        });
        Ok(Arc::new(Pipeline { stages: ops, names: compiler.names, parsers: compiler.parsers, decolorize }))
    }
}

impl Compiler {
    fn id(&mut self, name: &str) -> NameId {
        let found = self.names.iter().position(|n| n == name);
        found.unwrap_or_else(|| {
            self.names.push(name.to_owned());
            self.names.len() - 1
        }) as NameId
    }

    fn parse(&mut self, parser: Parser) -> Op {
        self.parsers += 1;
        Op::Parse(Parse { parser, hints: Hints::default(), probe: None, skims: vec![] })
    }

    fn stage(&mut self, stage: &Stage, ops: &mut Vec<Op>) -> Result<(), String> {
        let op = match stage {
            Stage::LineFilter(filter) => {
                ops.extend(line::lower(filter)?.into_iter().map(Op::Line));
                return Ok(());
            }
            Stage::Json(list) if list.is_empty() => self.parse(Parser::Json),
            Stage::Json(list) => {
                let paths = list
                    .iter()
                    .map(|e| Ok((self.id(&e.name), parse_json_path(&e.expression)?)))
                    .collect::<Result<_, String>>()?;
                self.parse(Parser::JsonPaths(paths))
            }
            Stage::Logfmt { strict, keep_empty, extractions } if extractions.is_empty() => {
                self.parse(Parser::Logfmt { strict: *strict, keep_empty: *keep_empty })
            }
            Stage::Logfmt { strict, extractions, .. } => {
                let keys = self.logfmt_keys(extractions)?;
                self.parse(Parser::LogfmtKeys { strict: *strict, keys })
            }
            Stage::Regexp(expression) => {
                let regex = check_regexp(expression)?;
                let groups = regex
                    .groups()
                    .iter()
                    .enumerate()
                    .filter_map(|(i, name)| Some((i + 1, self.id(&sanitize(name.as_deref()?, true)))))
                    .collect();
                self.parse(Parser::Regexp(regex, groups))
            }
            Stage::Pattern(expression) => {
                let pattern = check_pattern(expression)?;
                let names = pattern.names().iter().map(|n| self.id(n)).collect();
                self.parse(Parser::Pattern(pattern, names))
            }
            Stage::Unpack => self.parse(Parser::Unpack),
            Stage::LabelFilter(filter) => Op::Filter(Filter::compile(filter, &mut |name| self.id(name))?),
            Stage::LineFormat(text) => {
                let template = Template::parse("line", text);
                Op::LineFormat(template.map_err(|e| format!("invalid line template: {e}"))?)
            }
            Stage::LabelFormat(formats) => {
                let mut out = vec![];
                for (i, format) in formats.iter().enumerate() {
                    if format.name == ERROR {
                        return Err(format!("{ERROR} cannot be formatted"));
                    }
                    if formats[..i].iter().any(|f| f.name == format.name) {
                        return Err(format!(
                            "multiple label name '{}' not allowed in a single format operation",
                            format.name
                        ));
                    }
                }
                for format in formats {
                    let assign = match &format.value {
                        LabelFormatValue::Rename(source) => Assign::Rename(self.id(source)),
                        LabelFormatValue::Template(text) => Assign::Template(
                            Template::parse("label", text)
                                .map_err(|e| format!("invalid template for label '{}': {e}", format.name))?,
                        ),
                    };
                    out.push((self.id(&format.name), assign));
                }
                Op::LabelFormat(out)
            }
            Stage::Decolorize => Op::Decolorize,
            Stage::Drop(picks) => Op::Drop(self.picks(picks)),
            Stage::Keep(picks) => Op::Keep(self.picks(picks)),
        };
        ops.push(op);
        Ok(())
    }

    fn logfmt_keys(&mut self, list: &[Extraction]) -> Result<Vec<(NameId, String)>, String> {
        list.iter()
            .map(|e| Ok((self.id(&e.name), sanitize(parse_logfmt_key(&e.expression)?, true))))
            .collect()
    }

    fn picks(&mut self, picks: &[LabelPick]) -> Vec<Pick> {
        picks
            .iter()
            .map(|p| match p {
                LabelPick::Name(name) => Pick { id: self.id(name), matcher: None },
                LabelPick::Matcher(m) => Pick { id: self.id(&m.name), matcher: Some(m.clone()) },
            })
            .collect()
    }

    fn skim(&self, parser: &Parser, filter: &Filter) -> Option<Skim> {
        let label = filter.single_label()?;
        Skim::new(parser, filter, self.names.get(label as usize)?)
    }

    /// Walks the stages backwards to find what each parser must extract, and which filters it can apply itself.
    fn add_hints(&mut self, ops: &mut [Op], needs: &Needs) {
        let mut needs: Option<Vec<NameId>> =
            needs.as_ref().map(|names| names.iter().map(|n| self.id(n)).collect());
        let mut filters: Vec<(NameId, Filter)> = vec![];
        // Those among them with nothing between the parser and them that makes or removes labels.
        let mut next: Vec<Filter> = vec![];
        for op in ops.iter_mut().rev() {
            if !matches!(op, Op::Line(_) | Op::Filter(_) | Op::Parse(_)) {
                next.clear();
            }
            let mut add = |ids: &mut dyn Iterator<Item = NameId>| {
                if let Some(needs) = &mut needs {
                    needs.extend(ids.filter(|id| !needs.contains(id)).collect::<Vec<_>>());
                }
            };
            match op {
                Op::Line(_) | Op::Decolorize => {}
                Op::Parse(Parse { parser, hints, probe, skims }) => {
                    *skims = next.drain(..).rev().filter_map(|f| self.skim(parser, &f)).collect();
                    let mut wanted = needs.clone();
                    if let Some(wanted) = &mut wanted {
                        wanted.sort_unstable();
                        wanted.dedup();
                    }
                    // The filters were met last to first, and the first on a label counts.
                    let filters: Vec<_> = filters.iter().rev().cloned().collect();
                    let mut labels: Vec<NameId> = filters.iter().map(|(id, _)| *id).collect();
                    labels.sort_unstable();
                    labels.dedup();
                    let much_else = wanted.as_ref().is_none_or(|w| w.len() > labels.len() + 4);
                    if !labels.is_empty()
                        && much_else
                        && matches!(parser, Parser::Json | Parser::Logfmt { .. })
                    {
                        let hints = Hints { needs: Some(labels.clone()), filters: filters.clone() };
                        *probe = Some(Probe { labels, hints });
                    }
                    *hints = Hints { needs: wanted, filters };
                }
                Op::Filter(filter) => {
                    let mut ids = vec![];
                    filter.add_labels(&mut ids);
                    add(&mut ids.into_iter());
                    if let Some(id) = filter.single_label() {
                        filters.push((id, filter.clone()));
                        next.push(filter.clone());
                    }
                }
                Op::LineFormat(template) => match template.fields() {
                    Some(fields) => {
                        let ids: Vec<NameId> = fields.iter().map(|f| self.id(f)).collect();
                        add(&mut ids.into_iter());
                    }
                    None => needs = None,
                },
                Op::LabelFormat(formats) => {
                    for (_, assign) in formats.iter() {
                        match assign {
                            Assign::Rename(source) => {
                                if let Some(needs) = &mut needs {
                                    needs.push(*source);
                                }
                            }
                            Assign::Template(template) => match (template.fields(), &mut needs) {
                                (Some(fields), Some(needs)) => {
                                    needs.extend(fields.iter().map(|f| self.id(f)).collect::<Vec<_>>());
                                }
                                _ => needs = None,
                            },
                        }
                    }
                }
                Op::Drop(picks) => add(&mut picks.iter().filter(|p| p.matcher.is_some()).map(|p| p.id)),
                Op::Keep(picks) => {
                    let kept = picks.iter().map(|p| p.id);
                    match &mut needs {
                        None => needs = Some(kept.collect()),
                        Some(needs) => needs.extend(
                            picks.iter().filter(|p| p.matcher.is_some()).map(|p| p.id).collect::<Vec<_>>(),
                        ),
                    }
                }
            }
        }
    }
}

/// The labels that unwrapping and the filters after it look at.
pub(crate) fn unwrap_labels(unwrap: &Unwrap) -> Vec<String> {
    fn add(filter: &crate::ast::LabelFilter, out: &mut Vec<String>) {
        use crate::ast::LabelFilter::*;
        match filter {
            Text(m) => out.push(m.name.to_string()),
            Number(name, ..) | Duration(name, ..) | Bytes(name, ..) | Ip { name, .. } => {
                out.push(name.clone())
            }
            And(a, b) | Or(a, b) => {
                add(a, out);
                add(b, out);
            }
        }
    }
    let mut out = vec![unwrap.label.clone()];
    unwrap.filters.iter().for_each(|f| add(f, &mut out));
    out
}
