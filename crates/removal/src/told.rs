//! Rules that other processes have told, compiled once: a query tells the same to each of its tasks.

use std::sync::Arc;

use skald_model::{RemovalSpec, Result};

use crate::removals::Removals;

/// Rules of so many queries are kept.
const KEPT: u64 = 32;

/// The rules that were told lately. Clones share them.
#[derive(Clone, Debug)]
pub struct Told(moka::sync::Cache<Arc<RemovalSpec>, Arc<Removals>>);

impl Default for Told {
    fn default() -> Self {
        Self(moka::sync::Cache::new(KEPT))
    }
}

impl Told {
    /// The rules in this form; `None` for none.
    ///
    /// # Errors
    /// When this process does not understand them.
    pub fn compile(&self, spec: Option<&Arc<RemovalSpec>>) -> Result<Option<Arc<Removals>>> {
        let Some(spec) = spec else { return Ok(None) };
        if let Some(known) = self.0.get(spec) {
            return Ok(Some(known));
        }
        let compiled = Arc::new(Removals::compile(spec)?);
        self.0.insert(spec.clone(), compiled.clone());
        Ok(Some(compiled))
    }
}
