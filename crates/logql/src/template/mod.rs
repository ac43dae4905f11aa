//! Go's `text/template` language with the functions that Loki offers, for `line_format` and `label_format`.
//!
//! A template is parsed once per query. Errors, also those at execution, have the words of Go's package, because
//! Loki's users see them in answers and in `__error_details__`.

mod exec;
mod functions;
mod layout;
mod number;
mod parse;
mod printf;
mod value;

use skald_model::Timestamp;

use crate::pipeline::EntryState;

/// A parsed template.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    name: &'static str,
    text: String,
    root: Vec<parse::Node>,
    /// Templates that the text defines.
    defined: Vec<(String, Vec<parse::Node>)>,
    /// The labels that it reads; `None` if it may read any.
    fields: Option<Vec<String>>,
}

impl Template {
    /// Parses `text`; `name` is what errors call the template.
    pub(crate) fn parse(name: &'static str, text: &str) -> Result<Self, String> {
        let (root, defined) = parse::parse(name, text)?;
        let mut fields = Some(vec![]);
        for nodes in std::iter::once(&root).chain(defined.iter().map(|(_, n)| n)) {
            parse::collect_fields(nodes, &mut fields);
        }
        Ok(Self { name, text: text.to_owned(), root, defined, fields })
    }

    /// The labels that the template reads; `None` if it may read any.
    pub(crate) fn fields(&self) -> Option<&[String]> {
        self.fields.as_deref()
    }

    /// Appends the result for an entry.
    pub(crate) fn execute(
        &self,
        labels: &EntryState,
        line: &[u8],
        timestamp: Timestamp,
        out: &mut Vec<u8>,
    ) -> Result<(), String> {
        exec::Execution::new(self, labels, line, timestamp).run(out)
    }
}

#[cfg(test)]
mod tests;
