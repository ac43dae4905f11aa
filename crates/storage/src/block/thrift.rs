//! Thrift's compact protocol, as far as Parquet's page headers, page index and footer need it.

use skald_model::labels::put_varint;

use super::error::{Result, corrupt};

const TRUE: u8 = 1;
const FALSE: u8 = 2;
const I32: u8 = 5;
const I64: u8 = 6;
const BINARY: u8 = 8;
const LIST: u8 = 9;
const STRUCT: u8 = 12;

/// The types of list elements that are written.
#[derive(Clone, Copy)]
pub(crate) enum Element {
    Bool,
    I32,
    Binary,
    Struct,
}

/// Writes one struct; nested ones through closures.
pub(crate) struct Writer<'a> {
    out: &'a mut Vec<u8>,
    last: i16,
}

impl<'a> Writer<'a> {
    /// Writes a struct to `out`.
    pub(crate) fn write(out: &'a mut Vec<u8>, fields: impl FnOnce(&mut Writer<'_>)) {
        let mut w = Writer { out, last: 0 };
        fields(&mut w);
        w.out.push(0);
    }

    fn header(&mut self, id: i16, kind: u8) {
        // Ids rise by less than 16 in all structs of Parquet.
        self.out.push(((id - self.last) as u8) << 4 | kind);
        self.last = id;
    }

    pub(crate) fn bool(&mut self, id: i16, v: bool) {
        self.header(id, if v { TRUE } else { FALSE });
    }

    pub(crate) fn i16(&mut self, id: i16, v: i16) {
        self.header(id, 4);
        put_varint(self.out, zigzag(i64::from(v)));
    }

    pub(crate) fn i32(&mut self, id: i16, v: i32) {
        self.header(id, I32);
        put_varint(self.out, zigzag(i64::from(v)));
    }

    pub(crate) fn i64(&mut self, id: i16, v: i64) {
        self.header(id, I64);
        put_varint(self.out, zigzag(v));
    }

    pub(crate) fn binary(&mut self, id: i16, v: &[u8]) {
        self.header(id, BINARY);
        put_varint(self.out, v.len() as u64);
        self.out.extend_from_slice(v);
    }

    pub(crate) fn structure(&mut self, id: i16, fields: impl FnOnce(&mut Writer<'_>)) {
        self.header(id, STRUCT);
        Writer::write(self.out, fields);
    }

    /// A list of `items`; `each` writes one element with the functions of [`Items`].
    pub(crate) fn list<T>(
        &mut self,
        id: i16,
        kind: Element,
        items: impl ExactSizeIterator<Item = T>,
        mut each: impl FnMut(&mut Items<'_>, T),
    ) {
        self.header(id, LIST);
        let kind = match kind {
            Element::Bool => TRUE,
            Element::I32 => I32,
            Element::Binary => BINARY,
            Element::Struct => STRUCT,
        };
        let n = items.len();
        if n < 15 {
            self.out.push((n as u8) << 4 | kind);
        } else {
            self.out.push(0xf0 | kind);
            put_varint(self.out, n as u64);
        }
        let mut target = Items { out: self.out };
        items.for_each(|item| each(&mut target, item));
    }
}

/// Writes the elements of a list.
pub(crate) struct Items<'a> {
    out: &'a mut Vec<u8>,
}

impl Items<'_> {
    pub(crate) fn bool(&mut self, v: bool) {
        self.out.push(if v { TRUE } else { FALSE });
    }
    pub(crate) fn i32(&mut self, v: i32) {
        put_varint(self.out, zigzag(i64::from(v)));
    }
    pub(crate) fn binary(&mut self, v: &[u8]) {
        put_varint(self.out, v.len() as u64);
        self.out.extend_from_slice(v);
    }
    pub(crate) fn structure(&mut self, fields: impl FnOnce(&mut Writer<'_>)) {
        Writer::write(self.out, fields);
    }
}

/// Reads structs field by field.
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// A field's header.
#[derive(Clone, Copy)]
pub(crate) struct Field {
    pub(crate) id: i16,
    kind: u8,
}

