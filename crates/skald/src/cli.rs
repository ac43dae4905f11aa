//! The command line, with Loki's forms of flags.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::{Flag, Sources};

/// A log store that speaks Loki and keeps logs as open Parquet.
#[derive(Debug, Parser)]
#[command(name = "skald", version = crate::build_info::VERSION, about, arg_required_else_help = true, args_override_self = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start the server.
    Serve(ServeArgs),
    /// Look at the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Look at blocks.
    #[command(subcommand)]
    Block(BlockCommand),
    /// Look at what retention does.
    #[command(subcommand)]
    Retention(RetentionCommand),

    /// Check, mend and copy tables. Works on the store directly, with the configuration of the server.
    #[command(subcommand)]
    Table(TableCommand),
    /// Make entries for the file of users (auth.file).
    #[command(subcommand)]
    Auth(AuthCommand),
    /// Ask a running server whether it is ready; exit code 0 if it is.
    Health {
        /// Where it listens.
        #[arg(long, default_value = "http://127.0.0.1:3100/ready", alias = "health.url")]
        url: String,
        #[command(flatten)]
        tls: skald_client::TlsFlags,
    },
    /// Print the version.
    Version,
    #[command(flatten)]
    Client(Box<skald_client::Command>),
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Read a configuration file and say what is wrong with it.
    Check {
        /// The file.
        file: PathBuf,
        /// Replace ${NAME} and ${NAME:-default} in the file from the environment.
        #[arg(long = "config.expand-env", action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", default_value = "false", require_equals = true)]
        expand_env: bool,
    },
    /// Print the configuration in effect as YAML, secrets masked.
    Show(ServeArgs),
}

