//! Patterns on disk: one small file beside the log, so that they outlive a restart.
//!
//! ```text
//! "SKPT" · u8 version (1) · u64 length of the body (LE) · body · u32 CRC-32 of the body (LE)
//! body: varint LSN · varint tenants · per tenant: text id · varint streams · per stream: u64 id (LE), text labels (packed)
//!       varint services · per service: text name · varint templates · per template: text, varint tokens, (varint end, u8 kind)*
//!       varint series · per series: u64 stream (LE), varint template, u8 level, three times: varint points,
//!       (varint distance to the unit before, varint count)*
//! ```
//!
//! What is not well formed is ignored as a whole: patterns are a convenience, and entries are stored elsewhere.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use rustc_hash::FxHashMap;
use skald_model::labels::{get_varint, put_varint};
use skald_model::{Labels, StreamId, TenantId};

use super::Config;
use super::counts::Series;
use super::miner::{Key, LEVELS, Miner, Service, Tenant};
use super::tokens::{Kind, TOKENS_MAX};
use super::tree::{Id, Template};

const MAGIC: &[u8; 4] = b"SKPT";
const VERSION: u8 = 1;
const HEAD: usize = 13;

/// Where the file lies.
pub(super) fn path(dir: &Path) -> PathBuf {
    dir.join("patterns")
}

/// Writes `encoded` so that a crash leaves the old file or the new one.
pub(super) fn write(path: &Path, encoded: &[u8]) -> std::io::Result<()> {
    let new = path.with_extension("new");
    let mut file = std::fs::File::create(&new)?;
    file.write_all(encoded)?;
    file.sync_all()?;
    std::fs::rename(new, path)
}

/// Everything a miner knows.
pub(super) fn encode(miner: &Miner) -> Vec<u8> {
    let mut body = Vec::new();
    put_varint(&mut body, miner.lsn);
    put_varint(&mut body, miner.tenants.len() as u64);
    for (id, tenant) in &miner.tenants {
        put_text(&mut body, id.as_str().as_bytes());
        put_varint(&mut body, tenant.streams.len() as u64);
        for (id, labels) in &tenant.streams {
            body.extend_from_slice(&id.0.to_le_bytes());
            put_text(&mut body, labels.packed());
        }
        put_varint(&mut body, tenant.services.len() as u64);
        for (name, service) in &tenant.services {
            put_text(&mut body, name.as_bytes());
            put_service(&mut body, service);
        }
    }
    let mut out = Vec::with_capacity(HEAD + body.len() + 4);
    out.extend_from_slice(MAGIC);
    out.push(VERSION);
    out.extend_from_slice(&(body.len() as u64).to_le_bytes());
    out.extend_from_slice(&body);
    out.extend_from_slice(&crc32fast::hash(&body).to_le_bytes());
    out
}

fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    put_varint(out, text.len() as u64);
    out.extend_from_slice(text);
}

fn put_service(out: &mut Vec<u8>, service: &Service) {
    let mut numbers: FxHashMap<Id, u64> = FxHashMap::default();
    let mut templates = Vec::new();
    let kept = |key: &Key| service.tree.get(key.template);
    for key in service.series.keys() {
        if let Some(template) = kept(key) {
            let next = numbers.len() as u64;
            numbers.entry(key.template).or_insert_with(|| {
                templates.push(template);
                next
            });
        }
    }
    put_varint(out, templates.len() as u64);
    for template in templates {
        let (text, tokens) = template.parts();
        put_text(out, text);
        put_varint(out, tokens.len() as u64);
        for (end, kind) in tokens {
            put_varint(out, u64::from(*end));
            out.push(match kind {
                Kind::Word => 0,
                Kind::Gap => 1,
                Kind::Variable => 2,
            });
        }
    }
    let series = || service.series.iter().filter_map(|(key, s)| Some((key, numbers.get(&key.template)?, s)));
    put_varint(out, series().count() as u64);
    for (key, number, series) in series() {
        out.extend_from_slice(&key.stream.0.to_le_bytes());
        put_varint(out, *number);
        out.push(key.level);
        for points in series.layers() {
            put_varint(out, points.len() as u64);
            let mut before = 0;
            for (unit, count) in points {
                put_varint(out, u64::from(unit - before));
                put_varint(out, u64::from(*count));
                before = *unit;
            }
        }
    }
}

/// The miner that `bytes` are of; `None` if they are not well formed.
pub(super) fn decode(bytes: &[u8], config: &Config) -> Option<Miner> {
    let (head, rest) = bytes.split_at_checked(HEAD)?;
    let length = u64::from_le_bytes(head.get(5..)?.try_into().ok()?);
    if &head[..4] != MAGIC || head[4] != VERSION || rest.len() as u64 != length.checked_add(4)? {
        return None;
    }
    let (body, crc) = rest.split_at(rest.len() - 4);
    if crc32fast::hash(body).to_le_bytes() != crc {
        return None;
    }
    let mut miner = Miner::new(config.clone());
    let mut reader = Reader(body);
    miner.lsn = reader.number()?;
    for _ in 0..reader.number()? {
        let id = TenantId::new(std::str::from_utf8(reader.text()?).ok()?).ok()?;
        let mut tenant = Tenant::default();
        for _ in 0..reader.number()? {
            let id = StreamId(reader.fixed()?);
            tenant.streams.insert(id, Labels::from_packed(reader.text()?)?);
        }
        for _ in 0..reader.number()? {
            let name = std::str::from_utf8(reader.text()?).ok()?;
            let service = reader.service(config)?;
            tenant.services.insert(name.into(), service);
        }
        miner.tenants.insert(id, tenant);
    }
    reader.0.is_empty().then_some(miner)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn number(&mut self) -> Option<u64> {
        let (number, rest) = get_varint(self.0)?;
        self.0 = rest;
        Some(number)
    }

    fn small(&mut self) -> Option<u32> {
        u32::try_from(self.number()?).ok()
    }

    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    fn fixed(&mut self) -> Option<u64> {
        let (bytes, rest) = self.0.split_first_chunk::<8>()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*bytes))
    }

    fn text(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(text)
    }

    fn service(&mut self, config: &Config) -> Option<Service> {
        let mut service = Service::default();
        let mut ids = Vec::new();
        for _ in 0..self.number()? {
            let text = self.text()?.to_vec();
            let mut tokens = Vec::new();
            for _ in 0..self.number()?.min(2 * TOKENS_MAX as u64) {
                let end = self.small()?;
                let kind = match self.byte()? {
                    0 => Kind::Word,
                    1 => Kind::Gap,
                    _ => Kind::Variable,
                };
                tokens.push((end, kind));
            }
            ids.push(service.tree.restore(Template::from_parts(text, tokens)?, config.max_clusters));
        }
        for _ in 0..self.number()? {
            let stream = StreamId(self.fixed()?);
            let template = *ids.get(usize::try_from(self.number()?).ok()?)?;
            let level = self.byte()?.min(LEVELS.len() as u8 - 1);
            let mut layers: [Vec<(u32, u32)>; 3] = Default::default();
            for points in &mut layers {
                let mut unit = 0u32;
                for _ in 0..self.number()? {
                    unit = unit.checked_add(self.small()?)?;
                    points.push((unit, self.small()?));
                }
            }
            service.series.insert(Key { stream, template, level }, Series::from_layers(layers));
        }
        Some(service)
    }
}
