//! `skald table`: work on tables without a server.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use prometheus::Registry;
use skald_api::rfc3339;
use skald_model::time::SECOND;
use skald_model::{TenantId, TimeRange, Timestamp};
use skald_runtime::{Clock as _, SystemClock};
use skald_storage::store::{self, FilesystemConfig, StoreConfig};
use skald_storage::table::{Catalog, DataFile};

use crate::cli::{TableArgs, TableCommand};
use crate::config::{Config, Sources};

/// Carries out a command.
///
/// # Errors
/// When it can't be carried out, or a check finds something.
pub(crate) async fn run(command: TableCommand) -> Result<()> {
    match command {
        TableCommand::Check { tables, rows } => check(&tables, rows).await,
        TableCommand::Rebuild { table, include_unused } => rebuild(&table, include_unused).await,
        TableCommand::Restore { table, version } => restore(&table, version).await,
        TableCommand::Export { table, from, to, into, into_config } => {
            let range = range(from.as_deref(), to.as_deref())?;
            export(&table, range, into, into_config).await
        }
    }
}

/// The tables of a configuration.
struct Tables {
    config: Config,
    catalog: Catalog,
    tenant: TenantId,
}

impl Tables {
    async fn open(args: &TableArgs) -> Result<Self> {
        let config = crate::load(&args.config)?.config;
        let catalog = open(&config, &config.common.storage.store()).await?;
        let tenant = args.tenant.as_deref().unwrap_or(&config.no_auth_tenant);
        let tenant = TenantId::new(tenant).map_err(|e| anyhow::anyhow!("--tenant: {e}"))?;
        Ok(Self { config, catalog, tenant })
    }

    /// Refuses a tenant without a table, which is mostly a typing error.
    async fn exists(&self) -> Result<()> {
        if !self.catalog.has_log(&self.tenant).await? {
            let place = self.config.common.storage.place();
            bail!("there is no table of tenant {} in {place}", self.tenant);
        }
        Ok(())
    }
}

async fn open(config: &Config, store: &StoreConfig) -> Result<Catalog> {
    let registry = Registry::new();
    let store = store::open(store, &registry).await?;
    Ok(Catalog::new(&config.table, store, "", &registry)?)
}

async fn check(args: &TableArgs, rows: bool) -> Result<()> {
    let tables = Tables::open(args).await?;
    tables.exists().await?;
    let checked = tables.catalog.check(&tables.tenant, rows).await?;
    for finding in &checked.findings {
        println!("{}: {}", finding.path, finding.what);
    }
    println!(
        "table of tenant {} at version {}: {} blocks, {} rows, {} bytes; {} found wrong",
        tables.tenant,
        checked.version,
        checked.blocks,
        checked.rows,
        checked.bytes,
        checked.findings.len()
    );
    if !checked.orphans.is_empty() {
        let bytes: u64 = checked.orphans.iter().map(|f| f.size).sum();
        println!(
            "{} files ({bytes} bytes) that the table does not name and that vacuum will remove:",
            checked.orphans.len()
        );
        checked.orphans.iter().for_each(|f| println!("  {}", f.path));
    }
    if !checked.findings.is_empty() {
        bail!("{} blocks of tenant {} are damaged", checked.findings.len(), tables.tenant);
    }
    Ok(())
}

async fn rebuild(args: &TableArgs, include_unused: bool) -> Result<()> {
    let Tables { config, catalog, tenant } = Tables::open(args).await?;
    if catalog.has_log(&tenant).await? {
        bail!(
            "the table of tenant {tenant} in {} has a log; if it is damaged, move its folder _delta_log away first",
            config.common.storage.place()
        );
    }
    let mut files = catalog.data_files(&tenant).await?;
    let marks = skald_compactor::vacuum::marks(&catalog, &tenant).await?;
    let is_unused = |f: &DataFile| marks.since(&f.path).is_some();
    let unused = files.iter().filter(|f| is_unused(f)).count();
    if !include_unused {
        files.retain(|f| !is_unused(f));
    }
    let rebuilt = catalog.rebuild(&tenant, &files).await?;
    for finding in &rebuilt.unreadable {
        println!("{}: left out: {}", finding.path, finding.what);
    }
    if unused > 0 && !include_unused {
        println!("left out {unused} files that the table had not named any more (--include-unused)");
    }
    println!("table of tenant {tenant}: {} blocks, {} rows", rebuilt.blocks, rebuilt.rows);
    Ok(())
}

async fn restore(args: &TableArgs, version: i64) -> Result<()> {
    let tables = Tables::open(args).await?;
    tables.exists().await?;
    let Tables { config, catalog, tenant } = tables;
    let delay =
        i64::try_from(config.compactor.compaction.retention_delete_delay.as_secs()).unwrap_or(i64::MAX / 4);
    let now = SystemClock.now().div_euclid(SECOND);
    let restored = skald_compactor::restore(&catalog, &tenant, version, now, delay).await?;
    println!(
        "table of tenant {tenant} is at version {}: {} blocks came back, {} went",
        restored.version, restored.added, restored.removed
    );
    Ok(())
}

async fn export(
    args: &TableArgs,
    range: TimeRange,
    directory: Option<PathBuf>,
    file: Option<PathBuf>,
) -> Result<()> {
    let tables = Tables::open(args).await?;
    tables.exists().await?;
    let Tables { config, catalog, tenant } = tables;
    let (target, place) = match (directory, file) {
        (Some(directory), _) => {
            let place = directory.display().to_string();
            let filesystem = Some(FilesystemConfig { directory });
            (open(&config, &StoreConfig { filesystem, ..StoreConfig::default() }).await?, place)
        }
        (None, Some(file)) => {
            let sources = Sources { files: vec![file], ..Sources::default() };
            let storage = Config::load(&sources).context("--into-config")?.config.common.storage;
            (open(&config, &storage.store()).await?, storage.place())
        }
        (None, None) => bail!("say where to with --into or --into-config"),
    };
    if place == config.common.storage.place() {
        bail!("{place} is where the table lies already");
    }
    let target = Arc::new(target);
    let exported =
        catalog.export(&tenant, range, &target, None, config.compactor.compaction.memory_budget).await?;
    println!(
        "copied {} blocks, {} rows, {} bytes of tenant {tenant} to {place}",
        exported.blocks, exported.rows, exported.bytes
    );
    Ok(())
}

fn range(from: Option<&str>, to: Option<&str>) -> Result<TimeRange> {
    let time = |flag: &str, text: Option<&str>, default: Timestamp| match text {
        None => Ok(default),
        Some(text) => rfc3339::parse(text).with_context(|| {
            format!("{flag} {text}: expected a time as RFC 3339, for example 2026-03-01T12:00:00Z")
        }),
    };
    let range = TimeRange::new(time("--from", from, i64::MIN)?, time("--to", to, i64::MAX)?);
    if range.is_empty() {
        bail!("--from is not before --to");
    }
    Ok(range)
}
