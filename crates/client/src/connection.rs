//! Where the server is and who is asking: flags first, then the environment.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use skald_runtime::units::parse_duration;
use url::Url;

use crate::tls::TlsFlags;

/// Where Skald and Loki listen unless they are told otherwise.
const DEFAULT_ADDRESS: &str = "http://127.0.0.1:3100";

/// Flags that every command takes. Each can stand in the environment as `SKALD_…` or, as for logcli, `LOKI_…`.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct Connection {
    /// The server, with its path prefix if it has one [env: SKALD_ADDR, LOKI_ADDR] [default: http://127.0.0.1:3100]
    #[arg(long, value_name = "URL")]
    pub(crate) addr: Option<String>,
    /// The tenant [env: SKALD_ORG_ID, LOKI_ORG_ID]
    #[arg(long, visible_alias = "org-id", value_name = "NAME")]
    pub(crate) tenant: Option<String>,
    /// User for basic authentication [env: SKALD_USERNAME, LOKI_USERNAME]
    #[arg(long, value_name = "NAME")]
    pub(crate) username: Option<String>,
    /// Password for basic authentication; better in the environment [env: SKALD_PASSWORD, LOKI_PASSWORD]
    #[arg(long)]
    pub(crate) password: Option<String>,
    /// Bearer token; better in the environment [env: SKALD_BEARER_TOKEN, LOKI_BEARER_TOKEN]
    #[arg(long, value_name = "TOKEN")]
    pub(crate) bearer_token: Option<String>,
    /// File with the bearer token [env: SKALD_BEARER_TOKEN_FILE, LOKI_BEARER_TOKEN_FILE]
    #[arg(long, value_name = "FILE")]
    pub(crate) bearer_token_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) tls: TlsFlags,
    /// A further request header; may be repeated
    #[arg(long = "header", value_name = "NAME: VALUE")]
    pub(crate) headers: Vec<String>,
    /// Ask the server to compress its answers
    #[arg(long)]
    pub(crate) compress: bool,
    /// How often a request is repeated after 429, 5xx or a broken connection
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub(crate) retries: u32,
    /// How long to wait for an answer, or for its next part
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = parse_duration)]
    pub(crate) timeout: Duration,
    /// Say nothing but results and errors
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

/// What the flags and the environment come to.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// The server.
    pub(crate) address: Url,
    /// Headers of every request: tenant, authorisation, the caller's own.
    pub(crate) headers: HeaderMap,
    /// Whom to trust, and what to show.
    pub(crate) tls: TlsFlags,
    /// Whether answers are asked for in gzip.
    pub(crate) compress: bool,
    /// Repetitions of one request.
    pub(crate) retries: u32,
    /// Patience with one answer or a part of it.
    pub(crate) timeout: Duration,
}

