//! Running a template over one entry.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::rc::Rc;

use skald_model::Timestamp;

use super::Template;
use super::functions::{Call, Function};
use super::parse::{Argument, Command, Kind, Node, Pipe};
use super::value::{Text, Value};
use crate::pipeline::EntryState;

/// Steps of one execution; more is a template gone wild.
const MAX_STEPS: usize = 1_000_000;
/// Templates that call each other go no deeper.
const MAX_CALLS: usize = 100;

/// One execution.
pub(super) struct Execution<'a> {
    template: &'a Template,
    labels: &'a EntryState,
    call: Call<'a>,
    variables: Vec<(&'a str, Value<'a>)>,
    steps: usize,
    calls: usize,
}

/// How a list of nodes ended.
enum Flow {
    Next,
    Break,
    Continue,
}

impl<'a> Execution<'a> {
    pub(super) fn new(
        template: &'a Template,
        labels: &'a EntryState,
        line: &'a [u8],
        timestamp: Timestamp,
    ) -> Self {
        Self {
            template,
            labels,
            call: Call { line, timestamp },
            variables: vec![("$", Value::Labels)],
            steps: 0,
            calls: 0,
        }
    }

    pub(super) fn run(mut self, out: &mut Vec<u8>) -> Result<(), String> {
        let template = self.template;
        self.list(&template.root, &Value::Labels, out).map(|_| ())
    }

    /// An error at a node, with its place and text.
    fn error(
        &self,
        position: usize,
        node: &dyn std::fmt::Display,
        message: impl std::fmt::Display,
    ) -> String {
        let before = &self.template.text[..position.min(self.template.text.len())];
        let line = 1 + before.matches('\n').count();
        let column = before.len() - before.rfind('\n').map_or(0, |p| p + 1);
        let mut shown = node.to_string();
        if shown.len() > 20 {
            let mut end = 20;
            while !shown.is_char_boundary(end) {
                end -= 1;
            }
            shown = format!("{}...", &shown[..end]);
        }
        let name = self.template.name;
        format!("template: {name}:{line}:{column}: executing \"{name}\" at <{shown}>: {message}")
    }

    fn step(&mut self) -> Result<(), String> {
        self.steps += 1;
        if self.steps > MAX_STEPS {
            return Err(format!("template: {}: more than {MAX_STEPS} steps", self.template.name));
        }
        Ok(())
    }

    fn list(&mut self, nodes: &'a [Node], dot: &Value<'a>, out: &mut Vec<u8>) -> Result<Flow, String> {
        for node in nodes {
            self.step()?;
            match node {
                Node::Text(text) => out.extend_from_slice(text),
                Node::Action(pipe) => {
                    let value = self.pipe(pipe, dot)?;
                    if pipe.declared.is_empty() {
                        self.print(value, out);
                    }
                }
                Node::If(pipe, then, other) => {
                    let scope = self.variables.len();
                    let value = self.pipe(pipe, dot)?;
                    let flow = self.list(if self.truth(&value) { then } else { other }, dot, out)?;
                    self.variables.truncate(scope);
                    if !matches!(flow, Flow::Next) {
                        return Ok(flow);
                    }
                }
                Node::With(pipe, then, other) => {
                    let scope = self.variables.len();
                    let value = self.pipe(pipe, dot)?;
                    let flow = if self.truth(&value) {
                        self.list(then, &value, out)?
                    } else {
                        self.list(other, dot, out)?
                    };
                    self.variables.truncate(scope);
                    if !matches!(flow, Flow::Next) {
                        return Ok(flow);
                    }
                }
                Node::Range(pipe, body, other) => {
                    let scope = self.variables.len();
                    self.range(pipe, body, other, dot, out)?;
                    self.variables.truncate(scope);
                }
                Node::Template(position, name, pipe) => {
                    let value = match pipe {
                        Some(pipe) => self.pipe(pipe, dot)?,
                        None => Value::Nothing,
                    };
                    let template = self.template;
                    let Some((_, body)) = template.defined.iter().rev().find(|(n, _)| n == name) else {
                        let shown = format!("{{{{template {}}}}}", crate::units::go_quote(name));
                        let message = format!("template {} not defined", crate::units::go_quote(name));
                        return Err(self.error(*position, &shown, message));
                    };
                    self.calls += 1;
                    if self.calls > MAX_CALLS {
                        return Err(self.error(*position, name, "exceeded maximum template depth (100)"));
                    }
                    let outer = std::mem::replace(&mut self.variables, vec![("$", value.clone())]);
                    self.list(body, &value, out)?;
                    self.variables = outer;
                    self.calls -= 1;
                }
                Node::Break => return Ok(Flow::Break),
                Node::Continue => return Ok(Flow::Continue),
            }
        }
        Ok(Flow::Next)
    }

