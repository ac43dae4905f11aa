//! The expressions of `json` and `logfmt` stages: `a.b[0]["c"]` and bare keys.

/// One step into a JSON document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Key(String),
    Index(usize),
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Dot,
    Open,
    Close,
    Text(String),
    Field(String),
    Index(usize),
    End,
}

impl Token {
    fn name(&self) -> &'static str {
        match self {
            Token::Dot => "DOT",
            Token::Open => "LSB",
            Token::Close => "RSB",
            Token::Text(_) => "STRING",
            Token::Field(_) => "FIELD",
            Token::Index(_) => "INDEX",
            Token::End => "$end",
        }
    }
}

/// Reads a JSON expression; the error has Loki's words.
pub(crate) fn parse_json_path(expression: &str) -> Result<Vec<Step>, String> {
    parse(expression).map_err(|e| format!("cannot parse expression [{expression}]: {e}"))
}

fn parse(expression: &str) -> Result<Vec<Step>, String> {
    let mut rest = expression;
    let mut steps = vec![];
    let unexpected =
        |t: &Token, expected: &str| format!("syntax error: unexpected {}, expecting {expected}", t.name());
    match next(&mut rest)? {
        Token::Field(name) => steps.push(Step::Key(name)),
        Token::Open => steps.push(bracket(&mut rest)?),
        other => return Err(unexpected(&other, "LSB or FIELD")),
    }
    loop {
        match next(&mut rest)? {
            Token::End => return Ok(steps),
            Token::Open => steps.push(bracket(&mut rest)?),
            Token::Dot => match next(&mut rest)? {
                Token::Field(name) => steps.push(Step::Key(name)),
                other => return Err(unexpected(&other, "FIELD")),
            },
            other => return Err(unexpected(&other, "DOT or LSB")),
        }
    }
}

fn bracket(rest: &mut &str) -> Result<Step, String> {
    let step = match next(rest)? {
        Token::Text(name) => Step::Key(name),
        Token::Index(i) => Step::Index(i),
        other => return Err(format!("syntax error: unexpected {}, expecting STRING or INDEX", other.name())),
    };
    match next(rest)? {
        Token::Close => Ok(step),
        other => Err(format!("syntax error: unexpected {}, expecting RSB", other.name())),
    }
}

fn next(rest: &mut &str) -> Result<Token, String> {
    *rest = rest.trim_start();
    let text = *rest;
    let Some(c) = text.chars().next() else { return Ok(Token::End) };
    let (token, len) = match c {
        '.' => (Token::Dot, 1),
        '[' => (Token::Open, 1),
        ']' => (Token::Close, 1),
        '"' => {
            let mut escaped = false;
            let end = text[1..].find(|c| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            });
            let Some(end) = end else { return Err("syntax error: unexpected $end".into()) };
            let literal = &text[..end + 2];
            let name = crate::syntax::text::unquote(literal)
                .unwrap_or_else(|| literal[1..literal.len() - 1].to_owned());
            (Token::Text(name), end + 2)
        }
        '0'..='9' => {
            let len = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
            (Token::Index(text[..len].parse().unwrap_or(usize::MAX)), len)
        }
        c if c.is_alphabetic() || c == '_' => {
            let len = text.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(text.len());
            (Token::Field(text[..len].to_owned()), len)
        }
        c => return Err(format!("unexpected char {c}")),
    };
    *rest = &text[len..];
    Ok(token)
}

/// Reads a logfmt expression: one key; the error has Loki's words.
pub(crate) fn parse_logfmt_key(expression: &str) -> Result<&str, String> {
    let mut words = expression.split_whitespace();
    let reason = match (words.next(), words.next()) {
        (Some(key), None) if !key.contains(['=', '"']) => return Ok(key),
        (None, _) => "syntax error: unexpected $end, expecting KEY",
        (Some(_), Some(_)) => "syntax error: unexpected KEY",
        (Some(_), None) => "syntax error: unexpected $unk",
    };
    Err(format!("cannot parse expression [{expression}]: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        use Step::*;
        let key = |k: &str| Key(k.into());
        assert_eq!(parse_json_path("a.b[0][\"c-d\"]"), Ok(vec![key("a"), key("b"), Index(0), key("c-d")]));
        assert_eq!(parse_json_path("[0]"), Ok(vec![Index(0)]));
        let e = |t: &str| parse_json_path(t).unwrap_err();
        assert_eq!(
            e("b[x]"),
            "cannot parse expression [b[x]]: syntax error: unexpected FIELD, expecting STRING or INDEX"
        );
        assert_eq!(
            e(""),
            "cannot parse expression []: syntax error: unexpected $end, expecting LSB or FIELD"
        );
        assert_eq!(
            parse_logfmt_key("b c").unwrap_err(),
            "cannot parse expression [b c]: syntax error: unexpected KEY"
        );
    }
}