/// Deepest nesting that [`Reader::skip`] follows; Parquet's headers need three.
const DEPTH: u32 = 16;

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Bytes read so far.
    pub(crate) fn position(&self) -> usize {
        self.at
    }

    fn byte(&mut self) -> Result<u8> {
        let b = *self.bytes.get(self.at).ok_or_else(|| corrupt("page header", "cut short"))?;
        self.at += 1;
        Ok(b)
    }

    fn varint(&mut self) -> Result<u64> {
        let mut v = 0u64;
        for shift in (0..64).step_by(7) {
            let b = self.byte()?;
            v |= u64::from(b & 0x7f) << shift;
            if b & 0x80 == 0 {
                return Ok(v);
            }
        }
        Err(corrupt("page header", "a number is too long"))
    }

    /// The next field of a struct whose previous field was `last`; `None` at its end.
    pub(crate) fn field(&mut self, last: i16) -> Result<Option<Field>> {
        let b = self.byte()?;
        if b == 0 {
            return Ok(None);
        }
        let id = match b >> 4 {
            0 => unzigzag(self.varint()?) as i16,
            delta => last.wrapping_add(i16::from(delta)),
        };
        Ok(Some(Field { id, kind: b & 0x0f }))
    }

    /// The value of an integer field that must not be negative.
    pub(crate) fn size(&mut self, f: Field) -> Result<usize> {
        if f.kind != I32 {
            return Err(corrupt("page header", format!("field {} is not a 32-bit number", f.id)));
        }
        let v = unzigzag(self.varint()?);
        u32::try_from(v).map(|v| v as usize).map_err(|_| corrupt("page header", format!("a size of {v}")))
    }

    /// The value of any 32-bit field.
    pub(crate) fn i32(&mut self, f: Field) -> Result<i32> {
        if f.kind != I32 {
            return Err(corrupt("page header", format!("field {} is not a 32-bit number", f.id)));
        }
        Ok(unzigzag(self.varint()?) as i32)
    }

    /// Passes over a field's value.
    pub(crate) fn skip(&mut self, f: Field) -> Result<()> {
        self.skip_kind(f.kind, DEPTH)
    }

    fn skip_kind(&mut self, kind: u8, depth: u32) -> Result<()> {
        let depth = depth.checked_sub(1).ok_or_else(|| corrupt("page header", "nested too deep"))?;
        match kind {
            TRUE | FALSE => Ok(()),
            3 => self.byte().map(|_| ()),
            4 | I32 | I64 => self.varint().map(|_| ()),
            7 => self.advance(8),
            BINARY => {
                let n = self.varint()?;
                self.advance(n)
            }
            LIST | 10 => {
                let head = self.byte()?;
                let n = if head >> 4 == 15 { self.varint()? } else { u64::from(head >> 4) };
                for _ in 0..n {
                    match head & 0x0f {
                        TRUE | FALSE => self.advance(1)?,
                        kind => self.skip_kind(kind, depth)?,
                    }
                }
                Ok(())
            }
            STRUCT => {
                let mut last = 0;
                while let Some(f) = self.field(last)? {
                    last = f.id;
                    self.skip_kind(f.kind, depth)?;
                }
                Ok(())
            }
            other => Err(corrupt("page header", format!("a field of unknown type {other}"))),
        }
    }

    fn advance(&mut self, n: u64) -> Result<()> {
        let left = (self.bytes.len() - self.at) as u64;
        if n > left {
            return Err(corrupt("page header", "cut short"));
        }
        self.at += n as usize;
        Ok(())
    }
}

/// Maps small negative numbers to small positive ones.
pub(crate) fn zigzag(v: i64) -> u64 {
    ((v << 1) ^ (v >> 63)) as u64
}

/// The inverse of [`zigzag`].
pub(crate) fn unzigzag(v: u64) -> i64 {
    (v >> 1) as i64 ^ -((v & 1) as i64)
}
