//! The sections that belong to no crate, or whose keys Loki spreads differently.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use skald_rpc::memory::QueryMemoryConfig;
use skald_runtime::telemetry::Format;
use skald_runtime::tls::{ClientTlsConfig, MinVersion, ServerTlsConfig, TlsPolicy};
use skald_storage::store::{AzureConfig, FilesystemConfig, GcsConfig, S3Config, StoreConfig};

/// `server`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Server {
    /// Where HTTP listens. Loopback by default; `0.0.0.0` is every interface.
    pub(crate) http_listen_address: String,
    pub(crate) http_listen_port: u16,
    /// Put before every path, for a proxy that does not cut it off.
    pub(crate) http_path_prefix: String,
    /// Most HTTP connections at a time; 0 is no limit.
    pub(crate) http_listen_conn_limit: usize,
    /// How long a new connection may stay silent.
    #[serde(with = "skald_runtime::units::duration")]
    pub(crate) http_server_read_timeout: Duration,
    /// How long a connection may lie idle between requests.
    #[serde(with = "skald_runtime::units::duration")]
    pub(crate) http_server_idle_timeout: Duration,
    /// Where gRPC listens, when this process is part of a cluster.
    pub(crate) grpc_listen_address: String,
    pub(crate) grpc_listen_port: u16,
    pub(crate) grpc_listen_conn_limit: usize,
    #[serde(with = "skald_runtime::units::bytes")]
    pub(crate) grpc_server_max_recv_msg_size: usize,
    #[serde(with = "skald_runtime::units::bytes")]
    pub(crate) grpc_server_max_send_msg_size: usize,
    /// Most calls at a time on one connection; 0 is no limit.
    pub(crate) grpc_server_max_concurrent_streams: u32,
    /// Certificates of the HTTP server; without any it speaks plain HTTP.
    pub(crate) http_tls_config: ServerTlsConfig,
    /// Certificates of the gRPC server.
    pub(crate) grpc_tls_config: ServerTlsConfig,
    /// `VersionTLS12` or `VersionTLS13`.
    pub(crate) tls_min_version: MinVersion,
    /// The ciphers of TLS 1.2 by Go's names, with commas; all if it is not set.
    pub(crate) tls_cipher_suites: String,
    /// How often files of certificates are looked at for changes, those of the calls to other processes too.
    #[serde(with = "skald_runtime::units::duration")]
    pub(crate) tls_reload_period: Duration,
    /// How long open requests may take at shutdown.
    #[serde(with = "skald_runtime::units::duration")]
    pub(crate) graceful_shutdown_timeout: Duration,
    /// `debug`, `info`, `warn` or `error`.
    pub(crate) log_level: String,
    pub(crate) log_format: Format,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            http_listen_address: "127.0.0.1".into(),
            http_listen_port: 3100,
            http_path_prefix: String::new(),
            http_listen_conn_limit: 10_000,
            http_server_read_timeout: Duration::from_secs(30),
            http_server_idle_timeout: Duration::from_secs(120),
            grpc_listen_address: "127.0.0.1".into(),
            grpc_listen_port: skald_runtime::grpc::DEFAULT_PORT,
            grpc_listen_conn_limit: 10_000,
            grpc_server_max_recv_msg_size: 100 << 20,
            grpc_server_max_send_msg_size: 100 << 20,
            grpc_server_max_concurrent_streams: 1_000,
            http_tls_config: ServerTlsConfig::default(),
            grpc_tls_config: ServerTlsConfig::default(),
            tls_min_version: MinVersion::default(),
            tls_cipher_suites: String::new(),
            tls_reload_period: Duration::from_secs(10),
            graceful_shutdown_timeout: Duration::from_secs(30),
            log_level: "info".into(),
            log_format: Format::Logfmt,
        }
    }
}

impl Server {
    pub(crate) fn tls_policy(&self) -> TlsPolicy {
        TlsPolicy { min_version: self.tls_min_version, cipher_suites: self.tls_cipher_suites.clone() }
    }
}

/// `ingester_client`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct IngesterClientSection {
    /// How long calls to ingesters and queriers in other processes may take.
    #[serde(flatten)]
    pub(crate) calls: skald_rpc::grpc::ClientConfig,
    /// TLS of all calls to other processes of Skald, whatever their role. Loki has one such section for each role.
    pub(crate) grpc_client_config: ClientTlsConfig,
}

/// `common`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Common {
    /// Where this process keeps its own files, the write-ahead log among them; tables too, unless `storage` says
    /// otherwise.
    pub(crate) path_prefix: PathBuf,
    /// On how many ingesters an entry is to be; 0 means 3 in a cluster and 1 in one process.
    pub(crate) replication_factor: usize,
    /// The address that other processes reach this one at. Empty means that it is found out; see `memberlist`.
    pub(crate) instance_addr: String,
    pub(crate) storage: Storage,
}

