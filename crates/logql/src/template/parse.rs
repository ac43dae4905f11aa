//! From text to nodes.

use std::fmt;

use super::functions::Function;

/// A part of a template.
#[derive(Clone, Debug)]
pub(super) enum Node {
    Text(Vec<u8>),
    Action(Pipe),
    If(Pipe, Vec<Node>, Vec<Node>),
    With(Pipe, Vec<Node>, Vec<Node>),
    Range(Pipe, Vec<Node>, Vec<Node>),
    Template(usize, String, Option<Pipe>),
    Break,
    Continue,
}

/// A pipeline: commands whose results feed the next one, and what to do with the last.
#[derive(Clone, Debug)]
pub(super) struct Pipe {
    pub position: usize,
    pub declared: Vec<String>,
    /// `=` instead of `:=`.
    pub assigns: bool,
    pub commands: Vec<Command>,
}

/// A function or operand with its arguments.
#[derive(Clone, Debug)]
pub(super) struct Command {
    pub position: usize,
    pub arguments: Vec<Argument>,
}

/// An operand.
#[derive(Clone, Debug)]
pub(super) struct Argument {
    pub position: usize,
    pub kind: Kind,
}

#[derive(Clone, Debug)]
pub(super) enum Kind {
    Dot,
    Nil,
    Bool(bool),
    Number(Number),
    /// With the literal as written.
    Text(String, String),
    Field(Vec<String>),
    Variable(String, Vec<String>),
    Chain(Box<Argument>, Vec<String>),
    Pipe(Pipe),
    Function(Function),
}

/// A numeric literal: Go decides by its use what it is.
#[derive(Clone, Debug)]
pub(super) struct Number {
    pub text: String,
    pub int: Option<i64>,
    pub float: f64,
}

impl fmt::Display for Pipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.declared.is_empty() {
            write!(f, "{} {} ", self.declared.join(", "), if self.assigns { "=" } else { ":=" })?;
        }
        for (i, command) in self.commands.iter().enumerate() {
            write!(f, "{}{command}", if i > 0 { " | " } else { "" })?;
        }
        Ok(())
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, argument) in self.arguments.iter().enumerate() {
            if i > 0 {
                f.write_str(" ")?;
            }
            match &argument.kind {
                Kind::Pipe(pipe) => write!(f, "({pipe})")?,
                _ => argument.fmt(f)?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for Argument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Dot => f.write_str("."),
            Kind::Nil => f.write_str("nil"),
            Kind::Bool(b) => b.fmt(f),
            Kind::Number(n) => f.write_str(&n.text),
            Kind::Text(_, literal) => f.write_str(literal),
            Kind::Field(names) => names.iter().try_for_each(|n| write!(f, ".{n}")),
            Kind::Variable(name, fields) => {
                f.write_str(name)?;
                fields.iter().try_for_each(|n| write!(f, ".{n}"))
            }
            Kind::Chain(of, fields) => {
                match &of.kind {
                    Kind::Pipe(pipe) => write!(f, "({pipe})")?,
                    _ => of.fmt(f)?,
                }
                fields.iter().try_for_each(|n| write!(f, ".{n}"))
            }
            Kind::Pipe(pipe) => pipe.fmt(f),
            Kind::Function(function) => f.write_str(function.name()),
        }
    }
}

type Defined = Vec<(String, Vec<Node>)>;

/// Parses a template; the error has Go's words.
pub(super) fn parse(name: &str, text: &str) -> Result<(Vec<Node>, Defined), String> {
    let mut parser = Parser {
        name,
        text,
        at: 0,
        trim_next: false,
        variables: vec!["$".into()],
        defined: vec![],
        loops: 0,
        depth: 0,
    };
    let (nodes, end) = parser.list()?;
    match end {
        End::Eof => Ok((nodes, parser.defined)),
        other => Err(parser.error(format!("unexpected {}", other.name()))),
    }
}

/// Actions nest at most this deep.
const MAX_DEPTH: usize = 100;

struct Parser<'t> {
    name: &'t str,
    text: &'t str,
    at: usize,
    /// The last action ended with ` -}}`.
    trim_next: bool,
    variables: Vec<String>,
    defined: Defined,
    loops: usize,
    depth: usize,
}

