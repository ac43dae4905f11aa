//! `skald series`

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::answer::Pairs;
use crate::common::{Format, Times};
use crate::connection::Connection;
use crate::metric::{Align, table};
use crate::notes::count;
use crate::output::label_text;
use crate::session::Session;

/// Arguments of `skald series`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Which streams, for example '{app="checkout"}'; several are joined
    #[arg(default_value = "{}")]
    selectors: Vec<String>,
    /// Instead of streams, list their labels: in how many streams each is, and how many values it has
    #[arg(long)]
    analyze_labels: bool,
    /// How streams are written
    #[arg(short, long, value_enum, default_value_t = Format::Default)]
    output: Format,
    #[command(flatten)]
    times: Times,
    #[command(flatten)]
    pub(crate) connection: Connection,
}

#[derive(Deserialize)]
struct Streams {
    #[serde(default)]
    data: Vec<Pairs>,
}

/// Writes one stream per line, or the table of labels.
pub(crate) async fn run(args: &Args, mut session: Session) -> Result<()> {
    let mut parameters = args.times.parameters(session.now)?.to_vec();
    parameters.extend(args.selectors.iter().map(|selector| ("match[]", selector.clone())));
    let body = session.client.get("/loki/api/v1/series", &parameters).await?;
    let streams: Streams = serde_json::from_slice(&body)
        .context("the server did not answer as Loki answers a question for series")?;
    if args.analyze_labels {
        session.notes.say(&format!("{} streams", count(streams.data.len() as u64)));
        let align = [Align::Left, Align::Right, Align::Right];
        table(&mut session.out, ["LABEL", "VALUES", "STREAMS"], &analysis(&streams.data), align)?;
    } else {
        for stream in &streams.data {
            if args.output == Format::Jsonl {
                serde_json::to_writer(&mut session.out, stream).map_err(std::io::Error::from)?;
                writeln!(session.out)?;
            } else {
                writeln!(
                    session.out,
                    "{}",
                    label_text(stream.iter().map(|(n, v)| (n.as_str(), v.as_str())))
                )?;
            }
        }
    }
    session.out.flush().context("failed to write")
}

/// Labels with their numbers of values and streams, those with the most values first.
fn analysis(streams: &[Pairs]) -> Vec<[String; 3]> {
    let mut labels: BTreeMap<&str, (BTreeSet<&str>, u64)> = BTreeMap::new();
    for (name, value) in streams.iter().flatten() {
        let (values, streams) = labels.entry(name).or_default();
        values.insert(value);
        *streams += 1;
    }
    let mut rows: Vec<_> = labels.into_iter().collect();
    rows.sort_by_key(|(name, (values, _))| (std::cmp::Reverse(values.len()), *name));
    rows.into_iter()
        .map(|(name, (values, streams))| [name.to_owned(), count(values.len() as u64), count(streams)])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_with_the_most_values_come_first() {
        let stream = |pairs: &[(&str, &str)]| -> Pairs {
            pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect()
        };
        let streams = [stream(&[("app", "x"), ("pod", "1")]), stream(&[("app", "x"), ("pod", "2")])];
        assert_eq!(
            analysis(&streams),
            [["pod", "2", "2"], ["app", "1", "2"]].map(|row| row.map(str::to_owned))
        );
    }
}