    fn range(
        &mut self,
        pipe: &'a Pipe,
        body: &'a [Node],
        other: &'a [Node],
        dot: &Value<'a>,
        out: &mut Vec<u8>,
    ) -> Result<(), String> {
        let value = self.value_of(pipe, dot)?;
        let items: Vec<(Value<'a>, Value<'a>)> = match self.materialized(value) {
            Value::List(list) => {
                list.iter().enumerate().map(|(i, v)| (Value::Int(i as i64), v.clone())).collect()
            }
            Value::Map(map) => map.iter().map(|(k, v)| (Value::text(k.clone()), v.clone())).collect(),
            Value::Int(n) => {
                (0..n.clamp(0, MAX_STEPS as i64)).map(|i| (Value::Int(i), Value::Int(i))).collect()
            }
            Value::Nothing => vec![],
            other => {
                let mut shown = vec![];
                other.print(&mut shown);
                let message = format!("range can't iterate over {}", String::from_utf8_lossy(&shown));
                return Err(self.error(pipe.position, pipe, message));
            }
        };
        if items.is_empty() {
            self.list(other, dot, out)?;
            return Ok(());
        }
        let scope = self.variables.len();
        for (key, value) in items {
            match &pipe.declared[..] {
                [] => {}
                [one] => self.bind(one, value.clone(), pipe.assigns),
                [first, second, ..] => {
                    self.bind(first, key, pipe.assigns);
                    self.bind(second, value.clone(), pipe.assigns);
                }
            }
            let flow = self.list(body, &value, out)?;
            self.variables.truncate(scope);
            if let Flow::Break = flow {
                break;
            }
        }
        Ok(())
    }

    fn bind(&mut self, name: &'a str, value: Value<'a>, assigns: bool) {
        if assigns && let Some(slot) = self.variables.iter_mut().rev().find(|(n, _)| *n == name) {
            slot.1 = value;
            return;
        }
        self.variables.push((name, value));
    }