#[derive(Debug, Subcommand)]
pub(crate) enum BlockCommand {
    /// Describe what is in a block: rows, streams, sizes, filters.
    Inspect {
        /// A Parquet file of a table.
        file: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum RetentionCommand {
    /// Say what retention would remove now, by tenant and rule, and how much that is. Nothing is changed.
    Plan {
        /// Only of this tenant; may be repeated.
        #[arg(long = "tenant", value_name = "NAME")]
        tenants: Vec<String>,
        #[command(flatten)]
        args: ServeArgs,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum TableCommand {
    /// Check that every block is there, can be read and holds what the table says; exit code 1 if not.
    Check {
        #[command(flatten)]
        tables: TableArgs,
        /// Read every row and compare it with the digests, which takes as long as reading everything does.
        #[arg(long)]
        rows: bool,
    },
    /// Make a table again from its files, when its log is lost. Stop all servers before.
    Rebuild {
        #[command(flatten)]
        table: TableArgs,
        /// Take in files, too, that the table did not name any more when it was last vacuumed. What was deleted or expired
        /// may come back.
        #[arg(long)]
        include_unused: bool,
    },
    /// Take back compactions, retention and deletions that were committed after a version. What was flushed since stays.
    Restore {
        #[command(flatten)]
        table: TableArgs,
        /// The last version that stays as it was.
        #[arg(long)]
        version: i64,
    },
    /// Copy a time range to another directory or bucket, as a Delta table of its own.
    Export {
        #[command(flatten)]
        table: TableArgs,
        /// The first time, inclusive, as RFC 3339; the first of all if not given.
        #[arg(long, value_name = "TIME")]
        from: Option<String>,
        /// The time after the last, as RFC 3339; everything up to the newest if not given.
        #[arg(long, value_name = "TIME")]
        to: Option<String>,
        /// The directory to copy to; the table lies there in a folder of the tenant's name.
        #[arg(
            long,
            value_name = "DIR",
            required_unless_present = "into_config",
            conflicts_with = "into_config"
        )]
        into: Option<PathBuf>,
        /// A configuration file whose common.storage names the bucket to copy to.
        #[arg(long, value_name = "FILE")]
        into_config: Option<PathBuf>,
    },
}

/// Which tables.
#[derive(Debug, Args)]
pub(crate) struct TableArgs {
    /// The tenant; that of servers without tenants if not given.
    #[arg(long)]
    pub(crate) tenant: Option<String>,
    #[command(flatten)]
    pub(crate) config: ServeArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AuthCommand {
    /// Read a password (or a token) from standard input and print its hash.
    Hash {
        /// It is a bearer token, not a password.
        #[arg(long)]
        token: bool,
    },
}

/// What decides the configuration.
#[derive(Clone, Debug, Default, Args)]
#[command(args_override_self = true)]
pub(crate) struct ServeArgs {
    /// Where HTTP listens.
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// Where the write-ahead log and (unless configured otherwise) the tables are kept.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The roles of this process: all, or a list with commas.
    #[arg(long)]
    target: Option<String>,
    /// The configuration file; of several with commas, the first that exists.
    #[arg(long = "config.file", value_name = "FILE", visible_alias = "config-file")]
    config_file: Option<String>,
    /// Replace ${NAME} and ${NAME:-default} in the file from the environment.
    #[arg(long = "config.expand-env", action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", default_value = "false", require_equals = true)]
    expand_env: bool,
    /// Check the configuration and end.
    #[arg(long = "verify-config", action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", default_value = "false", require_equals = true)]
    pub(crate) verify_config: bool,
    /// Print the configuration in effect to standard error before starting.
    #[arg(long = "print-config-stderr", action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", default_value = "false", require_equals = true)]
    pub(crate) print_config: bool,
    /// Print the names that --target takes and end.
    #[arg(long = "list-targets", action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", default_value = "false", require_equals = true)]
    pub(crate) list_targets: bool,
    /// Taken for Loki's sake, without effect.
    #[arg(long = "log-config-reverse-order", hide = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", default_value = "false", require_equals = true)]
    log_config_reverse_order: bool,
    /// Set one key of the configuration, such as server.log_level=debug. Loki's flags are turned into this.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl ServeArgs {
    /// Where the configuration comes from.
    ///
    /// # Errors
    /// When a flag is not understood.
    pub(crate) fn sources(&self) -> Result<Sources, String> {
        let Self { listen, data, target, config_file, expand_env, set, .. } = self;
        let mut flags = Vec::new();
        let mut flag = |name: &str, key: &str, value: &str| {
            flags.push(Flag { name: name.into(), key: key.into(), value: value.into() });
        };
        for text in set {
            let (name, value) =
                text.split_once('=').ok_or_else(|| format!("--set {text}: expected KEY=VALUE"))?;
            flag(name, &key_of(name), value);
        }
        if let Some(listen) = listen {
            let (address, port) = split_listen(listen)?;
            if let Some(address) = address {
                flag("--listen", "server.http_listen_address", address);
            }
            flag("--listen", "server.http_listen_port", port);
        }
        if let Some(data) = data {
            let data = data.to_str().ok_or("--data is not valid UTF-8")?;
            flag("--data", "common.path_prefix", data);
        }
        if let Some(target) = target {
            flag("--target", "target", target);
        }
        let files = config_file.iter().flat_map(|f| f.split(',')).filter(|f| !f.is_empty());
        Ok(Sources {
            files: files.map(PathBuf::from).collect(),
            expand_env: *expand_env,
            environment: std::env::vars().collect(),
            flags,
        })
    }
}

/// `address:port`, `:port` (every interface) or a port alone.
fn split_listen(listen: &str) -> Result<(Option<&str>, &str), String> {
    let (address, port) = match listen.rsplit_once(':') {
        Some(("", port)) => (Some("0.0.0.0"), port),
        Some((address, port)) => (Some(address), port),
        None => (None, listen),
    };
    match port.parse::<u16>() {
        Ok(_) => Ok((address, port)),
        Err(_) => Err(format!("--listen {listen}: expected ADDRESS:PORT, for example 127.0.0.1:3100")),
    }
}

/// Flags of this program itself; all others with a dot are keys of the configuration.
const OWN_FLAGS: [&str; 3] = ["config.file", "config.expand-env", "health.url"];

/// Loki's flags that are not simply the key with other separators.
const ALIASES: [(&str, &str); 51] = [
    ("auth.enabled", "auth_enabled"),
    ("reporting.enabled", "analytics.reporting_enabled"),
    ("memberlist.join", "memberlist.join_members"),
    ("memberlist.nodename", "memberlist.node_name"),
    ("ingester.availability-zone", "ingester.lifecycler.availability_zone"),
    ("ingester.join-after", "ingester.lifecycler.join_after"),
    ("ingester.unregister-on-shutdown", "ingester.lifecycler.unregister_on_shutdown"),
    ("log.level", "server.log_level"),
    ("log.format", "server.log_format"),
    ("server.path-prefix", "server.http_path_prefix"),
    ("server.http-read-timeout", "server.http_server_read_timeout"),
    ("server.http-idle-timeout", "server.http_server_idle_timeout"),
    ("server.http-conn-limit", "server.http_listen_conn_limit"),
    ("server.grpc-conn-limit", "server.grpc_listen_conn_limit"),
    ("server.grpc-max-recv-msg-size-bytes", "server.grpc_server_max_recv_msg_size"),
    ("server.grpc-max-send-msg-size-bytes", "server.grpc_server_max_send_msg_size"),
    ("server.grpc-max-concurrent-streams", "server.grpc_server_max_concurrent_streams"),
    ("server.http-tls-cert-path", "server.http_tls_config.cert_file"),
    ("server.http-tls-key-path", "server.http_tls_config.key_file"),
    ("server.http-tls-client-auth", "server.http_tls_config.client_auth_type"),
    ("server.http-tls-ca-path", "server.http_tls_config.client_ca_file"),
    ("server.grpc-tls-cert-path", "server.grpc_tls_config.cert_file"),
    ("server.grpc-tls-key-path", "server.grpc_tls_config.key_file"),
    ("server.grpc-tls-client-auth", "server.grpc_tls_config.client_auth_type"),
    ("server.grpc-tls-ca-path", "server.grpc_tls_config.client_ca_file"),
    ("ingester.client.tls-enabled", "ingester_client.grpc_client_config.tls_enabled"),
    ("ingester.client.tls-cert-path", "ingester_client.grpc_client_config.tls_cert_path"),
    ("ingester.client.tls-key-path", "ingester_client.grpc_client_config.tls_key_path"),
    ("ingester.client.tls-ca-path", "ingester_client.grpc_client_config.tls_ca_path"),
    ("ingester.client.tls-server-name", "ingester_client.grpc_client_config.tls_server_name"),
    (
        "ingester.client.tls-insecure-skip-verify",
        "ingester_client.grpc_client_config.tls_insecure_skip_verify",
    ),
    ("common.storage.filesystem.chunk-directory", "common.storage.filesystem.chunks_directory"),
    ("ingester.wal-enabled", "ingester.wal.enabled"),
    ("ingester.wal-dir", "ingester.wal.dir"),
    ("ingester.wal-replay-memory-ceiling", "ingester.wal.replay_memory_ceiling"),
    ("ingester.flush-on-shutdown", "ingester.wal.flush_on_shutdown"),
    ("ingester.chunks-idle-period", "ingester.chunk_idle_period"),
    ("ingester.max-global-streams-per-user", "limits_config.max_global_streams_per_user"),
    ("ingester.per-stream-rate-limit", "limits_config.per_stream_rate_limit"),
    ("ingester.per-stream-rate-limit-burst", "limits_config.per_stream_rate_limit_burst"),
    ("distributor.ingestion-rate-limit-mb", "limits_config.ingestion_rate_mb"),
    ("distributor.ingestion-burst-size-mb", "limits_config.ingestion_burst_size_mb"),
    ("distributor.max-line-size", "limits_config.max_line_size"),
    ("validation.reject-old-samples", "limits_config.reject_old_samples"),
    ("validation.reject-old-samples.max-age", "limits_config.reject_old_samples_max_age"),
    ("validation.create-grace-period", "limits_config.creation_grace_period"),
    ("validation.max-entries-limit", "limits_config.max_entries_limit_per_query"),
    ("store.max-query-length", "limits_config.max_query_length"),
    ("querier.max-query-series", "limits_config.max_query_series"),
    ("querier.query-timeout", "limits_config.query_timeout"),
    ("runtime-config.reload-period", "runtime_config.period"),
];

/// The key that a flag of Loki's sets.
fn key_of(flag: &str) -> String {
    let flag = flag.trim_start_matches('-');
    match ALIASES.iter().find(|(name, _)| *name == flag) {
        Some((_, key)) => (*key).to_owned(),
        None => flag.replace('-', "_"),
    }
}

/// Brings the arguments into the form that the parser knows: `-flag` becomes `--flag`, Loki's flags for keys become
/// `--set`, `-version` a command, and a call without a command, as Loki is called, becomes `serve`.
pub(crate) fn normalise(arguments: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut arguments = arguments.into_iter().peekable();
    let mut out: Vec<String> = arguments.next().into_iter().collect();
    let first = arguments.peek().cloned().unwrap_or_default();
    if skald_client::Command::has_subcommand(&first) {
        // Loki's server has no such commands, and a query may well begin with a dash.
        out.extend(arguments);
        return out;
    }
    match first.trim_start_matches('-') {
        "version" if first.starts_with('-') => return with_command(out, "version"),
        "health" if first.starts_with('-') => {
            arguments.next();
            out = with_command(out, "health");
        }
        "h" | "help" | "V" | "" => {}
        _ if first.starts_with('-') => out = with_command(out, "serve"),
        _ => {}
    }
    while let Some(argument) = arguments.next() {
        let Some(flag) = argument.strip_prefix('-').map(|f| f.trim_start_matches('-')) else {
            out.push(argument);
            continue;
        };
        let name = flag.split('=').next().unwrap_or_default();
        if flag.len() < 2 || !name.contains('.') || OWN_FLAGS.contains(&name) {
            let dashes = if flag.len() < 2 { "-" } else { "--" };
            out.push(format!("{dashes}{flag}"));
            continue;
        }
        // A flag of Go's without a value is a switch that is turned on.
        let value = match flag.split_once('=') {
            Some((_, value)) => value.to_owned(),
            None => arguments.next_if(|next| !next.starts_with('-')).unwrap_or_else(|| "true".into()),
        };
        out.push("--set".into());
        out.push(format!("-{name}={value}"));
    }
    // `--set -server.log-level=debug` would be taken for a flag of its own.
    join_set(out)
}

fn join_set(arguments: Vec<String>) -> Vec<String> {
    let mut out = Vec::with_capacity(arguments.len());
    let mut rest = arguments.into_iter();
    while let Some(argument) = rest.next() {
        match (argument.as_str(), argument == "--set") {
            (_, true) => out.push(format!("--set={}", rest.next().unwrap_or_default())),
            _ => out.push(argument),
        }
    }
    out
}

fn with_command(mut program: Vec<String>, command: &str) -> Vec<String> {
    program.push(command.into());
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(given: &str, expected: &str) {
        let given = format!("skald {given}");
        let normalised = normalise(given.split_whitespace().map(String::from));
        assert_eq!(normalised[1..].join(" "), expected);
        assert!(Cli::try_parse_from(normalised).is_ok(), "{expected}");
    }

    #[test]
    fn flags_of_loki_become_ours() {
        check("serve --listen 127.0.0.1:0 --data d", "serve --listen 127.0.0.1:0 --data d");
        check("-config.file=loki.yaml -target=all", "serve --config.file=loki.yaml --target=all");
        check("--config.file loki.yaml", "serve --config.file loki.yaml");
        check(
            "-config.expand-env=true -config.expand-env",
            "serve --config.expand-env=true --config.expand-env",
        );
        check("-config.file=f -verify-config", "serve --config.file=f --verify-config");
        check(
            "-list-targets -log-config-reverse-order=true",
            "serve --list-targets --log-config-reverse-order=true",
        );
        check("-version", "version");
        check("-log.level=debug", "serve --set=-log.level=debug");
        check(
            "-server.http-listen-port 3101 -auth.enabled",
            "serve --set=-server.http-listen-port=3101 --set=-auth.enabled=true",
        );
        check("-health -health.url=http://x/ready", "health --health.url=http://x/ready");
        check("config check f.yaml", "config check f.yaml");
        check("serve --set server.log_level=warn", "serve --set=server.log_level=warn");
        check("query -n 5 --since 1h -- -1", "query -n 5 --since 1h -- -1");
        check("push -l app=x -", "push -l app=x -");
    }

    #[test]
    fn sources_name_the_keys() {
        let normalised = normalise(
            ["skald", "serve", "--listen", ":80", "-log.level=debug", "-server.http-listen-port=1"]
                .map(String::from),
        );
        let Command::Serve(args) = Cli::try_parse_from(normalised).unwrap().command else { panic!() };
        let keys: Vec<_> = args.sources().unwrap().flags.into_iter().map(|f| (f.key, f.value)).collect();
        let expected = [
            ("server.log_level", "debug"),
            ("server.http_listen_port", "1"),
            ("server.http_listen_address", "0.0.0.0"),
            ("server.http_listen_port", "80"),
        ];
        assert_eq!(keys, expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
    }

    #[test]
    fn listen_is_an_address_with_a_port() {
        assert_eq!(split_listen("127.0.0.1:3100"), Ok((Some("127.0.0.1"), "3100")));
        assert_eq!(split_listen("[::1]:3100"), Ok((Some("[::1]"), "3100")));
        assert_eq!(split_listen("3100"), Ok((None, "3100")));
        assert!(split_listen("localhost").is_err() && split_listen("a:99999").is_err());
    }
}
