//! Pipelines: what happens to an entry between the store and the answer.

pub(crate) mod pattern;

use skald_model::regex::{Mode, Regex};

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
