//! Results of metric queries on standard output.

use std::io::{self, Write};

use serde::Serialize;

use crate::answer::{Data, Pairs, Sample};
use crate::common::Format;
use crate::output::label_text;
use crate::time::{self, Zone};

#[derive(Serialize)]
struct JsonSample<'a> {
    timestamp: String,
    labels: &'a Pairs,
    value: &'a str,
}

/// Writes a result that is not of log entries.
pub(crate) fn write(out: &mut impl Write, format: Format, zone: Zone, data: &Data) -> io::Result<()> {
    let none = Pairs::new();
    let series: Vec<(&Pairs, &[Sample])> = match data {
        Data::Streams(_) => Vec::new(),
        Data::Matrix(series) => series.iter().map(|s| (&s.metric, &s.values[..])).collect(),
        Data::Vector(points) => points.iter().map(|p| (&p.metric, std::slice::from_ref(&p.value))).collect(),
        Data::Scalar(sample) => vec![(&none, std::slice::from_ref(sample))],
    };
    match (format, data) {
        (Format::Jsonl, _) => jsonl(out, &series),
        (Format::Raw, _) => raw(out, &series),
        (Format::Default, Data::Matrix(_)) => matrix(out, zone, &series),
        (Format::Default, _) => vector(out, &series),
    }
}

fn jsonl(out: &mut impl Write, series: &[(&Pairs, &[Sample])]) -> io::Result<()> {
    for (labels, samples) in series {
        for sample in *samples {
            let timestamp = time::exact(sample.timestamp());
            let line = JsonSample { timestamp, labels, value: &sample.1 };
            serde_json::to_writer(&mut *out, &line).map_err(io::Error::from)?;
            out.write_all(b"\n")?;
        }
    }
    Ok(())
}

fn raw(out: &mut impl Write, series: &[(&Pairs, &[Sample])]) -> io::Result<()> {
    for (_, samples) in series {
        for sample in *samples {
            writeln!(out, "{}", sample.1)?;
        }
    }
    Ok(())
}

/// One row per series: its value and its labels.
fn vector(out: &mut impl Write, series: &[(&Pairs, &[Sample])]) -> io::Result<()> {
    let rows: Vec<_> = series
        .iter()
        .flat_map(|(labels, samples)| samples.iter().map(|s| [s.1.clone(), text(labels)]))
        .collect();
    table(out, ["VALUE", "LABELS"], &rows, [Align::Right, Align::Left])
}

/// One table per series, with a row per point.
fn matrix(out: &mut impl Write, zone: Zone, series: &[(&Pairs, &[Sample])]) -> io::Result<()> {
    for (index, (labels, samples)) in series.iter().enumerate() {
        if index > 0 {
            writeln!(out)?;
        }
        writeln!(out, "{}", text(labels))?;
        let rows: Vec<_> = samples.iter().map(|s| [time::show(s.timestamp(), zone), s.1.clone()]).collect();
        table(out, ["TIME", "VALUE"], &rows, [Align::Left, Align::Right])?;
    }
    Ok(())
}

fn text(labels: &Pairs) -> String {
    label_text(labels.iter().map(|(n, v)| (n.as_str(), v.as_str())))
}

/// On which side a column is even.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    /// Texts.
    Left,
    /// Numbers.
    Right,
}

/// Writes rows below a heading, in columns as wide as they need to be.
pub(crate) fn table<const N: usize>(
    out: &mut impl Write,
    heading: [&str; N],
    rows: &[[String; N]],
    align: [Align; N],
) -> io::Result<()> {
    let heading = heading.map(str::to_owned);
    let width = |column: usize| {
        rows.iter().chain([&heading]).map(|row| row[column].chars().count()).max().unwrap_or_default()
    };
    let widths: [usize; N] = std::array::from_fn(width);
    for row in std::iter::once(&heading).chain(rows) {
        let mut line = String::new();
        for (column, text) in row.iter().enumerate() {
            if column > 0 {
                line.push_str("  ");
            }
            let width = widths[column];
            match align[column] {
                Align::Left => line.push_str(&format!("{text:<width$}")),
                Align::Right => line.push_str(&format!("{text:>width$}")),
            }
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::Answer;

    fn written(format: Format, data: &str) -> String {
        let answer: Answer = serde_json::from_str(&format!("{{\"data\":{data}}}")).unwrap();
        let mut out = Vec::new();
        write(&mut out, format, Zone::Utc, &answer.data).unwrap();
        String::from_utf8(out).unwrap()
    }

    const MATRIX: &str = r#"{"resultType":"matrix","result":[{"metric":{"a":"b"},"values":[[60,"1"],[120,"23.5"]]},
        {"metric":{},"values":[[60,"7"]]}]}"#;
    const VECTOR: &str = r#"{"resultType":"vector","result":[{"metric":{"a":"b"},"value":[60,"1"]},
        {"metric":{"a":"c"},"value":[60,"1234"]}]}"#;

    #[test]
    fn metrics_are_tables_for_people() {
        assert_eq!(
            written(Format::Default, MATRIX),
            "{a=\"b\"}\nTIME                      VALUE\n1970-01-01T00:01:00.000Z      1\n\
             1970-01-01T00:02:00.000Z   23.5\n\n{}\nTIME                      VALUE\n1970-01-01T00:01:00.000Z      7\n"
        );
        assert_eq!(written(Format::Default, VECTOR), "VALUE  LABELS\n    1  {a=\"b\"}\n 1234  {a=\"c\"}\n");
        assert_eq!(
            written(Format::Default, r#"{"resultType":"scalar","result":[1,"2"]}"#),
            "VALUE  LABELS\n    2  {}\n"
        );
    }

    #[test]
    fn metrics_are_samples_for_programs() {
        assert_eq!(written(Format::Raw, MATRIX), "1\n23.5\n7\n");
        assert_eq!(
            written(Format::Jsonl, VECTOR).lines().next().unwrap(),
            r#"{"timestamp":"1970-01-01T00:01:00.000000000Z","labels":{"a":"b"},"value":"1"}"#
        );
    }
}
