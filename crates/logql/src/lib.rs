//! LogQL: from text to answers.
//!
//! This crate owns the query language: lexer, parser and printer ([`syntax`]), the tree ([`ast`]), the pipelines that
//! entries run through ([`pipeline`], with the template language), the [`fields`] that entries have, what a query needs from storage ([`plan`]) and the evaluation of
//! metric queries over mergeable partial states ([`metric`]). It promises Loki's answers and Loki's words for errors;
//! where Skald does more on purpose, [`syntax::ParseOptions`] turns it off. It is pure: no I/O, no clock, no tasks,
//! and it knows neither HTTP nor blocks.

pub mod ast;
pub mod error;
pub mod fields;
pub mod guard;
pub mod metric;
pub mod pipeline;
pub mod plan;
pub mod syntax;
mod template;
pub mod tenants;
pub mod units;

pub use ast::{Expr, LogExpr, MetricExpr};
pub use error::ParseError;
pub use metric::{MetricQuery, Partial, QueryLimits, QueryValue, RangeLeaf, RangeObserver, Steps};
pub use pipeline::{Pipeline, PipelineTask, PlainLabels, Processed};
pub use plan::LogQuery;
pub use syntax::{ParseOptions, canonical, format_query, parse, parse_selector, parse_with};
