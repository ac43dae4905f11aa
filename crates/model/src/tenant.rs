//! Tenants.

use std::fmt;
use std::sync::Arc;

use crate::error::{Error, Result};

/// The longest tenant id in bytes, as in Loki.
pub const MAX_TENANT_ID_BYTES: usize = 150;

/// The folder beside those of the tenants where the cluster keeps what belongs to none of them.
const RESERVED: &str = "_skald";

/// A valid tenant id: up to 150 bytes of `0-9A-Za-z!-_.*'()`, neither `.` nor `..`, so it is safe as a folder name, and not
/// `_skald`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantId(Arc<str>);

impl TenantId {
    /// Checks `id`; the error has Loki's words.
    pub fn new(id: &str) -> Result<Self> {
        if id.is_empty() {
            return Err(Error::new(crate::Kind::Unauthenticated, "no org id"));
        }
        if id.len() > MAX_TENANT_ID_BYTES {
            return Err(Error::invalid("tenant ID is too long: max 150 characters"));
        }
        if id == "." || id == ".." {
            return Err(Error::invalid("tenant ID is '.' or '..'"));
        }
        if id == RESERVED {
            return Err(Error::invalid(format!("tenant ID '{id}' is not allowed")));
        }
        if let Some(bad) = id.chars().find(|c| !(c.is_ascii_alphanumeric() || "!-_.*'()".contains(*c))) {
            return Err(Error::invalid(format!("tenant ID '{id}' contains unsupported character '{bad}'")));
        }
        Ok(Self(id.into()))
    }

    /// The id under which a query is for several tenants: theirs, sorted, with `|` between. Only queries have such ids;
    /// nothing is stored under one. The id of one tenant is its own.
    pub fn joined(mut tenants: Vec<TenantId>) -> Option<Self> {
        tenants.sort();
        tenants.dedup();
        match &tenants[..] {
            [] => None,
            [one] => Some(one.clone()),
            many => Some(Self(many.iter().map(TenantId::as_str).collect::<Vec<_>>().join("|").into())),
        }
    }

    /// Checks the id of a query, which may be for several tenants: `a|b`.
    pub fn of_query(ids: &str) -> Result<Self> {
        let tenants = ids.split('|').map(Self::new).collect::<Result<Vec<_>>>()?;
        Self::joined(tenants).ok_or_else(|| Error::new(crate::Kind::Unauthenticated, "no org id"))
    }

    /// The tenants that a query is for; of all other ids that one tenant.
    pub fn parts(&self) -> impl Iterator<Item = TenantId> {
        self.0.split('|').map(|id| TenantId(id.into()))
    }

    /// Whether a query is for several tenants.
    pub fn is_joined(&self) -> bool {
        self.0.contains('|')
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_may_be_for_several_tenants() {
        let several = TenantId::of_query("b|a|b").unwrap();
        assert_eq!((several.as_str(), several.is_joined()), ("a|b", true));
        assert_eq!(several.parts().map(|t| t.to_string()).collect::<Vec<_>>(), ["a", "b"]);
        let one = TenantId::of_query("a|a").unwrap();
        assert_eq!((one.as_str(), one.is_joined()), ("a", false));
        for wrong in ["", "|", "a|", "a|b/c"] {
            assert!(TenantId::of_query(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn accepts_what_loki_accepts() {
        for id in ["fake", "team-a", "a.b", "x_(1)!*'", &"a".repeat(150)] {
            assert!(TenantId::new(id).is_ok(), "{id}");
        }
        for id in ["", ".", "..", "a/b", "a|b", "ü", "a b", &"a".repeat(151)] {
            assert!(TenantId::new(id).is_err(), "{id}");
        }
    }
}
