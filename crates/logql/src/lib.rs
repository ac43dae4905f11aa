//! LogQL: from text to answers.
//!
//! This crate owns the query language: lexer, parser and printer ([`syntax`]), the tree ([`ast`]), the pipelines that
//! entries run through ([`pipeline`], [`template`]), what a query needs from storage ([`plan`]) and the evaluation of
//! metric queries over mergeable partial states ([`metric`]). It promises Loki's answers and Loki's words for errors;
//! where Skald does more on purpose, [`syntax::ParseOptions`] turns it off. It is pure: no I/O, no clock, no tasks,
//! and it knows neither HTTP nor blocks.

pub mod ast;
pub mod error;
pub mod metric;
pub mod pipeline;
pub mod syntax;
pub mod units;

pub use ast::{Expr, LogExpr, MetricExpr};
pub use error::ParseError;
pub use syntax::{ParseOptions, canonical, format_query, parse, parse_selector, parse_with};
