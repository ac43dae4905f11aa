//! The file of users and tokens.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use serde::Deserialize;
use skald_model::TenantId;
use skald_runtime::reload::Source;

use super::Right;
use super::secrets::{PasswordHash, TokenHash};

/// Stands for every tenant.
const ALL: &str = "*";

/// Why a file of users is not usable. It names the file and the entry.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", file.display())]
pub struct FileError {
    file: PathBuf,
    reason: String,
}

/// Somebody who may do something.
#[derive(Debug)]
pub(super) struct Account {
    name: String,
    /// `None` for all.
    tenants: Option<Vec<String>>,
    rights: Vec<Right>,
}

/// What a file says.
pub(super) struct Users {
    users: HashMap<String, (PasswordHash, Arc<Account>)>,
    tokens: HashMap<TokenHash, Arc<Account>>,
}

/// The file of users.
pub(super) struct UsersFile(pub(super) PathBuf);

impl UsersFile {
    fn error(&self, reason: String) -> FileError {
        FileError { file: self.0.clone(), reason }
    }
}

impl Source for UsersFile {
    type Files = String;
    type Made = Users;
    type Error = FileError;

    fn setting(&self) -> &str {
        "auth.file"
    }

    fn read(&self) -> Result<String, FileError> {
        std::fs::read_to_string(&self.0).map_err(|e| self.error(format!("failed to read it: {e}")))
    }

    fn make(&self, text: &String) -> Result<Users, FileError> {
        Users::parse(text).map_err(|reason| self.error(reason))
    }

    fn summary(&self, users: &Users) -> String {
        format!("{} accounts", users.len())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    users: Vec<UserEntry>,
    #[serde(default)]
    tokens: Vec<TokenEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UserEntry {
    name: String,
    password: String,
    tenants: Vec<String>,
    rights: Vec<Right>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenEntry {
    name: String,
    sha256: String,
    tenants: Vec<String>,
    rights: Vec<Right>,
}

impl Account {
    fn new(name: String, tenants: Vec<String>, rights: Vec<Right>) -> Result<Arc<Self>, String> {
        if tenants.is_empty() || rights.is_empty() {
            return Err(format!("{name} has no tenants or no rights; \"*\" stands for all tenants"));
        }
        let all = tenants.iter().any(|t| t == ALL);
        for tenant in tenants.iter().filter(|t| *t != ALL) {
            TenantId::new(tenant).map_err(|e| format!("{name}: {e}"))?;
        }
        Ok(Arc::new(Self { name, tenants: (!all).then_some(tenants), rights }))
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn has(&self, right: Right) -> bool {
        self.rights.contains(&right)
    }

    pub(super) fn may_act_for(&self, tenant: &str) -> bool {
        self.tenants.as_ref().is_none_or(|all| all.iter().any(|t| t == tenant))
    }

    pub(super) fn only_tenant(&self) -> Option<&str> {
        match self.tenants.as_deref() {
            Some([one]) => Some(one),
            _ => None,
        }
    }
}

impl Users {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let file: File = serde_yaml_ng::from_str(text).map_err(|e| e.to_string())?;
        let (mut names, mut users, mut tokens) = (HashSet::new(), HashMap::new(), HashMap::new());
        let mut once = |name: &str| match names.insert(name.to_owned()) {
            true => Ok(()),
            false => Err(format!("{name} is there twice")),
        };
        for UserEntry { name, password, tenants, rights } in file.users {
            once(&name)?;
            let hash = PasswordHash::parse(&password).map_err(|e| {
                format!("the password of {name} is not a hash made by `skald auth hash`: {e}")
            })?;
            users.insert(name.clone(), (hash, Account::new(name, tenants, rights)?));
        }
        for TokenEntry { name, sha256, tenants, rights } in file.tokens {
            once(&name)?;
            let hash = TokenHash::parse(&sha256)
                .ok_or_else(|| format!("sha256 of {name} is not a hash made by `skald auth hash --token`"))?;
            tokens.insert(hash, Account::new(name, tenants, rights)?);
        }
        Ok(Self { users, tokens })
    }

    pub(super) fn len(&self) -> usize {
        self.users.len() + self.tokens.len()
    }

    /// The account of a token. It is looked up by its hash, so the time that takes tells nothing about tokens.
    pub(super) fn by_token(&self, token: &str) -> Option<Arc<Account>> {
        self.tokens.get(&TokenHash::of(token)).cloned()
    }

    /// A user with the hash of their password.
    pub(super) fn by_name(&self, name: &str) -> Option<(PasswordHash, Arc<Account>)> {
        self.users.get(name).cloned()
    }
}
