//! Parameters of requests: URL and form, read as Go's `net/http` reads them.

use axum::extract::Request;
use http::request::Parts;
use http::{Method, header};
use skald_model::Error;

use crate::body;
use crate::push::encoding::media_type;

/// Longest form that is read, as in Go.
const FORM_BYTES_MAX: usize = 10 << 20;

/// The parameters of a request, those of a form before those of the URL: the first of a name counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Params(Vec<(String, String)>);

impl Params {
    /// Takes the parameters out of a request.
    ///
    /// # Errors
    /// For malformed escapes, in Go's words, and for a form that is too long.
    pub async fn read(request: Request) -> Result<(Parts, Self), Error> {
        let (parts, body) = request.into_parts();
        let mut pairs = Vec::new();
        let has_form = matches!(parts.method, Method::POST | Method::PUT | Method::PATCH)
            && parts.headers.contains_key(header::CONTENT_TYPE)
            && media_type(&parts.headers)? == "application/x-www-form-urlencoded";
        if has_form {
            let form = body::read(&parts.headers, body, FORM_BYTES_MAX, "of forms, 10 MiB").await?;
            parse(&form, &mut pairs)?;
        }
        parse(parts.uri.query().unwrap_or("").as_bytes(), &mut pairs)?;
        Ok((parts, Self(pairs)))
    }

    /// The parameters of a URL alone.
    ///
    /// # Errors
    /// For malformed escapes, in Go's words.
    pub fn of_url(uri: &http::Uri) -> Result<Self, Error> {
        let mut pairs = Vec::new();
        parse(uri.query().unwrap_or("").as_bytes(), &mut pairs)?;
        Ok(Self(pairs))
    }

    /// The first value of `name`; empty when there is none, which counts as none.
    pub fn first(&self, name: &str) -> &str {
        self.all(name).next().unwrap_or("")
    }

    /// All values of `name`.
    pub fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

fn parse(query: &[u8], pairs: &mut Vec<(String, String)>) -> Result<(), Error> {
    for part in query.split(|b| *b == b'&').filter(|p| !p.is_empty()) {
        if part.contains(&b';') {
            return Err(Error::invalid("invalid semicolon separator in query"));
        }
        let (name, value) = match part.iter().position(|b| *b == b'=') {
            Some(at) => (&part[..at], &part[at + 1..]),
            None => (part, &b""[..]),
        };
        pairs.push((unescape(name)?, unescape(value)?));
    }
    Ok(())
}

fn unescape(text: &[u8]) -> Result<String, Error> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((b, after)) = rest.split_first() {
        rest = after;
        match b {
            b'+' => out.push(b' '),
            b'%' => {
                let digit = |i: usize| rest.get(i).and_then(|d| (*d as char).to_digit(16));
                let (Some(high), Some(low)) = (digit(0), digit(1)) else {
                    let bad = String::from_utf8_lossy(&rest[..rest.len().min(2)]);
                    return Err(Error::invalid(format!("invalid URL escape \"%{bad}\"")));
                };
                out.push((high * 16 + low) as u8);
                rest = &rest[2..];
            }
            b => out.push(*b),
        }
    }
    Ok(String::from_utf8(out).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;

    async fn read(method: &str, uri: &str, kind: Option<&str>, body: &'static str) -> Result<Params, String> {
        let mut request = Request::builder().method(method).uri(uri);
        if let Some(kind) = kind {
            request = request.header("content-type", kind);
        }
        let request = request.body(Body::from(body)).unwrap();
        Params::read(request).await.map(|(_, p)| p).map_err(|e| e.message)
    }

    const FORM: Option<&str> = Some("application/x-www-form-urlencoded; charset=utf-8");

    #[tokio::test]
    async fn forms_come_before_the_url() {
        let p = read("POST", "/?limit=3&a=%7Bx%3D%22y%22%7D&b", FORM, "limit=1&query=a+b%2B").await.unwrap();
        assert_eq!(p.first("limit"), "1");
        assert_eq!(p.all("limit").collect::<Vec<_>>(), ["1", "3"]);
        assert_eq!(
            (p.first("query"), p.first("a"), p.first("b"), p.first("c")),
            ("a b+", "{x=\"y\"}", "", "")
        );
    }

    #[tokio::test]
    async fn bodies_that_are_no_forms_are_not_read() {
        for (method, kind) in [("GET", FORM), ("POST", None), ("POST", Some("application/json"))] {
            assert_eq!(read(method, "/?limit=3", kind, "limit=1").await.unwrap().first("limit"), "3");
        }
    }

    #[tokio::test]
    async fn malformed_escapes_are_refused() {
        assert_eq!(read("GET", "/?a=%zz", None, "").await.unwrap_err(), "invalid URL escape \"%zz\"");
        assert_eq!(read("GET", "/?a=%2", None, "").await.unwrap_err(), "invalid URL escape \"%2\"");
        assert_eq!(read("GET", "/?a;b", None, "").await.unwrap_err(), "invalid semicolon separator in query");
        assert!(read("POST", "/", Some("a/b/c"), "").await.unwrap_err().starts_with("mime: "));
    }
}