impl Connection {
    /// Joins flags and environment.
    pub(crate) fn settings(&self, variable: impl Fn(&str) -> Option<String>) -> Result<Settings> {
        let or = |flag: &Option<String>, name: &str| flag.clone().or_else(|| of_family(&variable, name));

        let mut headers = HeaderMap::new();
        if let Some(tenant) = or(&self.tenant, "ORG_ID") {
            headers.insert("x-scope-orgid", value("the tenant", &tenant)?);
        }
        let token = match or(&self.bearer_token, "BEARER_TOKEN") {
            Some(token) => Some(token),
            None => self
                .bearer_token_file
                .clone()
                .or_else(|| of_family(&variable, "BEARER_TOKEN_FILE").map(PathBuf::from))
                .map(|path| {
                    std::fs::read_to_string(&path)
                        .with_context(|| format!("failed to read the bearer token from {}", path.display()))
                })
                .transpose()?,
        };
        let user = or(&self.username, "USERNAME");
        let authorisation = match (user, token) {
            (Some(_), Some(_)) => bail!("give a user and a password or a bearer token, not both"),
            (Some(user), None) => {
                let password = or(&self.password, "PASSWORD").unwrap_or_default();
                Some(format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
            }
            (None, Some(token)) => Some(format!("Bearer {}", token.trim())),
            (None, None) => None,
        };
        if let Some(text) = authorisation {
            let mut value = value("the authorisation", &text)?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        for header in &self.headers {
            let (name, text) =
                header.split_once(':').with_context(|| format!("--header {header}: expected NAME: VALUE"))?;
            let name: HeaderName =
                name.trim().parse().with_context(|| format!("--header {header}: not a header name"))?;
            headers.append(name, value("--header", text.trim())?);
        }
        Ok(Settings {
            address: address(&or(&self.addr, "ADDR").unwrap_or_else(|| DEFAULT_ADDRESS.into()))?,
            headers,
            tls: self.tls.or(&variable),
            compress: self.compress,
            retries: self.retries,
            timeout: self.timeout,
        })
    }
}

/// The variable `SKALD_name` or `LOKI_name` of an environment, unless it is empty.
pub(crate) fn of_family(environment: impl Fn(&str) -> Option<String>, name: &str) -> Option<String> {
    let mut families = ["SKALD", "LOKI"].iter();
    families.find_map(|family| environment(&format!("{family}_{name}")).filter(|text| !text.is_empty()))
}

fn value(what: &str, text: &str) -> Result<HeaderValue> {
    HeaderValue::from_str(text).with_context(|| format!("{what} has characters that no header can carry"))
}

fn address(text: &str) -> Result<Url> {
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    url.with_context(|| format!("{text} is not an address; expected for example {DEFAULT_ADDRESS}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(args: &Connection, environment: &[(&str, &str)]) -> Result<Settings> {
        args.settings(|name| environment.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
    }

    #[test]
    fn flags_come_before_skald_before_loki_before_the_default() {
        let loki = ("LOKI_ADDR", "http://loki:1");
        let skald = ("SKALD_ADDR", "http://skald:2");
        let flag = Connection { addr: Some("http://flag:3/prefix".into()), ..Connection::default() };
        let address = |args: &Connection, environment: &[(&str, &str)]| {
            settings(args, environment).unwrap().address.to_string()
        };
        let none = Connection::default();
        assert_eq!(address(&none, &[]), "http://127.0.0.1:3100/");
        assert_eq!(address(&none, &[loki]), "http://loki:1/");
        assert_eq!(address(&none, &[loki, skald]), "http://skald:2/");
        assert_eq!(address(&flag, &[loki, skald]), "http://flag:3/prefix");
    }

    #[test]
    fn who_asks_goes_into_headers() {
        let basic = settings(
            &Connection::default(),
            &[("LOKI_ORG_ID", "team"), ("LOKI_USERNAME", "me"), ("LOKI_PASSWORD", "secret")],
        )
        .unwrap();
        assert_eq!(basic.headers["x-scope-orgid"], "team");
        assert_eq!(basic.headers["authorization"], "Basic bWU6c2VjcmV0");
        assert!(!format!("{basic:?}").contains("bWU6"), "shown in debug output");
        let args = Connection { headers: vec!["X-Query-Tags: a=b".into()], ..Connection::default() };
        let bearer = settings(&args, &[("LOKI_BEARER_TOKEN", "abc\n")]).unwrap();
        assert_eq!(bearer.headers["authorization"], "Bearer abc");
        assert_eq!(bearer.headers["x-query-tags"], "a=b");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let address = |text: &str| Connection { addr: Some(text.into()), ..Connection::default() };
        assert!(settings(&address("localhost:3100"), &[]).is_err());
        assert!(settings(&address("ftp://x"), &[]).is_err());
        let both = [("LOKI_USERNAME", "me"), ("LOKI_BEARER_TOKEN", "abc")];
        assert!(settings(&Connection::default(), &both).is_err());
        let header = Connection { headers: vec!["nothing".into()], ..Connection::default() };
        assert!(settings(&header, &[]).is_err());
    }
}
