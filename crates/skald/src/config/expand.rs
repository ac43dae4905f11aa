//! `${NAME}` in a file, with `-config.expand-env`.

use super::Error;

/// Replaces `${NAME}` and `${NAME:-default}` by the values of `environment`. As in Loki, `$NAME` counts too, a name
/// that is not set without a default becomes nothing, and `$$` is one dollar sign.
pub(super) fn expand(text: &str, environment: &[(String, String)]) -> Result<String, Error> {
    let value = |name: &str| environment.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(inside) = rest.strip_prefix('{') {
            let end = inside.find('}').ok_or_else(|| Error("a ${ has no closing }".into()))?;
            let (name, default) = match inside[..end].split_once(":-") {
                Some((name, default)) => (name, default),
                None => (inside[..end].split(':').next().unwrap_or_default(), ""),
            };
            out.push_str(value(name).filter(|v| !v.is_empty()).unwrap_or(default));
            rest = &inside[end + 1..];
        } else {
            let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(rest.len());
            if end == 0 {
                out.push('$');
            } else {
                out.push_str(value(&rest[..end]).unwrap_or_default());
            }
            rest = &rest[end..];
        }
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let environment = [("A".to_owned(), "1".to_owned()), ("EMPTY".to_owned(), String::new())];
        assert_eq!(expand(text, &environment).unwrap(), expected);
    }

    #[test]
    fn variables_are_replaced() {
        check("x: ${A} $A ${A:-2}", "x: 1 1 1");
        check("x: ${B:-2} ${EMPTY:-3} ${B}.", "x: 2 3 .");
        check("cost: 5$ $$A", "cost: 5$ $A");
        assert!(expand("${A", &[]).is_err());
    }
}
