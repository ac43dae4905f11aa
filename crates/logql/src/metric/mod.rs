//! Metric queries.

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
