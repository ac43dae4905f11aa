//! Reading checkpoints: the state of a table at one version as Parquet, one action per row.
//!
//! Only the few columns that planning needs are read. They are written through `deltalake-core`.

use bytes::Bytes;
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Map, Row};
use parquet::schema::types::Type;
use serde::Deserialize;

use super::log::{Replayed, Unacceptable, is_block_tag};
use super::schema::{MetadataLine, ProtocolLine};

/// The actions and their fields that are read.
const COLUMNS: [(&str, &[&str]); 4] = [
    ("txn", &["appId", "version"]),
    ("add", &["path", "partitionValues", "tags"]),
    ("metaData", &["schemaString", "partitionColumns", "configuration"]),
    ("protocol", &["minReaderVersion", "minWriterVersion"]),
];

/// What `_last_checkpoint` says, as far as it is of interest.
#[derive(Debug, Deserialize)]
pub(super) struct LastCheckpoint {
    pub(super) version: i64,
}

/// Reads the file of a checkpoint, or of a part of one, into `replayed`.
pub(super) fn read(file: Bytes, replayed: &mut Replayed) -> Result<(), Unacceptable> {
    let damaged = |e: ParquetError| Unacceptable::Damaged(format!("checkpoint: {e}"));
    let reader = SerializedFileReader::new(file).map_err(damaged)?;
    let projection = projection(reader.metadata().file_metadata().schema()).map_err(damaged)?;
    for row in reader.get_row_iter(Some(projection)).map_err(damaged)? {
        action(&row.map_err(damaged)?, replayed)?;
    }
    Ok(())
}

/// The part of `schema` that is in [`COLUMNS`].
fn projection(schema: &Type) -> Result<Type, ParquetError> {
    let mut columns = Vec::new();
    for column in schema.get_fields() {
        let Some((_, wanted)) = COLUMNS.iter().find(|(name, _)| *name == column.name()) else { continue };
        let fields: Vec<_> =
            column.get_fields().iter().filter(|f| wanted.contains(&f.name())).cloned().collect();
        let group = Type::group_type_builder(column.name())
            .with_repetition(column.get_basic_info().repetition())
            .with_fields(fields)
            .build()?;
        columns.push(std::sync::Arc::new(group));
    }
    Type::group_type_builder(schema.name()).with_fields(columns).build()
}

fn action(row: &Row, replayed: &mut Replayed) -> Result<(), Unacceptable> {
    for (name, field) in row.get_column_iter() {
        let Field::Group(fields) = field else { continue };
        match name.as_str() {
            "add" => {
                let date = map_value(fields, "partitionValues", |key| key == "date");
                let tag = map_value(fields, "tags", is_block_tag);
                replayed.add(text(fields, "path")?, date, tag)?;
            }
            "txn" => replayed.txn(text(fields, "appId")?.to_owned(), number(fields, "version")?),
            "metaData" => replayed.metadata(&metadata(fields)?)?,
            "protocol" => replayed.protocol(&ProtocolLine {
                min_reader_version: number(fields, "minReaderVersion")? as i32,
                min_writer_version: number(fields, "minWriterVersion")? as i32,
            })?,
            _ => {}
        }
    }
    Ok(())
}

fn metadata(fields: &Row) -> Result<MetadataLine, Unacceptable> {
    let partition_columns = match field(fields, "partitionColumns") {
        Some(Field::ListInternal(list)) => {
            list.elements().iter().filter_map(as_text).map(str::to_owned).collect()
        }
        _ => Vec::new(),
    };
    let configuration = match field(fields, "configuration") {
        Some(Field::MapInternal(map)) => {
            pairs(map).map(|(k, v)| (k.to_owned(), v.map(str::to_owned))).collect()
        }
        _ => Default::default(),
    };
    Ok(MetadataLine {
        schema_string: text(fields, "schemaString")?.to_owned(),
        partition_columns,
        configuration,
    })
}

fn field<'a>(row: &'a Row, name: &str) -> Option<&'a Field> {
    row.get_column_iter().find(|(n, _)| *n == name).map(|(_, field)| field)
}

fn as_text(field: &Field) -> Option<&str> {
    match field {
        Field::Str(text) => Some(text),
        _ => None,
    }
}

fn text<'a>(row: &'a Row, name: &str) -> Result<&'a str, Unacceptable> {
    field(row, name)
        .and_then(as_text)
        .ok_or_else(|| Unacceptable::Damaged(format!("checkpoint: an action has no {name}")))
}

fn number(row: &Row, name: &str) -> Result<i64, Unacceptable> {
    match field(row, name) {
        Some(Field::Int(n)) => Ok(i64::from(*n)),
        Some(Field::Long(n)) => Ok(*n),
        _ => Err(Unacceptable::Damaged(format!("checkpoint: an action has no {name}"))),
    }
}

fn pairs(map: &Map) -> impl Iterator<Item = (&str, Option<&str>)> {
    map.entries().iter().filter_map(|(k, v)| Some((as_text(k)?, as_text(v))))
}

fn map_value<'a>(row: &'a Row, name: &str, key: impl Fn(&str) -> bool) -> Option<&'a str> {
    let Some(Field::MapInternal(map)) = field(row, name) else { return None };
    pairs(map).find(|(k, _)| key(k)).and_then(|(_, v)| v)
}
