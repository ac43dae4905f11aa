//! `skald query`

use std::io::Write as _;

use anyhow::{Context as _, Result};
use http::{HeaderMap, HeaderValue};
use skald_logql::units::format_bytes;
use skald_model::time::{Direction, TimeRange};

use crate::answer::{self, Answer, Data, Entry, Summary};
use crate::common::{Format, Times};
use crate::connection::Connection;
use crate::http::{Client, Error, Patience};
use crate::metric;
use crate::notes::count;
use crate::output::{Printer, Show};
use crate::paging::{Page, Pager, limit_named_by};
use crate::session::Session;

/// Arguments of `skald query`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The query in LogQL, for example '{app="checkout"} |= "failed"'
    query: String,
    /// Evaluate a metric query once, at --to
    #[arg(long, conflicts_with_all = ["since", "from", "forward", "step"])]
    instant: bool,
    /// How many lines; 0 for all of them
    #[arg(short = 'n', long, value_name = "N", default_value_t = 100)]
    limit: u64,
    /// Lines per request; more lines are fetched page by page
    #[arg(long, value_name = "N", default_value_t = 5000, value_parser = clap::value_parser!(u64).range(1..))]
    batch: u64,
    /// Oldest lines first
    #[arg(long)]
    forward: bool,
    /// Distance of the points of a metric query, for example 30s or 5m
    #[arg(long, value_name = "DURATION")]
    step: Option<String>,
    /// How results are written
    #[arg(short, long, value_enum, default_value_t = Format::Default)]
    output: Format,
    /// Tell on standard error what the query cost
    #[arg(long)]
    stats: bool,
    #[command(flatten)]
    times: Times,
    #[command(flatten)]
    show: Show,
    #[command(flatten)]
    pub(crate) connection: Connection,
}

/// Runs the query and writes what it finds.
pub(crate) async fn run(args: &Args, mut session: Session) -> Result<()> {
    let mut summary = Summary::default();
    if args.instant {
        instant(args, &mut session, &mut summary).await?;
    } else {
        range(args, &mut session, &mut summary).await?;
    }
    session.out.flush().context("failed to write")?;
    session.notes.clear();
    if args.stats {
        tell(&session, &summary);
    }
    Ok(())
}

async fn instant(args: &Args, session: &mut Session, summary: &mut Summary) -> Result<()> {
    let time = args.times.range(session.now)?.end;
    let parameters =
        [("query", args.query.clone()), ("time", time.to_string()), ("limit", args.limit.to_string())];
    let body = session.client.get("/loki/api/v1/query", &parameters).await?;
    let answer = read(session, summary, &body)?;
    metric::write(&mut session.out, args.output, args.show.zone(), &answer.data).context("failed to write")
}

async fn range(args: &Args, session: &mut Session, summary: &mut Summary) -> Result<()> {
    let TimeRange { start, end } = args.times.range(session.now)?;
    let direction = if args.forward { Direction::Forward } else { Direction::Backward };
    let mut pager = Pager::new(direction, start, end, args.batch, args.limit);
    let mut printer = Printer::new(args.output, args.show.clone(), session.colours);
    let (mut lines, mut pages) = (0, 0);
    while let Some((page, body)) =
        next_page(&session.client, &mut pager, &args.query, args.step.as_deref(), Patience::Short).await?
    {
        let answer = read(session, summary, &body)?;
        let Data::Streams(streams) = answer.data else {
            return metric::write(&mut session.out, args.output, args.show.zone(), &answer.data)
                .context("failed to write");
        };
        let entries = pager.accept(page, answer::entries(streams));
        print(session, &mut printer, &entries)?;
        lines += entries.len() as u64;
        pages += 1;
        session.notes.progress(|| format!("{} lines, {} pages", count(lines), count(pages)));
    }
    Ok(())
}

/// Writes entries to standard output, and first what their labels have in common to standard error.
pub(crate) fn print(session: &mut Session, printer: &mut Printer, entries: &[Entry]) -> Result<()> {
    if let Some(shared) = printer.factor(entries) {
        session.notes.say(&format!("common labels: {shared}"));
    }
    printer.write(&mut session.out, entries).and_then(|()| session.out.flush()).context("failed to write")
}

/// Fetches the next page of a pager, smaller ones if the server does not answer with as many lines.
pub(crate) async fn next_page(
    client: &Client,
    pager: &mut Pager,
    query: &str,
    step: Option<&str>,
    patience: Patience,
) -> Result<Option<(Page, bytes::Bytes)>> {
    let direction = match pager.direction() {
        Direction::Forward => "forward",
        Direction::Backward => "backward",
    };
    while let Some(page) = pager.next()? {
        let mut parameters = vec![
            ("query", query.to_owned()),
            ("start", page.start.to_string()),
            ("end", page.end.to_string()),
            ("limit", page.limit.to_string()),
            ("direction", direction.to_owned()),
        ];
        parameters.extend(step.map(|step| ("step", step.to_owned())));
        let error =
            match client.get_with("/loki/api/v1/query_range", &parameters, labels_apart(), patience).await {
                Ok(body) => return Ok(Some((page, body))),
                Err(error) => error,
            };
        let Error::Status { message, .. } = &error else { return Err(error.into()) };
        let known = limit_named_by(message).is_none_or(|limit| !pager.shrink(limit));
        if known {
            return Err(error.into());
        }
    }
    Ok(None)
}

/// Asks for labels, structured metadata and parsed labels apart. Servers that do not know the header mix them.
fn labels_apart() -> HeaderMap {
    HeaderMap::from_iter([(
        http::HeaderName::from_static("x-loki-response-encoding-flags"),
        HeaderValue::from_static("categorize-labels"),
    )])
}

fn read(session: &Session, summary: &mut Summary, body: &[u8]) -> Result<Answer> {
    let answer: Answer =
        serde_json::from_slice(body).context("the server did not answer as Loki answers a query")?;
    for warning in &answer.warnings {
        session.notes.say(&format!("warning: {warning}"));
    }
    summary.add(&Summary::read(body));
    Ok(answer)
}

fn tell(session: &Session, summary: &Summary) {
    let bytes = summary.total_bytes_processed;
    let rate = if summary.exec_time > 0.0 { bytes as f64 / summary.exec_time } else { 0.0 };
    let lines = [
        format!("processed {} in {} lines", format_bytes(bytes), count(summary.total_lines_processed)),
        format!(
            "left      {} lines after filters, {} entries sent",
            count(summary.total_post_filter_lines),
            count(summary.total_entries_returned)
        ),
        format!(
            "took      {:.3} s, {}/s, and {:.3} s in the queue",
            summary.exec_time,
            format_bytes(rate as u64),
            summary.queue_time
        ),
    ];
    for line in lines {
        session.notes.warn(&line);
    }
}
