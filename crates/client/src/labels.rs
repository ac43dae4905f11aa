//! `skald labels`

use std::io::Write as _;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use url::form_urlencoded::byte_serialize;

use crate::common::Times;
use crate::connection::Connection;
use crate::session::Session;

/// Arguments of `skald labels`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The label whose values to list; without it, the names of all labels
    name: Option<String>,
    /// Only of streams that this selector matches
    #[arg(long, value_name = "SELECTOR")]
    query: Option<String>,
    #[command(flatten)]
    times: Times,
    #[command(flatten)]
    pub(crate) connection: Connection,
}

#[derive(Deserialize)]
struct Names {
    /// Not there when there are none.
    #[serde(default)]
    data: Vec<String>,
}

/// Writes one name or value per line.
pub(crate) async fn run(args: &Args, mut session: Session) -> Result<()> {
    let path = match &args.name {
        // A space is written as in paths, not as in forms.
        Some(name) => format!(
            "/loki/api/v1/label/{}/values",
            byte_serialize(name.as_bytes()).collect::<String>().replace('+', "%20")
        ),
        None => "/loki/api/v1/labels".to_owned(),
    };
    let mut parameters = args.times.parameters(session.now)?.to_vec();
    parameters.extend(args.query.iter().map(|query| ("query", query.clone())));
    let body = session.client.get(&path, &parameters).await?;
    let names: Names = serde_json::from_slice(&body)
        .context("the server did not answer as Loki answers a question for labels")?;
    for name in names.data {
        writeln!(session.out, "{name}").context("failed to write")?;
    }
    session.out.flush().context("failed to write")
}
