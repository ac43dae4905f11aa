//! The shape of a table of Skald's: what is written when one is made and checked when one is met.

use std::collections::HashMap;

use deltalake_core::kernel::{
    DataType, MapType, Metadata, PrimitiveType, Protocol, StructField, StructType, new_metadata,
};
use serde::Deserialize;

/// The table property that marks a table as Skald's, and its value in this version.
pub(super) const FORMAT_PROPERTY: &str = "skald.format";
const FORMAT: &str = "1";
const PARTITION_COLUMN: &str = "date";

/// The oldest protocol that has what is needed, so that every Delta reader opens the table.
const READER_VERSION: i32 = 1;
const WRITER_VERSION: i32 = 2;

/// The columns of a block and the partition, in order. Fixed: a new column is a commit of metadata, which fails
/// the flushes in flight. All nullable, as other writers make them; that constrains no reader.
pub(super) fn columns() -> Vec<StructField> {
    let string = || DataType::Primitive(PrimitiveType::String);
    let primitive = |name: &str, kind| StructField::nullable(name, DataType::Primitive(kind));
    vec![
        primitive("timestamp", PrimitiveType::Timestamp),
        primitive("nanos", PrimitiveType::Integer),
        primitive("stream_id", PrimitiveType::Long),
        primitive("labels", PrimitiveType::String),
        primitive("line", PrimitiveType::String),
        StructField::nullable("metadata", DataType::from(MapType::new(string(), string(), true))),
        primitive(PARTITION_COLUMN, PrimitiveType::Date),
    ]
}

/// The protocol of a new table.
pub(super) fn protocol() -> Result<Protocol, String> {
    let value = serde_json::json!({"minReaderVersion": READER_VERSION, "minWriterVersion": WRITER_VERSION});
    serde_json::from_value(value).map_err(|e| e.to_string())
}

/// The metadata of a new table. `log_retention_hours` is for other writers' clean-up; Skald does its own.
pub(super) fn metadata(log_retention_hours: u64) -> Result<Metadata, String> {
    let schema = StructType::try_new(columns()).map_err(|e| e.to_string())?;
    let properties = HashMap::from([
        (FORMAT_PROPERTY, FORMAT.to_owned()),
        ("delta.dataSkippingNumIndexedCols", "3".to_owned()),
        ("delta.logRetentionDuration", format!("interval {log_retention_hours} hours")),
        ("delta.enableExpiredLogCleanup", "false".to_owned()),
    ]);
    new_metadata(&schema, [PARTITION_COLUMN], properties).map_err(|e| e.to_string())
}

/// The part of a `metaData` action that is checked.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct MetadataLine {
    pub(super) schema_string: String,
    #[serde(default)]
    pub(super) partition_columns: Vec<String>,
    #[serde(default)]
    pub(super) configuration: HashMap<String, Option<String>>,
}

/// The part of a `protocol` action that is checked.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ProtocolLine {
    pub(super) min_reader_version: i32,
    pub(super) min_writer_version: i32,
}

impl MetadataLine {
    /// Whether this is a table of ours; the error says what is different.
    pub(super) fn check(&self) -> Result<(), String> {
        match self.configuration.get(FORMAT_PROPERTY).map(Option::as_deref) {
            Some(Some(FORMAT)) => {}
            Some(other) => {
                let other = other.unwrap_or("null");
                return Err(format!(
                    "its property {FORMAT_PROPERTY} is {other:?}, this version knows {FORMAT:?}"
                ));
            }
            None => return Err(format!("it has no property {FORMAT_PROPERTY}")),
        }
        let found: StructType = serde_json::from_str(&self.schema_string)
            .map_err(|e| format!("its schema can't be read: {e}"))?;
        let (found, expected) = (shape(found.fields()), shape(columns().iter()));
        if found != expected {
            return Err(format!("its columns are ({found}) where ({expected}) are expected"));
        }
        if self.partition_columns != [PARTITION_COLUMN] {
            return Err(format!(
                "it is partitioned by {:?}, not by {PARTITION_COLUMN:?}",
                self.partition_columns
            ));
        }
        Ok(())
    }
}

impl ProtocolLine {
    /// Whether this version may read and write the table.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.min_reader_version > READER_VERSION || self.min_writer_version > WRITER_VERSION {
            return Err(format!(
                "its Delta protocol was raised to reader {} and writer {}; Skald keeps to {READER_VERSION} and {WRITER_VERSION}",
                self.min_reader_version, self.min_writer_version
            ));
        }
        Ok(())
    }
}

/// Names and types without the comments and settings that other writers may attach.
fn shape<'a>(fields: impl Iterator<Item = &'a StructField>) -> String {
    fields.map(|f| format!("{} {}", f.name(), f.data_type())).collect::<Vec<_>>().join(", ")
}
