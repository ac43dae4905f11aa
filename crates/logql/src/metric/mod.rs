//! Metric queries: compiled to range aggregations, which tasks compute apart as mergeable partial states, and an outer
//! part, which is evaluated over the merged states.
//!
//! ```text
//! MetricQuery::compile ── per leaf and task: observer() ── observe(entry)… ── finish() ── Partial
//!                                                   merge(Partial, Partial) ── evaluate() ── QueryValue
//! ```

mod encode;
mod evaluate;
mod observe;
mod plan;
mod sketch;
mod state;
mod window;

pub use encode::PartialDecodeError;
pub use evaluate::{QueryLimits, QueryValue, Sample, Series};
pub use observe::RangeObserver;
pub use plan::{MetricQuery, RangeLeaf};
pub use state::Partial;
pub use window::Steps;

use crate::ast::BinaryOp;

/// What an operation on two numbers gives; comparisons give 1 or 0.
pub(crate) fn fold_literals(op: BinaryOp, left: f64, right: f64) -> f64 {
    let truth = |b: bool| f64::from(u8::from(b));
    match op {
        BinaryOp::Add => left + right,
        BinaryOp::Sub => left - right,
        BinaryOp::Mul => left * right,
        // Loki gives NaN for a division by zero, where IEEE has infinities.
        BinaryOp::Div | BinaryOp::Mod if right == 0.0 => f64::NAN,
        BinaryOp::Div => left / right,
        BinaryOp::Mod => left % right,
        BinaryOp::Pow => left.powf(right),
        BinaryOp::Equal => truth(left == right),
        BinaryOp::NotEqual => truth(left != right),
        BinaryOp::Greater => truth(left > right),
        BinaryOp::GreaterOrEqual => truth(left >= right),
        BinaryOp::Less => truth(left < right),
        BinaryOp::LessOrEqual => truth(left <= right),
        // Set operations have no numbers as operands; the parser has refused them.
        BinaryOp::Or | BinaryOp::And | BinaryOp::Unless => left,
    }
}

#[cfg(test)]
mod tests;
