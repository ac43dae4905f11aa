//! What a log query needs from whoever holds entries.

use std::sync::Arc;

use skald_model::{LinePredicate, Selector};

use crate::ast::{LogExpr, Stage};
use crate::error::ParseError;
use crate::pipeline::{Needs, Pipeline, line};

/// A log query, compiled: which streams, which lines, and what happens to their entries.
#[derive(Clone, Debug)]
pub struct LogQuery {
    /// Which streams.
    pub selector: Selector,
    /// Conditions on the stored line, to be evaluated as early as can be.
    pub predicate: LinePredicate,
    /// The other stages; `None` if there are none, and then [`crate::pipeline::PlainLabels`] gives the labels.
    pub pipeline: Option<Arc<Pipeline>>,
    /// Only the last so many nanoseconds before the end are asked for (a trailing `[range]`).
    pub range: Option<i64>,
    /// A stage that is not valid. Loki notices when the stage first meets an entry, so this is to be returned as soon as
    /// a stream matches the selector, and not before. The predicate then passes every line.
    pub invalid: Option<ParseError>,
}

impl LogQuery {
    /// Compiles a log query whose entries are returned with all their labels.
    pub fn compile(expr: &LogExpr) -> Self {
        Self::compile_with(expr, &[], &None)
    }

    /// Compiles the entries of a query that looks only at the labels `needs`. `names` get the first numbers among the
    /// labels of its pipeline, in order.
    pub(crate) fn compile_with(expr: &LogExpr, names: &[&str], needs: &Needs) -> Self {
        let (mut predicate, mut stages) = (LinePredicate::default(), vec![]);
        let mut line_is_stored = true;
        let mut invalid = None;
        for stage in &expr.stages {
            match stage {
                // Filters commute with all stages that leave the line alone.
                Stage::LineFilter(filter) if line_is_stored => match line::lower(filter) {
                    Ok(filters) => predicate.all.extend(filters),
                    Err(reason) => {
                        invalid.get_or_insert_with(|| ParseError::stage(stage, reason));
                    }
                },
                stage => {
                    line_is_stored &=
                        !matches!(stage, Stage::LineFormat(_) | Stage::Unpack | Stage::Decolorize);
                    stages.push(stage.clone());
                }
            }
        }
        let mut pipeline = None;
        if !stages.is_empty() || !names.is_empty() {
            match Pipeline::compile_with(&stages, names, needs) {
                Ok(compiled) => pipeline = Some(compiled),
                Err(e) => {
                    invalid.get_or_insert(e);
                }
            }
        }
        if invalid.is_some() {
            predicate = LinePredicate::default();
        }
        Self { selector: expr.selector.clone(), predicate, pipeline, range: expr.range, invalid }
    }
}