    /// The value of a pipeline; variables are set.
    fn pipe(&mut self, pipe: &'a Pipe, dot: &Value<'a>) -> Result<Value<'a>, String> {
        let value = self.value_of(pipe, dot)?;
        for name in &pipe.declared {
            self.bind(name, value.clone(), pipe.assigns);
        }
        Ok(value)
    }

    fn value_of(&mut self, pipe: &'a Pipe, dot: &Value<'a>) -> Result<Value<'a>, String> {
        let mut last = None;
        for command in &pipe.commands {
            last = Some(self.command(command, dot, last)?);
        }
        Ok(last.unwrap_or(Value::Nothing))
    }

    fn command(
        &mut self,
        command: &'a Command,
        dot: &Value<'a>,
        last: Option<Value<'a>>,
    ) -> Result<Value<'a>, String> {
        self.step()?;
        let Some((first, rest)) = command.arguments.split_first() else { return Ok(Value::Nothing) };
        if let Kind::Function(function) = &first.kind {
            return self.function(*function, command, rest, dot, last);
        }
        if !rest.is_empty() || last.is_some() {
            return Err(match &first.kind {
                Kind::Field(names) | Kind::Chain(_, names) | Kind::Variable(_, names)
                    if !names.is_empty() =>
                {
                    let name = &names[names.len() - 1];
                    self.error(first.position, first, format!("{name} is not a method but has arguments"))
                }
                _ => {
                    self.error(first.position, first, format!("can't give argument to non-function {first}"))
                }
            });
        }
        self.argument(first, dot)
    }

    fn function(
        &mut self,
        function: Function,
        command: &'a Command,
        arguments: &'a [Argument],
        dot: &Value<'a>,
        last: Option<Value<'a>>,
    ) -> Result<Value<'a>, String> {
        let count = arguments.len() + usize::from(last.is_some());
        if let Err(want) = function.check_count(count) {
            let message = format!("wrong number of args for {}: want {want} got {count}", function.name());
            return Err(self.error(command.position, &function.name(), message));
        }
        // `and` and `or` stop at the argument that decides.
        if let Function::And | Function::Or = function {
            let stop_at = function == Function::Or;
            let mut value = Value::Nothing;
            for argument in arguments {
                value = self.argument(argument, dot)?;
                if self.truth(&value) == stop_at {
                    return Ok(value);
                }
            }
            return Ok(last.unwrap_or(value));
        }
        let mut values: smallvec::SmallVec<[Value<'a>; 4]> = smallvec::SmallVec::new();
        for (i, argument) in arguments.iter().enumerate() {
            let mut value = self.argument(argument, dot)?;
            if let Value::Labels = value {
                value = self.materialized(value);
            }
            if let Err(message) = function.check_argument(i, count, &value, Some(argument)) {
                return Err(self.error(argument.position, argument, message));
            }
            values.push(value);
        }
        if let Some(value) = last {
            let value = self.materialized(value);
            if let Err(message) = function.check_argument(arguments.len(), count, &value, None) {
                return Err(self.error(command.position, command, message));
            }
            values.push(value);
        }
        function.apply(&self.call, &values).map_err(|e| {
            self.error(command.position, command, format!("error calling {}: {e}", function.name()))
        })
    }

    fn argument(&mut self, argument: &'a Argument, dot: &Value<'a>) -> Result<Value<'a>, String> {
        match &argument.kind {
            Kind::Dot => Ok(dot.clone()),
            Kind::Nil => Ok(Value::Nothing),
            Kind::Bool(b) => Ok(Value::Bool(*b)),
            Kind::Number(n) => Ok(match n.int {
                // A literal with a point or exponent is a float, unless an integer is wanted.
                Some(i)
                    if !n.text.contains(['.', 'e', 'E', 'p', 'P'])
                        || n.text.starts_with(['\''])
                        || n.text.to_lowercase().starts_with("0x") =>
                {
                    Value::Int(i)
                }
                _ => Value::Float(n.float),
            }),
            Kind::Text(text, _) => Ok(Value::Text(Text(Cow::Owned(crate::syntax::text::to_bytes(text))))),
            Kind::Field(names) => self.fields(dot.clone(), names, argument),
            Kind::Variable(name, names) => {
                let value = self.variables.iter().rev().find(|(n, _)| n == name).map(|(_, v)| v.clone());
                self.fields(value.unwrap_or(Value::Nothing), names, argument)
            }
            Kind::Chain(of, names) => {
                let value = self.argument(of, dot)?;
                self.fields(value, names, argument)
            }
            Kind::Pipe(pipe) => self.pipe(pipe, dot),
            Kind::Function(function) => {
                // A bare name as an argument is a call without arguments.
                if let Err(want) = function.check_count(0) {
                    let message = format!("wrong number of args for {}: want {want} got 0", function.name());
                    return Err(self.error(argument.position, argument, message));
                }
                function.apply(&self.call, &[]).map_err(|e| {
                    self.error(argument.position, argument, format!("error calling {}: {e}", function.name()))
                })
            }
        }
    }

    fn fields(&self, value: Value<'a>, names: &'a [String], node: &'a Argument) -> Result<Value<'a>, String> {
        let mut value = value;
        for name in names {
            value = match value {
                Value::Labels => Value::text(self.label(name)),
                Value::Map(map) => map.get(name).cloned().unwrap_or(Value::Nothing),
                Value::Nothing => {
                    return Err(self.error(
                        node.position,
                        node,
                        format!("nil pointer evaluating interface {{}}.{name}"),
                    ));
                }
                other => {
                    let message = format!("can't evaluate field {name} in type {}", other.type_name());
                    return Err(self.error(node.position, node, message));
                }
            };
        }
        Ok(value)
    }

    fn label(&self, name: &str) -> &'a str {
        match name {
            crate::pipeline::ERROR => self.labels.error(),
            crate::pipeline::ERROR_DETAILS => self.labels.details(),
            _ => self.labels.get_by_name(name).unwrap_or_default(),
        }
    }

    /// The labels as a map, where they are used as a whole.
    fn materialized(&self, value: Value<'a>) -> Value<'a> {
        match value {
            Value::Labels => {
                let pairs = self.labels.pairs().map(|(n, v)| (n.to_owned(), Value::text(v)));
                Value::Map(Rc::new(pairs.collect::<BTreeMap<_, _>>()))
            }
            other => other,
        }
    }

    fn truth(&self, value: &Value<'a>) -> bool {
        match value {
            Value::Labels => self.labels.pairs().next().is_some(),
            other => super::functions::truth(other),
        }
    }

    fn print(&self, value: Value<'a>, out: &mut Vec<u8>) {
        self.materialized(value).print(out);
    }
}
