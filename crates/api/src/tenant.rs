//! Who a request belongs to.

use http::HeaderMap;
use skald_model::{Error, Kind, TenantId};

use crate::config::Config;

const HEADER: &str = "x-scope-orgid";

/// The tenant that a request names, or the one of all requests when authentication is off.
pub(crate) fn tenant(headers: &HeaderMap, config: &Config) -> Result<TenantId, Error> {
    if !config.auth_enabled {
        return TenantId::new(&config.no_auth_tenant);
    }
    let id = headers.get(HEADER).ok_or_else(|| Error::new(Kind::Unauthenticated, "no org id"))?;
    let id = id.to_str().map_err(|_| Error::invalid("tenant ID contains unsupported characters"))?;
    if config.multi_tenant_queries_enabled && TenantId::of_query(id).is_ok_and(|t| t.is_joined()) {
        return Err(Error::invalid("multiple org IDs present"));
    }
    TenantId::new(id)
}

/// The tenant of a query, or several of them (`a|b`) where the configuration allows that.
pub(crate) fn query_tenant(headers: &HeaderMap, config: &Config) -> Result<TenantId, Error> {
    if !config.auth_enabled || !config.multi_tenant_queries_enabled {
        return tenant(headers, config);
    }
    let ids = headers.get(HEADER).ok_or_else(|| Error::new(Kind::Unauthenticated, "no org id"))?;
    TenantId::of_query(ids.to_str().map_err(|_| Error::invalid("tenant ID contains unsupported characters"))?)
}

/// The tenant for logs and spans: never fails, empty when it is missing or malformed.
pub(crate) fn tenant_name(headers: &HeaderMap, config: &Config) -> String {
    tenant(headers, config).map_or_else(|_| String::new(), |t| t.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(auth_enabled: bool, header: Option<&str>, expected: Result<&str, &str>) {
        let config = Config { auth_enabled, ..Config::default() };
        let mut headers = HeaderMap::new();
        if let Some(id) = header {
            headers.insert(HEADER, id.parse().unwrap());
        }
        let got = tenant(&headers, &config).map(|t| t.to_string()).map_err(|e| e.message);
        assert_eq!(got, expected.map(str::to_owned).map_err(str::to_owned));
    }

    #[test]
    fn queries_may_name_several_tenants_where_that_is_allowed() {
        let mut headers = HeaderMap::new();
        headers.insert(HEADER, "b|a".parse().unwrap());
        let many = Config { multi_tenant_queries_enabled: true, ..Config::default() };
        assert_eq!(query_tenant(&headers, &many).unwrap().as_str(), "a|b");
        assert_eq!(tenant(&headers, &many).unwrap_err().message, "multiple org IDs present");
        let one = Config::default();
        assert_eq!(query_tenant(&headers, &one).unwrap_err().kind, Kind::InvalidArgument);
        let open = Config { auth_enabled: false, ..many };
        assert_eq!(query_tenant(&headers, &open).unwrap().as_str(), "fake");
    }

    #[test]
    fn the_header_counts_only_with_authentication() {
        check(true, Some("team-a"), Ok("team-a"));
        check(true, None, Err("no org id"));
        check(true, Some(""), Err("no org id"));
        check(true, Some("a|b"), Err("tenant ID 'a|b' contains unsupported character '|'"));
        check(false, Some("team-a"), Ok("fake"));
        check(false, Some("a/b"), Ok("fake"));
    }
}