impl Default for Common {
    fn default() -> Self {
        Self {
            path_prefix: "data".into(),
            replication_factor: 0,
            instance_addr: String::new(),
            storage: Storage::default(),
        }
    }
}

/// `common.storage` and `compactor.archive`: the one whose bucket is named, or else the local directory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Storage {
    pub(crate) filesystem: Filesystem,
    pub(crate) s3: S3Config,
    pub(crate) gcs: GcsConfig,
    pub(crate) azure: AzureConfig,
}

/// `common.storage.filesystem` and `compactor.archive.filesystem`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Filesystem {
    /// Where the tables lie, one folder per tenant; `tables` below `common.path_prefix` if it is not set.
    pub(crate) chunks_directory: PathBuf,
}

impl Storage {
    /// Which of the buckets are named, by section.
    fn named(&self) -> Vec<&'static str> {
        [("s3", &self.s3.bucketnames), ("gcs", &self.gcs.bucket_name), ("azure", &self.azure.container_name)]
            .into_iter()
            .filter(|(_, name)| !name.is_empty())
            .map(|(section, _)| section)
            .collect()
    }

    pub(crate) fn validate(&self, key: &str) -> Result<(), String> {
        let named = self.named();
        if named.len() > 1 {
            return Err(format!(
                "{key} names more than one place for the tables ({}); Skald keeps them in one",
                named.join(", ")
            ));
        }
        Ok(())
    }

    /// The store that is meant.
    pub(crate) fn store(&self) -> StoreConfig {
        let Self { filesystem: Filesystem { chunks_directory }, s3, gcs, azure } = self.clone();
        let named = self.named();
        let only = |section| named.first() == Some(&section);
        let filesystem = named.is_empty().then_some(FilesystemConfig { directory: chunks_directory });
        StoreConfig {
            filesystem,
            s3: only("s3").then_some(s3),
            gcs: only("gcs").then_some(gcs),
            azure: only("azure").then_some(azure),
            faults: None,
        }
    }

    /// Where the tables lie, for the log.
    pub(crate) fn place(&self) -> String {
        match self.named().first() {
            Some(&"s3") => format!("s3://{}", self.s3.bucketnames),
            Some(&"gcs") => format!("gs://{}", self.gcs.bucket_name),
            Some(_) => format!("az://{}", self.azure.container_name),
            None => self.filesystem.chunks_directory.display().to_string(),
        }
    }
}

/// `runtime_config`: limits of single tenants, read again while the process runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct RuntimeConfig {
    /// Files with `overrides: {tenant: {limit: value}}`, separated by commas; later ones win.
    pub(crate) file: String,
    /// How often they are read. Less makes changes count sooner.
    #[serde(with = "skald_runtime::units::duration")]
    pub(crate) period: Duration,
}

impl Default for RuntimeConfig {
    fn default() -> Self {
        Self { file: String::new(), period: Duration::from_secs(10) }
    }
}

/// `distributor`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct DistributorSection {
    /// Longest body of a push as it comes over the wire.
    #[serde(with = "skald_runtime::units::bytes")]
    pub(crate) max_recv_msg_size: usize,
    /// Longest body of a push after decompression.
    #[serde(with = "skald_runtime::units::bytes")]
    pub(crate) max_decompressed_size: usize,
    /// Most memory of pushes on their way over all requests, decoded bodies included.
    #[serde(with = "skald_runtime::units::bytes")]
    pub(crate) inflight_bytes_max: usize,
    /// How long a push waits for that memory before it is refused.
    #[serde(with = "skald_runtime::units::duration")]
    pub(crate) inflight_wait: Duration,
    /// Most bytes of label texts whose parsed form is kept.
    #[serde(with = "skald_runtime::units::bytes")]
    pub(crate) stream_cache_bytes: usize,
    /// How long a replica may take before the next ingester on the ring is sent its part.
    #[serde(with = "skald_runtime::units::duration")]
    pub(crate) spare_after: Duration,
    /// Most bytes of pushes that were answered and are still on their way to their last replica.
    #[serde(with = "skald_runtime::units::bytes")]
    pub(crate) background_bytes_max: usize,
}

impl Default for DistributorSection {
    fn default() -> Self {
        let skald_distributor::Config { stream_cache_bytes, spare_after, background_bytes_max } =
            skald_distributor::Config::default();
        let api = skald_api::Config::default();
        Self {
            max_recv_msg_size: api.max_recv_msg_size,
            max_decompressed_size: api.max_decompressed_size,
            inflight_bytes_max: api.inflight_bytes_max,
            inflight_wait: api.inflight_wait,
            stream_cache_bytes,
            spare_after,
            background_bytes_max,
        }
    }
}