/// What ended a list of nodes.
enum End {
    Eof,
    Close,
    /// `else`, with the rest of the action still to be read.
    Else,
}

impl End {
    fn name(&self) -> &'static str {
        match self {
            End::Eof => "EOF",
            End::Close => "{{end}}",
            End::Else => "{{else}}",
        }
    }
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

impl<'t> Parser<'t> {
    fn error(&self, message: impl fmt::Display) -> String {
        let line = 1 + self.text[..self.at.min(self.text.len())].matches('\n').count();
        format!("template: {}:{line}: {message}", self.name)
    }

    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    /// Nodes up to the end of the text, `{{end}}` or `{{else`.
    fn list(&mut self) -> Result<(Vec<Node>, End), String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.error("template is nested too deeply"));
        }
        let mut nodes = vec![];
        let end = loop {
            let open = self.rest().find("{{");
            let mut literal = &self.rest()[..open.unwrap_or(self.rest().len())];
            if self.trim_next {
                literal = literal.trim_start_matches(is_space);
                self.trim_next = false;
            }
            let Some(open) = open else {
                push_text(&mut nodes, literal);
                self.at = self.text.len();
                break End::Eof;
            };
            self.at += open + 2;
            let after = self.rest().strip_prefix('-').filter(|r| r.starts_with(is_space));
            if after.is_some() {
                literal = literal.trim_end_matches(is_space);
                self.at += 1;
            }
            push_text(&mut nodes, literal);
            if self.comment()? {
                continue;
            }
            self.skip_space();
            if let Some(end) = self.action(&mut nodes)? {
                break end;
            }
        };
        self.depth -= 1;
        Ok((nodes, end))
    }

    /// `/* … */` and the end of its action.
    fn comment(&mut self) -> Result<bool, String> {
        let trimmed = self.rest().trim_start_matches(is_space);
        if !trimmed.starts_with("/*") {
            return Ok(false);
        }
        self.at = self.text.len() - trimmed.len();
        let Some(end) = trimmed.find("*/") else { return Err(self.error("unclosed comment")) };
        self.at += end + 2;
        if !self.close() {
            return Err(self.error("comment ends before closing delimiter"));
        }
        Ok(true)
    }

    fn skip_space(&mut self) {
        let rest = self.rest().trim_start_matches(is_space);
        self.at = self.text.len() - rest.len();
    }

    /// Reads `}}` or ` -}}` if it is next.
    fn close(&mut self) -> bool {
        let rest = self.rest();
        let trimmed = rest.trim_start_matches(is_space);
        if let Some(after) = trimmed.strip_prefix("-}}").filter(|_| trimmed.len() < rest.len()) {
            self.at = self.text.len() - after.len();
            self.trim_next = true;
            return true;
        }
        if let Some(after) = trimmed.strip_prefix("}}") {
            self.at = self.text.len() - after.len();
            return true;
        }
        false
    }

    fn is_closing(&self) -> bool {
        let rest = self.rest();
        let trimmed = rest.trim_start_matches(is_space);
        trimmed.starts_with("}}") || (trimmed.len() < rest.len() && trimmed.starts_with("-}}"))
    }

    /// A word that is next, without reading it.
    fn peek_word(&self) -> &'t str {
        let rest = self.rest();
        let len = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
        &rest[..len]
    }

    /// Reads an action after `{{`; returns what it ends, if it is an end.
    fn action(&mut self, nodes: &mut Vec<Node>) -> Result<Option<End>, String> {
        let position = self.at;
        let word = self.peek_word();
        let keyword = matches!(
            word,
            "if" | "with" | "range" | "end" | "else" | "define" | "template" | "block" | "break" | "continue"
        );
        if keyword {
            self.at += word.len();
        }
        match word {
            "end" => {
                self.expect_close("end")?;
                return Ok(Some(End::Close));
            }
            "else" => return Ok(Some(End::Else)),
            "if" => {
                let (pipe, list, other) = self.branch("if")?;
                nodes.push(Node::If(pipe, list, other));
            }
            "with" => {
                let (pipe, list, other) = self.branch("with")?;
                nodes.push(Node::With(pipe, list, other));
            }
            "range" => {
                self.loops += 1;
                let (pipe, list, other) = self.branch("range")?;
                self.loops -= 1;
                nodes.push(Node::Range(pipe, list, other));
            }
            "break" | "continue" => {
                if self.loops == 0 {
                    return Err(self.error(format!("{{{{{word}}}}} outside {{{{range}}}}")));
                }
                self.expect_close(word)?;
                nodes.push(if word == "break" { Node::Break } else { Node::Continue });
            }
            "define" => {
                let name = self.quoted_name("define clause")?;
                self.expect_close("define clause")?;
                let (list, end) = self.list()?;
                let End::Close = end else {
                    return Err(self.error(format!("unexpected {} in define clause", end.name())));
                };
                self.defined.push((name, list));
            }
            "block" => {
                let name = self.quoted_name("block clause")?;
                let pipe = self.pipeline("block clause", true)?;
                let (list, end) = self.list()?;
                let End::Close = end else {
                    return Err(self.error(format!("unexpected {} in block clause", end.name())));
                };
                self.defined.push((name.clone(), list));
                nodes.push(Node::Template(position, name, Some(pipe)));
            }
            "template" => {
                let name = self.quoted_name("template clause")?;
                let pipe = if self.close() { None } else { Some(self.pipeline("template clause", true)?) };
                nodes.push(Node::Template(position, name, pipe));
            }
            _ => nodes.push(Node::Action(self.pipeline("command", true)?)),
        }
        Ok(None)
    }

    fn expect_close(&mut self, context: &str) -> Result<(), String> {
        if self.close() {
            return Ok(());
        }
        self.skip_space();
        Err(self.unexpected(context))
    }

    fn quoted_name(&mut self, context: &str) -> Result<String, String> {
        self.skip_space();
        match self.rest().chars().next() {
            Some('"' | '`') => Ok(self.string()?.0),
            _ => Err(self.unexpected(context)),
        }
    }

    /// The pipeline and the lists of `if`, `with` and `range`.
    fn branch(&mut self, context: &'static str) -> Result<(Pipe, Vec<Node>, Vec<Node>), String> {
        let scope = self.variables.len();
        let pipe = self.pipeline(context, true)?;
        let (list, end) = self.list()?;
        let mut other = vec![];
        match end {
            End::Close => {}
            End::Eof => return Err(self.error("unexpected EOF")),
            End::Else => {
                self.skip_space();
                let word = self.peek_word();
                if word == context && context != "range" {
                    // `else if` is an `if` of its own that shares the end.
                    self.at += word.len();
                    self.depth += 1;
                    if self.depth > MAX_DEPTH {
                        return Err(self.error("template is nested too deeply"));
                    }
                    let (pipe, list, inner) = self.branch(context)?;
                    self.depth -= 1;
                    other.push(match context {
                        "if" => Node::If(pipe, list, inner),
                        _ => Node::With(pipe, list, inner),
                    });
                } else {
                    self.expect_close("else")?;
                    let (list, end) = self.list()?;
                    match end {
                        End::Close => other = list,
                        End::Eof => return Err(self.error("unexpected EOF")),
                        End::Else => return Err(self.error("expected end; found {{else}}")),
                    }
                }
            }
        }
        self.variables.truncate(scope);
        Ok((pipe, list, other))
    }

    /// A pipeline up to the end of the action, or to `)`.
    fn pipeline(&mut self, context: &str, to_close: bool) -> Result<Pipe, String> {
        self.skip_space();
        let mut pipe = Pipe { position: self.at, declared: vec![], assigns: false, commands: vec![] };
        self.declarations(&mut pipe, context)?;
        loop {
            let ended = if to_close { self.is_closing() } else { self.rest().trim_start().starts_with(')') };
            if ended {
                self.check(&pipe, context)?;
                if to_close {
                    self.close();
                } else {
                    self.skip_space();
                    self.at += 1;
                }
                return Ok(pipe);
            }
            self.skip_space();
            if self.rest().is_empty() {
                return Err(self.error(if to_close { "unclosed action" } else { "unclosed left paren" }));
            }
            if self.is_closing() {
                return Err(self.error("unclosed left paren"));
            }
            let command = self.command(to_close)?;
            pipe.commands.push(command);
        }
    }

    /// `$x :=`, `$x =`, `$i, $x :=`.
    fn declarations(&mut self, pipe: &mut Pipe, context: &str) -> Result<(), String> {
        let start = self.at;
        let mut names = vec![];
        loop {
            self.skip_space();
            if !self.rest().starts_with('$') {
                break;
            }
            self.at += 1;
            let word = self.peek_word();
            self.at += word.len();
            names.push(format!("${word}"));
            self.skip_space();
            if let Some(after) = self.rest().strip_prefix(":=") {
                self.at = self.text.len() - after.len();
                self.variables.extend(names.iter().cloned());
                pipe.declared = names;
                return Ok(());
            }
            if self.rest().starts_with('=') {
                self.at += 1;
                if let Some(unknown) = names.iter().find(|n| !self.variables.contains(n)) {
                    return Err(self.error(format!("undefined variable {}", crate::units::go_quote(unknown))));
                }
                pipe.declared = names;
                pipe.assigns = true;
                return Ok(());
            }
            if context == "range" && names.len() == 1 && self.rest().starts_with(',') {
                self.at += 1;
                continue;
            }
            break;
        }
        self.at = start;
        Ok(())
    }

    fn check(&self, pipe: &Pipe, context: &str) -> Result<(), String> {
        if pipe.commands.is_empty() {
            return Err(self.error(format!("missing value for {context}")));
        }
        for (i, command) in pipe.commands.iter().enumerate().skip(1) {
            if let Some(Argument {
                kind: Kind::Bool(_) | Kind::Dot | Kind::Nil | Kind::Number(_) | Kind::Text(..),
                ..
            }) = command.arguments.first()
            {
                return Err(self.error(format!("non executable command in pipeline stage {}", i + 1)));
            }
        }
        Ok(())
    }

    fn command(&mut self, to_close: bool) -> Result<Command, String> {
        self.skip_space();
        let mut command = Command { position: self.at, arguments: vec![] };
        loop {
            self.skip_space();
            if let Some(argument) = self.operand()? {
                command.arguments.push(argument);
            }
            let spaced = self.rest().starts_with(is_space);
            if spaced && !self.is_closing() {
                self.skip_space();
                let next = self.rest().chars().next();
                if !matches!(next, None | Some('|' | ')')) {
                    continue;
                }
            }
            let ended = self.is_closing() || self.rest().starts_with(')');
            if !ended {
                match self.rest().chars().next() {
                    Some('|') => {
                        self.at += 1;
                        self.skip_space();
                        if self.is_closing() {
                            return Err(self.error("missing value for command"));
                        }
                    }
                    None => {
                        return Err(self.error(if to_close {
                            "unclosed action"
                        } else {
                            "unclosed left paren"
                        }));
                    }
                    _ => return Err(self.unexpected("operand")),
                }
            } else if to_close && self.rest().starts_with(')') {
                return Err(self.error("unexpected right paren"));
            }
            if command.arguments.is_empty() {
                return Err(self.error("empty command"));
            }
            return Ok(command);
        }
    }

    /// An operand with the fields that follow it directly.
    fn operand(&mut self) -> Result<Option<Argument>, String> {
        let position = self.at;
        let Some(term) = self.term()? else { return Ok(None) };
        let fields = self.fields()?;
        if fields.is_empty() {
            return Ok(Some(Argument { position, kind: term }));
        }
        let kind = match term {
            Kind::Field(mut names) => {
                names.extend(fields);
                Kind::Field(names)
            }
            Kind::Variable(name, mut names) => {
                names.extend(fields);
                Kind::Variable(name, names)
            }
            Kind::Bool(_) | Kind::Text(..) | Kind::Number(_) | Kind::Nil | Kind::Dot => {
                let term = Argument { position, kind: term };
                return Err(self.error(format!(
                    "unexpected . after term {}",
                    crate::units::go_quote(&term.to_string())
                )));
            }
            term => Kind::Chain(Box::new(Argument { position, kind: term }), fields),
        };
        Ok(Some(Argument { position, kind }))
    }

    fn fields(&mut self) -> Result<Vec<String>, String> {
        let mut names = vec![];
        while let Some(rest) = self.rest().strip_prefix('.') {
            if !rest.starts_with(|c: char| c.is_alphabetic() || c == '_') {
                break;
            }
            self.at += 1;
            let word = self.peek_word();
            self.at += word.len();
            names.push(word.to_owned());
        }
        Ok(names)
    }

    fn term(&mut self) -> Result<Option<Kind>, String> {
        let rest = self.rest();
        let Some(c) = rest.chars().next() else { return Ok(None) };
        Ok(Some(match c {
            '.' if rest[1..].starts_with(|c: char| c.is_ascii_digit()) => self.number()?,
            '.' => {
                let names = self.fields()?;
                if names.is_empty() {
                    self.at += 1;
                    if self.rest().starts_with(|c: char| !is_space(c) && !matches!(c, '|' | ')' | '}' | '-'))
                    {
                        return Err(self.unexpected("operand"));
                    }
                    Kind::Dot
                } else {
                    Kind::Field(names)
                }
            }
            '$' => {
                self.at += 1;
                let word = self.peek_word();
                self.at += word.len();
                let name = format!("${word}");
                if !self.variables.contains(&name) {
                    return Err(self.error(format!("undefined variable {}", crate::units::go_quote(&name))));
                }
                Kind::Variable(name, vec![])
            }
            '"' | '`' => {
                let (text, literal) = self.string()?;
                Kind::Text(text, literal)
            }
            '\'' => {
                let end = rest[1..].find('\'').filter(|e| *e > 0);
                let Some(end) = end else { return Err(self.error("unterminated character constant")) };
                let inner = &rest[1..=end];
                let text = crate::syntax::text::unquote(&format!("\"{}\"", inner.replace('"', "\\\"")));
                let mut chars = text.iter().flat_map(|t| t.chars());
                let (Some(c), None) = (chars.next(), chars.next()) else {
                    return Err(self.error(format!("malformed character constant: {}", &rest[..end + 2])));
                };
                self.at += end + 2;
                Kind::Number(Number {
                    text: rest[..end + 2].to_owned(),
                    int: Some(i64::from(c as u32)),
                    float: f64::from(c as u32),
                })
            }
            '(' => {
                self.at += 1;
                self.depth += 1;
                if self.depth > MAX_DEPTH {
                    return Err(self.error("template is nested too deeply"));
                }
                let pipe = self.pipeline("parenthesized pipeline", false)?;
                self.depth -= 1;
                Kind::Pipe(pipe)
            }
            '+' | '-' | '0'..='9' => self.number()?,
            c if c.is_alphabetic() || c == '_' => {
                let word = self.peek_word();
                let kind = match word {
                    "true" => Kind::Bool(true),
                    "false" => Kind::Bool(false),
                    "nil" => Kind::Nil,
                    _ => match Function::find(word) {
                        Some(function) => Kind::Function(function),
                        None => {
                            return Err(
                                self.error(format!("function {} not defined", crate::units::go_quote(word)))
                            );
                        }
                    },
                };
                self.at += word.len();
                let next = self.rest().chars().next();
                if next.is_some_and(|c| {
                    !is_space(c) && !matches!(c, '.' | ',' | '|' | ':' | ')' | '(' | '}' | '-')
                }) {
                    return Err(self.error(format!("bad character {}", show_char(next))));
                }
                kind
            }
            '|' | ')' => return Ok(None),
            _ => {
                return Err(if c == '{' || c == '}' || c == ',' || c == '=' || c == ':' {
                    self.unexpected("operand")
                } else {
                    self.error(format!("unexpected {} in operand", crate::units::go_quote(&c.to_string())))
                });
            }
        }))
    }

    fn unexpected(&self, context: &str) -> String {
        let rest = self.rest();
        if rest.is_empty() {
            return self.error("unclosed action");
        }
        let len =
            rest.find(|c: char| is_space(c) || c == '}').filter(|l| *l > 0).unwrap_or(1.min(rest.len()));
        let mut len = len;
        while !rest.is_char_boundary(len) {
            len += 1;
        }
        self.error(format!("unexpected {} in {context}", crate::units::go_quote(&rest[..len])))
    }

    /// A string literal: its text, and itself.
    fn string(&mut self) -> Result<(String, String), String> {
        let rest = self.rest();
        let raw = rest.starts_with('`');
        let mut escaped = false;
        let end = rest[1..].find(|c| {
            let ends = if raw { c == '`' } else { (c == '"' && !escaped) || c == '\n' };
            escaped = c == '\\' && !escaped;
            ends
        });
        let end = end.filter(|e| !rest[1 + e..].starts_with('\n') || raw);
        let Some(end) = end else {
            return Err(self.error(if raw {
                "unterminated raw quoted string"
            } else {
                "unterminated quoted string"
            }));
        };
        let literal = &rest[..end + 2];
        let Some(text) = crate::syntax::text::unquote(literal) else {
            return Err(self.error("invalid syntax"));
        };
        self.at += literal.len();
        Ok((text, literal.to_owned()))
    }

    fn number(&mut self) -> Result<Kind, String> {
        let rest = self.rest();
        let mut previous = ' ';
        let len = rest
            .find(|c: char| {
                let sign =
                    matches!(c, '+' | '-') && (previous == ' ' || matches!(previous, 'e' | 'E' | 'p' | 'P'));
                previous = c;
                !(c.is_alphanumeric() || matches!(c, '.' | '_') || sign)
            })
            .unwrap_or(rest.len());
        let text = &rest[..len];
        self.at += len;
        let Some(number) = super::number::literal(text) else {
            return Err(self.error(format!("bad number syntax: {}", crate::units::go_quote(text))));
        };
        Ok(Kind::Number(number))
    }
}

