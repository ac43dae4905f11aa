//! Writes the page index and the footer.

use super::format::{
    Column, Encoding, KEY_PAGES, KEY_VERSION, MAGIC, PageTableCrc, READ_COLUMNS, Section, VERSION,
};
use super::thrift::{Element, Items, Writer};

const CODEC_NONE: i32 = 0;
const CODEC_ZSTD: i32 = 6;
const CREATED_BY: &str = concat!("skald version ", env!("CARGO_PKG_VERSION"));

/// A page as the offset index tells it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WrittenPage {
    /// First byte; while a row group is being built, counted from the start of the column's first data page.
    pub(crate) offset: u64,
    /// Bytes with the header.
    pub(crate) size: u32,
    /// First row, counted from the row group's.
    pub(crate) first_row: u64,
}

/// The smallest and the largest value of a page or of a column chunk, in Parquet's plain encoding.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bounds {
    pub(crate) min: Vec<u8>,
    pub(crate) max: Vec<u8>,
    /// Whether they are values and not shortened ones.
    pub(crate) exact: bool,
}

/// A column chunk that has been written.
#[derive(Clone, Debug)]
pub(crate) struct WrittenChunk {
    pub(crate) column: Column,
    pub(crate) values: u64,
    pub(crate) raw_bytes: u64,
    pub(crate) stored_bytes: u64,
    pub(crate) dictionary_offset: Option<u64>,
    pub(crate) pages: Vec<WrittenPage>,
    /// Of the whole chunk and of each page, where they are worth their bytes.
    pub(crate) bounds: Option<(Bounds, Vec<Bounds>)>,
}

/// A row group that has been written.
#[derive(Clone, Debug)]
pub(crate) struct WrittenRowGroup {
    pub(crate) rows: u64,
    pub(crate) chunks: Vec<WrittenChunk>,
}