/// `querier`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct QuerierSection {
    /// Most scans at a time; 0 means one per core.
    pub(crate) max_concurrent: usize,
    /// Whether a query may be for several tenants, named as `a|b`.
    pub(crate) multi_tenant_queries_enabled: bool,
    /// Whether a request may tighten the limits of its query by the header `X-Loki-Query-Limits`.
    pub(crate) per_request_limits_enabled: bool,
    /// Bytes of block ends (page tables, stream indexes, line filters) to keep.
    #[serde(with = "skald_runtime::units::bytes")]
    pub(crate) block_cache_bytes: u64,
    /// Compressed bytes of blocks that may be in memory for scans at a time.
    #[serde(with = "skald_runtime::units::bytes")]
    pub(crate) fetch_bytes_max: u64,
    /// Memory for what all queries of this process hold besides: states of aggregations, entries found, answers.
    #[serde(with = "skald_runtime::units::bytes")]
    pub(crate) query_memory_budget: u64,
    /// Most of it that one query may hold in each of the services that work on it.
    #[serde(with = "skald_runtime::units::bytes")]
    pub(crate) query_memory_max: u64,
    /// How long a query waits for that memory before it is refused.
    #[serde(with = "skald_runtime::units::duration")]
    pub(crate) query_memory_wait: Duration,
    /// How long a live tail may last.
    #[serde(with = "skald_runtime::units::duration")]
    pub(crate) tail_max_duration: Duration,
    /// Most bytes of entries that a live tail with `delay_for` holds back.
    #[serde(with = "skald_runtime::units::bytes")]
    pub(crate) tail_buffer_bytes: u64,
}

impl Default for QuerierSection {
    fn default() -> Self {
        let skald_querier::Config { max_concurrent, block_cache_bytes, fetch_bytes_max } =
            skald_querier::Config::default();
        let frontend = skald_frontend::Config::default();
        let memory = QueryMemoryConfig::default();
        Self {
            max_concurrent,
            multi_tenant_queries_enabled: false,
            per_request_limits_enabled: false,
            block_cache_bytes,
            fetch_bytes_max,
            query_memory_budget: memory.budget,
            query_memory_max: memory.query_max,
            query_memory_wait: memory.wait,
            tail_max_duration: frontend.tail_max_duration,
            tail_buffer_bytes: frontend.tail_buffer_bytes,
        }
    }
}

impl From<QuerierSection> for skald_querier::Config {
    fn from(section: QuerierSection) -> Self {
        let QuerierSection {
            max_concurrent,
            multi_tenant_queries_enabled: _,
            per_request_limits_enabled: _,
            block_cache_bytes,
            fetch_bytes_max,
            query_memory_budget: _,
            query_memory_max: _,
            query_memory_wait: _,
            tail_max_duration: _,
            tail_buffer_bytes: _,
        } = section;
        Self { max_concurrent, block_cache_bytes, fetch_bytes_max }
    }
}

impl QuerierSection {
    /// The settings of the memory that all roles' queries share.
    pub(crate) fn query_memory(&self) -> QueryMemoryConfig {
        QueryMemoryConfig {
            budget: self.query_memory_budget,
            query_max: self.query_memory_max,
            wait: self.query_memory_wait,
        }
    }
}

/// `compactor`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct CompactorSection {
    /// How tables are merged and cleaned up.
    #[serde(flatten)]
    pub(crate) compaction: skald_compactor::Config,
    /// What goes, and when.
    #[serde(flatten)]
    pub(crate) removal: skald_removal::Config,
    /// Where entries go before they expire: tables in another place, with the keys of `common.storage`. Nothing is
    /// removed there.
    pub(crate) archive: Storage,
}

impl CompactorSection {
    /// The place of the archive, if there is one.
    pub(crate) fn archive(&self) -> Option<&Storage> {
        let Storage { filesystem, .. } = &self.archive;
        let is_set = !filesystem.chunks_directory.as_os_str().is_empty() || !self.archive.named().is_empty();
        is_set.then_some(&self.archive)
    }
}

/// `frontend`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct FrontendSection {
    /// Whether answers are compressed with gzip when the client accepts that.
    pub(crate) compress_responses: bool,
    /// Most bytes of remembered answers to label and series requests.
    #[serde(with = "skald_runtime::units::bytes")]
    pub(crate) metadata_cache_bytes: u64,
    /// How long an ingester may take to answer while the query can go on without it.
    #[serde(with = "skald_runtime::units::duration")]
    pub(crate) ingester_timeout: Duration,
    /// Tasks of queries that may wait for their turn, per tenant.
    pub(crate) max_outstanding_per_tenant: usize,
    /// Tasks that a querier gets from one frontend at a time.
    pub(crate) max_tasks_per_querier: usize,
}

impl Default for FrontendSection {
    fn default() -> Self {
        let frontend = skald_frontend::Config::default();
        Self {
            compress_responses: true,
            metadata_cache_bytes: frontend.metadata_cache_bytes,
            ingester_timeout: frontend.ingester_timeout,
            max_outstanding_per_tenant: frontend.max_outstanding_per_tenant,
            max_tasks_per_querier: frontend.max_tasks_per_querier,
        }
    }
}