fn show_char(c: Option<char>) -> String {
    let c = c.unwrap_or(' ');
    format!("U+{:04X} '{c}'", c as u32)
}

fn push_text(nodes: &mut Vec<Node>, text: &str) {
    if !text.is_empty() {
        nodes.push(Node::Text(crate::syntax::text::to_bytes(text)));
    }
}

/// Adds the labels that nodes read; `None` once the whole set may be read.
pub(super) fn collect_fields(nodes: &[Node], out: &mut Option<Vec<String>>) {
    for node in nodes {
        match node {
            Node::Text(_) | Node::Break | Node::Continue => {}
            Node::Action(pipe) => pipe_fields(pipe, out),
            Node::If(pipe, a, b) | Node::With(pipe, a, b) | Node::Range(pipe, a, b) => {
                pipe_fields(pipe, out);
                collect_fields(a, out);
                collect_fields(b, out);
            }
            Node::Template(_, _, pipe) => {
                if let Some(pipe) = pipe {
                    pipe_fields(pipe, out);
                }
            }
        }
    }
}

fn pipe_fields(pipe: &Pipe, out: &mut Option<Vec<String>>) {
    for argument in pipe.commands.iter().flat_map(|c| &c.arguments) {
        argument_fields(argument, out);
    }
}

fn argument_fields(argument: &Argument, out: &mut Option<Vec<String>>) {
    match &argument.kind {
        // Inside of `range` and `with` a dot is something else, but then naming a label too many does no harm.
        Kind::Field(names) => {
            if let (Some(out), Some(name)) = (out, names.first()) {
                out.push(name.clone());
            }
        }
        Kind::Variable(name, fields) if name == "$" => match (fields.first(), &mut *out) {
            (Some(field), Some(out)) => out.push(field.clone()),
            _ => *out = None,
        },
        Kind::Dot => *out = None,
        Kind::Chain(of, _) => argument_fields(of, out),
        Kind::Pipe(pipe) => pipe_fields(pipe, out),
        Kind::Nil
        | Kind::Bool(_)
        | Kind::Number(_)
        | Kind::Text(..)
        | Kind::Variable(..)
        | Kind::Function(_) => {}
    }
}
