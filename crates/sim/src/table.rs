//! The table as any reader of Parquet sees it.

use bytes::Bytes;
use object_store::ObjectStore as _;
use object_store::memory::InMemory;
use object_store::path::Path;
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::record::{Field, Row};
use skald_model::TenantId;
use skald_storage::block::BlockMeta;
use skald_storage::table::Snapshot;

use crate::history::{APPS, Entry, number_of};

/// All rows of the blocks of `snapshot`, with repetitions.
pub(crate) async fn rows(
    store: &InMemory,
    tenant: &TenantId,
    snapshot: &Snapshot,
) -> Result<Vec<Entry>, String> {
    let mut rows = Vec::new();
    for block in snapshot.blocks.iter() {
        let path = &block.path;
        let location = Path::from(format!("{}/{path}", tenant.as_str()));
        let file = async { store.get_opts(&location, Default::default()).await?.bytes().await };
        let file = file.await.map_err(|e| format!("{path}: {e}"))?;
        let before = rows.len();
        read(&file, &mut rows).map_err(|e| format!("{path}: {e}"))?;
        let meta = BlockMeta::parse(&file, file.len() as u64).map_err(|e| format!("{path}: {e}"))?;
        if meta.rows() as usize != rows.len() - before {
            return Err(format!(
                "{path} says it has {} rows, Parquet finds {}",
                meta.rows(),
                rows.len() - before
            ));
        }
    }
    Ok(rows)
}

fn read(file: &Bytes, into: &mut Vec<Entry>) -> Result<(), String> {
    let reader = SerializedFileReader::new(file.clone()).map_err(|e| e.to_string())?;
    for row in reader.get_row_iter(None).map_err(|e| e.to_string())? {
        let row = row.map_err(|e| e.to_string())?;
        into.push(entry(&row).ok_or_else(|| format!("a row is not what was pushed: {row}"))?);
    }
    Ok(())
}

fn entry(row: &Row) -> Option<Entry> {
    let field = |name: &str| row.get_column_iter().find(|(n, _)| *n == name).map(|(_, field)| field);
    let micros = match field("timestamp")? {
        Field::TimestampMicros(micros) | Field::Long(micros) => *micros,
        _ => return None,
    };
    let Field::Int(nanos) = field("nanos")? else { return None };
    let text = |name| match field(name) {
        Some(Field::Str(text)) => Some(text.as_bytes()),
        Some(Field::Bytes(bytes)) => Some(bytes.data()),
        _ => None,
    };
    let labels = std::str::from_utf8(text("labels")?).ok()?;
    let app = APPS.iter().position(|app| labels.contains(&format!("\"app\":\"{app}\"")))?;
    Some(Entry { number: number_of(text("line")?)?, app, timestamp: micros * 1000 + i64::from(*nanos) })
}
