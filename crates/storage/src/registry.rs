//! Which ingesters may hold what no table has: one small object each, `_skald/ingesters/<name>.json`.
//!
//! An ingester registers before it acknowledges anything, and deregisters when the tables have all that it held. So who
//! reads knows whom it may lack, whatever the ring has forgotten.

use std::collections::HashMap;
use std::sync::Arc;

use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::store::{delete_if_there, read_if_there};

/// The outcome of a request to the store.
pub type Result<T> = object_store::Result<T>;

/// The folder of what belongs to no tenant. No tenant can have this name.
const FOLDER: &str = "_skald/ingesters";
const SUFFIX: &str = ".json";

/// An ingester that may hold what no table has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// Its name.
    pub name: String,
    /// Its availability zone, empty when zones are not used.
    #[serde(default)]
    pub zone: String,
    /// When it registered first, in nanoseconds since the Unix epoch.
    #[serde(default)]
    pub started_at: i64,
    /// Where it was called last.
    #[serde(default)]
    pub address: String,
}

/// The register in the store.
#[derive(Debug)]
pub struct Registry {
    store: Arc<dyn ObjectStore>,
    /// What was read of each object, with the version it had.
    known: Mutex<HashMap<Path, (String, Registration)>>,
}

impl Registry {
    /// The register in `store`.
    pub fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self { store, known: Mutex::new(HashMap::new()) }
    }

    /// Enters `registration`, in place of one of the same name. Durable when it returns.
    pub async fn register(&self, registration: &Registration) -> Result<()> {
        let text = serde_json::to_vec(registration)
            .map_err(|e| object_store::Error::Generic { store: "registry", source: e.into() })?;
        self.store.put(&path(&registration.name), text.into()).await.map(drop)
    }

    /// Takes the ingester called `name` out; nothing happens if it is not there.
    pub async fn deregister(&self, name: &str) -> Result<()> {
        delete_if_there(&self.store, &path(name)).await
    }

    /// The entry of `name`.
    pub async fn find(&self, name: &str) -> Result<Option<Registration>> {
        let text = read_if_there(&self.store, &path(name)).await?;
        Ok(text.map(|text| parse(name, &text)))
    }

    /// Everybody who is registered, by name. Costs one request to list, and one for each entry that is new.
    pub async fn list(&self) -> Result<Vec<Registration>> {
        let objects: Vec<ObjectMeta> = self.store.list(Some(&Path::from(FOLDER))).try_collect().await?;
        let mut found = Vec::with_capacity(objects.len());
        for object in objects {
            let Some(name) = object.location.filename().and_then(|f| f.strip_suffix(SUFFIX)) else {
                continue;
            };
            let version = format!("{:?} {:?} {}", object.e_tag, object.last_modified, object.size);
            let known = self.known.lock().get(&object.location).filter(|(v, _)| *v == version).cloned();
            let entry = match known {
                Some(entry) => entry.1,
                None => match self.find(name).await? {
                    Some(entry) => entry,
                    // Taken out since it was listed.
                    None => continue,
                },
            };
            self.known.lock().insert(object.location.clone(), (version, entry.clone()));
            found.push(entry);
        }
        self.known.lock().retain(|at, _| found.iter().any(|f| path(&f.name) == *at));
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }
}

fn path(name: &str) -> Path {
    Path::from(format!("{FOLDER}/{name}{SUFFIX}"))
}

/// An entry that cannot be read still says that somebody is registered.
fn parse(name: &str, text: &[u8]) -> Registration {
    match serde_json::from_slice::<Registration>(text) {
        Ok(entry) if entry.name == name => entry,
        other => {
            tracing::warn!(name, error = ?other.err(), "a registered ingester's entry is damaged");
            Registration { name: name.to_owned(), zone: String::new(), started_at: 0, address: String::new() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::memory::InMemory;

    fn entry(name: &str, address: &str) -> Registration {
        Registration { name: name.into(), zone: "z".into(), started_at: 7, address: address.into() }
    }

    #[tokio::test]
    async fn is_listed_until_it_is_taken_out() {
        let registry = Registry::new(Arc::new(InMemory::new()));
        assert!(registry.list().await.unwrap().is_empty());
        registry.register(&entry("b", "1")).await.unwrap();
        registry.register(&entry("a.1", "1")).await.unwrap();
        assert_eq!(registry.list().await.unwrap(), [entry("a.1", "1"), entry("b", "1")]);
        registry.register(&entry("b", "22")).await.unwrap();
        assert_eq!(registry.list().await.unwrap()[1], entry("b", "22"));
        assert_eq!(registry.find("b").await.unwrap(), Some(entry("b", "22")));
        registry.deregister("b").await.unwrap();
        registry.deregister("b").await.unwrap();
        assert_eq!(registry.list().await.unwrap(), [entry("a.1", "1")]);
        assert_eq!(registry.find("b").await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_damaged_entry_still_counts() {
        let store = Arc::new(InMemory::new());
        store.put(&path("a"), "{".into()).await.unwrap();
        let listed = Registry::new(store).list().await.unwrap();
        assert_eq!(listed.iter().map(|r| r.name.as_str()).collect::<Vec<_>>(), ["a"]);
    }
}
