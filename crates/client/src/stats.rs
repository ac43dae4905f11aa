//! `skald stats`

use std::io::Write as _;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use skald_logql::units::format_bytes;

use crate::answer::{Answer, Data};
use crate::common::Times;
use crate::connection::Connection;
use crate::metric::{Align, table};
use crate::notes::count;
use crate::output::label_text;
use crate::session::Session;

/// Arguments of `skald stats`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Which streams, for example '{app="checkout"}'
    selector: String,
    /// Show also which label values the bytes belong to, largest first
    #[arg(long)]
    volume: bool,
    /// With --volume: how many rows
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
    limit: u64,
    /// With --volume: tell values of this label apart; may be repeated
    #[arg(long, value_name = "NAME")]
    target_label: Vec<String>,
    #[command(flatten)]
    times: Times,
    #[command(flatten)]
    pub(crate) connection: Connection,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct IndexStats {
    streams: u64,
    chunks: u64,
    bytes: u64,
    entries: u64,
}

/// Writes how much there is.
pub(crate) async fn run(args: &Args, mut session: Session) -> Result<()> {
    let mut parameters = args.times.parameters(session.now)?.to_vec();
    parameters.push(("query", args.selector.clone()));
    let body = session.client.get("/loki/api/v1/index/stats", &parameters).await?;
    let stats: IndexStats = serde_json::from_slice(&body)
        .context("the server did not answer as Loki answers a question for statistics")?;
    let rows = [
        ("streams", count(stats.streams)),
        ("chunks", count(stats.chunks)),
        ("entries", count(stats.entries)),
        ("bytes", format!("{} ({})", count(stats.bytes), format_bytes(stats.bytes))),
    ];
    for (name, value) in rows {
        writeln!(session.out, "{name:<8} {value}")?;
    }
    if args.volume {
        writeln!(session.out)?;
        volume(args, &mut session, parameters).await?;
    }
    session.out.flush().context("failed to write")
}

async fn volume(args: &Args, session: &mut Session, mut parameters: Vec<(&str, String)>) -> Result<()> {
    parameters.push(("limit", args.limit.to_string()));
    if !args.target_label.is_empty() {
        parameters.push(("targetLabels", args.target_label.join(",")));
    }
    let body = session.client.get("/loki/api/v1/index/volume", &parameters).await?;
    let answer: Answer = serde_json::from_slice(&body)
        .context("the server did not answer as Loki answers a question for volumes")?;
    let Data::Vector(points) = answer.data else { anyhow::bail!("volumes are not a vector") };
    let rows: Vec<_> = points
        .iter()
        .map(|point| {
            let bytes = point.value.1.parse::<f64>().unwrap_or_default() as u64;
            [format_bytes(bytes), label_text(point.metric.iter().map(|(n, v)| (n.as_str(), v.as_str())))]
        })
        .collect();
    table(&mut session.out, ["BYTES", "LABELS"], &rows, [Align::Right, Align::Left])
        .context("failed to write")
}
