//! `skald retention plan`: what retention would remove, without removing it.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use prometheus::Registry;
use skald_model::{TenantId, TenantLimits as _};
use skald_removal::plan::{Plan, plan};
use skald_runtime::{Clock as _, SystemClock};
use skald_storage::store::{self, StoreConfig};
use skald_storage::table::Catalog;

use crate::config::{Config, Overrides};

/// Describes what would go of the tables of `tenants` (none: of all), by the limits of `config`.
///
/// # Errors
/// When a table cannot be read, or a tenant is not valid.
pub(crate) async fn describe(config: Config, tenants: &[String]) -> Result<String> {
    let registry = Registry::new();
    let limits = Overrides::load(config.limits_config.clone(), &config.runtime_config, &registry)
        .context("runtime_config.file")?;
    let faults = store::fault::FaultConfig::from_env().map_err(anyhow::Error::msg)?;
    let store_config = StoreConfig { faults, ..config.common.storage.store() };
    let store = store::open(&store_config, &registry).await?;
    let catalog = Catalog::new(&config.table, store, "", &registry)?;
    let tenants: Vec<TenantId> = match tenants {
        [] => catalog.tenants().await?,
        named => named.iter().map(|t| TenantId::new(t)).collect::<Result<_, _>>()?,
    };
    let now = SystemClock.now();
    let mut out = String::new();
    if !config.compactor.removal.retention_enabled {
        out += "retention is off (compactor.retention_enabled); this is what would go if it were on\n\n";
    }
    for tenant in tenants {
        let found = plan(&catalog, &tenant, &limits.of(&tenant), now).await;
        let found = found.with_context(|| format!("failed to plan for tenant {tenant}"))?;
        write(&mut out, &tenant, &found);
    }
    Ok(out)
}

fn write(out: &mut String, tenant: &TenantId, plan: &Plan) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "tenant {tenant}");
    if plan.shares.is_empty() {
        let _ = writeln!(out, "  nothing would go");
    }
    for share in &plan.shares {
        let _ = writeln!(
            out,
            "  {}: {} entries of {} streams, {} of lines",
            share.rule,
            share.entries,
            share.streams,
            size(share.bytes)
        );
    }
    for (what, blocks, bytes) in [
        ("go as a whole", plan.whole_blocks, plan.whole_bytes),
        ("would be rewritten", plan.partial_blocks, plan.partial_bytes),
        ("stay as they are", plan.kept_blocks, plan.kept_bytes),
    ] {
        let _ = writeln!(out, "  blocks that {what}: {blocks}, {} stored", size(bytes));
    }
    out.push('\n');
}

/// Bytes for people: three digits.
fn size(bytes: u64) -> String {
    for (unit, shift) in [("TB", 40), ("GB", 30), ("MB", 20), ("KB", 10)] {
        if bytes >> shift > 0 {
            return format!("{:.1}{unit}", bytes as f64 / (1u64 << shift) as f64);
        }
    }
    format!("{bytes}B")
}