/// Appends everything from the column index to the end of the file to `out`, which will lie at `position`.
pub(crate) fn write(
    out: &mut Vec<u8>,
    position: u64,
    groups: &[WrittenRowGroup],
    sections: &[(&'static str, Section)],
) {
    let mut places = Vec::new();
    let chunks = || groups.iter().flat_map(|g| &g.chunks);
    for chunk in chunks() {
        let start = out.len();
        if let Some((_, pages)) = &chunk.bounds {
            write_column_index(out, pages);
        }
        places.push(IndexPlace { column: place(position, start, out.len()), offset: (0, 0) });
    }
    for (chunk, place_of) in chunks().zip(&mut places) {
        let start = out.len();
        write_offset_index(out, &chunk.pages);
        place_of.offset = place(position, start, out.len());
    }
    let start = out.len();
    write_metadata(out, groups, &places, sections);
    out.extend_from_slice(&((out.len() - start) as u32).to_le_bytes());
    out.extend_from_slice(MAGIC);
}

/// Where the two indexes of a column chunk lie: offset and length.
struct IndexPlace {
    column: (i64, i32),
    offset: (i64, i32),
}

fn place(position: u64, start: usize, end: usize) -> (i64, i32) {
    ((position + start as u64) as i64, (end - start) as i32)
}

fn write_column_index(out: &mut Vec<u8>, pages: &[Bounds]) {
    Writer::write(out, |w| {
        w.list(1, Element::Bool, pages.iter(), |i, _| i.bool(false));
        w.list(2, Element::Binary, pages.iter(), |i, p| i.binary(&p.min));
        w.list(3, Element::Binary, pages.iter(), |i, p| i.binary(&p.max));
        // Streams follow each other, so nothing is in order over the whole chunk.
        w.i32(4, 0);
    });
}

fn write_offset_index(out: &mut Vec<u8>, pages: &[WrittenPage]) {
    Writer::write(out, |w| {
        w.list(1, Element::Struct, pages.iter(), |i, p| {
            i.structure(|w| {
                w.i64(1, p.offset as i64);
                w.i32(2, p.size as i32);
                w.i64(3, p.first_row as i64);
            });
        });
    });
}

fn write_metadata(
    out: &mut Vec<u8>,
    groups: &[WrittenRowGroup],
    places: &[IndexPlace],
    sections: &[(&'static str, Section)],
) {
    let mut pairs = vec![(KEY_VERSION, VERSION.to_string()), (KEY_PAGES, page_table_crc(groups).to_string())];
    pairs.extend(sections.iter().map(|(key, place)| (*key, place.to_text())));
    let mut places = places.iter();
    Writer::write(out, |w| {
        w.i32(1, 2);
        w.list(2, Element::Struct, 0..SCHEMA.len(), |i, n| write_schema_element(i, &SCHEMA[n]));
        w.i64(3, groups.iter().map(|g| g.rows as i64).sum());
        w.list(4, Element::Struct, groups.iter().enumerate(), |i, (ordinal, g)| {
            i.structure(|w| write_row_group(w, ordinal, g, &mut places));
        });
        w.list(5, Element::Struct, pairs.iter(), |i, (key, value)| {
            i.structure(|w| {
                w.binary(1, key.as_bytes());
                w.binary(2, value.as_bytes());
            });
        });
        w.binary(6, CREATED_BY.as_bytes());
        w.list(7, Element::Struct, Column::ALL.iter(), |i, _| i.structure(|w| w.structure(1, |_| {})));
    });
}

fn page_table_crc(groups: &[WrittenRowGroup]) -> u32 {
    let mut crc = PageTableCrc::default();
    let chunks = |column: Column| groups.iter().map(move |g| &g.chunks[column as usize]);
    for column in READ_COLUMNS {
        let mut group_row = 0;
        for (chunk, group) in chunks(column).zip(groups) {
            let pages = chunk.pages.iter();
            pages.for_each(|p| crc.page(p.offset, p.size, (group_row + p.first_row) as u32));
            group_row += group.rows;
        }
    }
    let number = |b: &[u8]| u64::from_le_bytes(b.try_into().unwrap_or_default());
    for bounds in chunks(Column::Timestamp).filter_map(|c| c.bounds.as_ref()) {
        bounds.1.iter().for_each(|b| crc.numbers(&[number(&b.min), number(&b.max)]));
    }
    for start in chunks(Column::Nanos).filter_map(|c| c.dictionary_offset) {
        crc.numbers(&[start]);
    }
    crc.finish()
}

fn write_row_group<'a>(
    w: &mut Writer<'_>,
    ordinal: usize,
    group: &WrittenRowGroup,
    places: &mut impl Iterator<Item = &'a IndexPlace>,
) {
    let raw: u64 = group.chunks.iter().map(|c| c.raw_bytes).sum();
    let stored: u64 = group.chunks.iter().map(|c| c.stored_bytes).sum();
    let first = group.chunks.iter().map(first_offset).min().unwrap_or(0);
    w.list(1, Element::Struct, group.chunks.iter(), |i, chunk| {
        let place = places.next();
        i.structure(|w| {
            w.i64(2, 0);
            w.structure(3, |w| write_column(w, chunk));
            if let Some(p) = place {
                w.i64(4, p.offset.0);
                w.i32(5, p.offset.1);
                if p.column.1 > 0 {
                    w.i64(6, p.column.0);
                    w.i32(7, p.column.1);
                }
            }
        });
    });
    w.i64(2, raw as i64);
    w.i64(3, group.rows as i64);
    w.i64(5, first as i64);
    w.i64(6, stored as i64);
    w.i16(7, ordinal as i16);
}

fn first_offset(chunk: &WrittenChunk) -> u64 {
    chunk.dictionary_offset.unwrap_or_else(|| chunk.pages.first().map_or(0, |p| p.offset))
}

fn write_column(w: &mut Writer<'_>, chunk: &WrittenChunk) {
    let c = chunk.column;
    let mut encodings = match c {
        Column::Timestamp => vec![Encoding::DeltaBinaryPacked],
        _ if c.has_dictionary() => vec![Encoding::Plain, Encoding::RleDictionary],
        _ => vec![Encoding::DeltaLengthByteArray],
    };
    encodings.push(Encoding::Rle);
    w.i32(1, c.physical() as i32);
    w.list(2, Element::I32, encodings.iter(), |i, e| i.i32(*e as i32));
    w.list(3, Element::Binary, c.path().iter(), |i, p| i.binary(p.as_bytes()));
    w.i32(4, if c.is_compressed() { CODEC_ZSTD } else { CODEC_NONE });
    w.i64(5, chunk.values as i64);
    w.i64(6, chunk.raw_bytes as i64);
    w.i64(7, chunk.stored_bytes as i64);
    w.i64(9, chunk.pages.first().map_or(0, |p| p.offset as i64));
    if let Some(offset) = chunk.dictionary_offset {
        w.i64(11, offset as i64);
    }
    if let Some((bounds, _)) = &chunk.bounds {
        w.structure(12, |w| {
            w.i64(3, 0);
            w.binary(5, &bounds.max);
            w.binary(6, &bounds.min);
            w.bool(7, bounds.exact);
            w.bool(8, bounds.exact);
        });
    }
}

/// An element of the flattened schema.
struct SchemaElement {
    name: &'static str,
    /// Physical type of a leaf.
    physical: Option<i32>,
    /// 0 required, 2 repeated; none for the root.
    repetition: Option<i32>,
    children: Option<i32>,
    /// Parquet's older and newer word for what the values mean.
    converted: Option<i32>,
    logical: Option<Logical>,
}

#[derive(Clone, Copy)]
enum Logical {
    String,
    Map,
    TimestampMicros,
}

const fn leaf(name: &'static str, physical: i32) -> SchemaElement {
    SchemaElement {
        name,
        physical: Some(physical),
        repetition: Some(0),
        children: None,
        converted: None,
        logical: None,
    }
}

const fn string(name: &'static str) -> SchemaElement {
    SchemaElement { converted: Some(0), logical: Some(Logical::String), ..leaf(name, 6) }
}

const fn group(name: &'static str, repetition: Option<i32>, children: i32) -> SchemaElement {
    SchemaElement {
        name,
        physical: None,
        repetition,
        children: Some(children),
        converted: None,
        logical: None,
    }
}

/// The fixed schema of version 1.
const SCHEMA: [SchemaElement; 10] = [
    group("schema", None, 6),
    SchemaElement { converted: Some(10), logical: Some(Logical::TimestampMicros), ..leaf("timestamp", 2) },
    leaf("nanos", 1),
    leaf("stream_id", 2),
    string("labels"),
    string("line"),
    SchemaElement { converted: Some(1), logical: Some(Logical::Map), ..group("metadata", Some(0), 1) },
    group("key_value", Some(2), 2),
    string("key"),
    string("value"),
];

fn write_schema_element(items: &mut Items<'_>, e: &SchemaElement) {
    items.structure(|w| {
        if let Some(v) = e.physical {
            w.i32(1, v);
        }
        if let Some(v) = e.repetition {
            w.i32(3, v);
        }
        w.binary(4, e.name.as_bytes());
        if let Some(v) = e.children {
            w.i32(5, v);
        }
        if let Some(v) = e.converted {
            w.i32(6, v);
        }
        match e.logical {
            Some(Logical::String) => w.structure(10, |w| w.structure(1, |_| {})),
            Some(Logical::Map) => w.structure(10, |w| w.structure(2, |_| {})),
            Some(Logical::TimestampMicros) => w.structure(10, |w| {
                w.structure(8, |w| {
                    w.bool(1, true);
                    w.structure(2, |w| w.structure(2, |_| {}));
                });
            }),
            None => {}
        }
    });
}
