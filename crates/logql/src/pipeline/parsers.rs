//! The parsers: json, logfmt, regexp, pattern, unpack.

use rustc_hash::FxHashMap;
use skald_model::regex::Regex;

use super::json_scan::{
    self, ARRAY, ESCAPE, Kind, MALFORMED, OBJECT, Visit, block_end, skip_space, string_end, unescape,
};
use super::labels::{Category, EntryState, NameId, sanitize};
use super::logfmt_scan::{Scanner, Value};
use super::path::Step;
use super::pattern::Pattern;
use super::{Filter, Hints};

const JSON_ERROR: &str = "JSONParserErr";
const LOGFMT_ERROR: &str = "LogfmtParserErr";
/// The key whose value an unpacked line is.
const PACKED_ENTRY: &[u8] = b"_entry";

/// A compiled parser.
#[derive(Debug)]
pub(crate) enum Parser {
    Json,
    JsonPaths(Vec<(NameId, Vec<Step>)>),
    Logfmt {
        strict: bool,
        keep_empty: bool,
    },
    /// Labels with the key that each takes its value from.
    LogfmtKeys {
        strict: bool,
        keys: Vec<(NameId, String)>,
    },
    /// The label of each group, by number of the group.
    Regexp(Regex, Vec<(usize, NameId)>),
    Pattern(Pattern, Vec<NameId>),
    Unpack,
}

/// How a parser left the entry.
pub(crate) enum Outcome {
    Done,
    /// A later filter cannot pass any more.
    Drop,
    /// The line is now in the buffer that was handed in.
    NewLine,
}

/// What a parser remembers of the keys it has met.
#[derive(Debug, Default)]
pub(crate) struct ParserCache {
    /// Per object that a key lies in (the first is the line's own) its keys.
    objects: Vec<Keys>,
    captures: Option<regex_automata::util::captures::Captures>,
    scratch: Vec<u8>,
}

/// The keys of one object.
#[derive(Debug, Default)]
struct Keys {
    known: Vec<(Box<[u8]>, Key)>,
    index: FxHashMap<Box<[u8]>, u32>,
    /// Which key stood where in the last object: lines that are made alike need no look-up.
    order: Vec<u32>,
}

/// A key that was met.
#[derive(Clone, Copy, Debug)]
struct Key {
    /// The label's name; `None` if nothing is left of it.
    name: Option<NameId>,
    /// The object's number in the cache, if the key was one.
    object: Option<u32>,
    /// Whether the label may be wanted.
    relevant: bool,
    /// Whether anything under it may be wanted, if it is an object.
    wanted: bool,
}

/// Objects in objects are read so deep; what is deeper makes no labels.
const MAX_DEPTH: usize = 64;

/// What ends a walk early.
enum Stop {
    Error(&'static str),
    /// A filter failed.
    Drop,
    /// Nothing more is wanted.
    Enough,
}

impl From<&'static str> for Stop {
    fn from(e: &'static str) -> Self {
        Stop::Error(e)
    }
}

/// Puts labels into the state as far as they are wanted.
struct Extractor<'a> {
    state: &'a mut EntryState,
    hints: &'a Hints,
    /// How many wanted labels are still missing; never zero if all are wanted.
    missing: usize,
}

impl<'a> Extractor<'a> {
    fn new(state: &'a mut EntryState, hints: &'a Hints) -> Self {
        let missing = match &hints.needs {
            None => usize::MAX,
            Some(needs) => needs.iter().filter(|id| state.category(**id).is_none()).count(),
        };
        Self { state, hints, missing }
    }

    /// The label that a key becomes, if it is wanted and not there yet.
    fn wanted(&mut self, name: NameId) -> Option<NameId> {
        let id = self.state.parsed_name(name);
        let wanted = self.hints.needs.as_ref().is_none_or(|needs| needs.contains(&id));
        (wanted && !self.state.is_parsed(id)).then_some(id)
    }

    /// Sets a label and says whether to go on.
    fn set(&mut self, id: NameId, value: &[u8]) -> Result<(), Stop> {
        self.state.set(Category::Parsed, id, value);
        if !self.passes(id) {
            return Err(Stop::Drop);
        }
        if self.hints.needs.is_some() {
            self.missing = self.missing.saturating_sub(1);
            if self.missing == 0 {
                return Err(Stop::Enough);
            }
        }
        Ok(())
    }

    fn passes(&mut self, id: NameId) -> bool {
        let filter: Option<&Filter> = self.hints.filters.iter().find(|(n, _)| *n == id).map(|(_, f)| f);
        filter.is_none_or(|f| f.matches(self.state))
    }
}

impl Parser {
    /// Runs over `line`; `spare` is an empty buffer for a new line.
    pub(crate) fn run(
        &self,
        line: &[u8],
        state: &mut EntryState,
        cache: &mut ParserCache,
        hints: &Hints,
        spare: &mut Vec<u8>,
    ) -> Outcome {
        let mut extractor = Extractor::new(state, hints);
        if extractor.missing == 0 && !matches!(self, Parser::Unpack) {
            return Outcome::Done;
        }
        let result = match self {
            Parser::Json => json(line, &mut extractor, cache),
            Parser::JsonPaths(paths) => {
                json_paths(line, paths, &mut extractor, &mut cache.scratch);
                Ok(())
            }
            Parser::Logfmt { strict, keep_empty } => {
                logfmt(line, *strict, *keep_empty, &mut extractor, cache)
            }
            Parser::LogfmtKeys { strict, keys } => logfmt_keys(line, *strict, keys, &mut extractor, cache),
            Parser::Regexp(regex, groups) => regexp(line, regex, groups, &mut extractor, cache),
            Parser::Pattern(pattern, names) => {
                let mut result = Ok(());
                pattern.captures(line, |i, value| {
                    if let Some(id) = extractor.wanted(names[i]) {
                        result = extractor.set(id, value);
                    }
                    result.is_ok()
                });
                result
            }
            Parser::Unpack => return unpack(line, &mut extractor, cache, spare),
        };
        match result {
            Ok(()) | Err(Stop::Enough) => Outcome::Done,
            Err(Stop::Drop) => Outcome::Drop,
            Err(Stop::Error(e)) => {
                state.fail(JSON_ERROR, Some(e));
                Outcome::Done
            }
        }
    }
}

impl ParserCache {
    /// The key `raw` at `position` of an object, with its number there. Names of objects around it are joined by `_`.
    fn key(
        &mut self,
        object: u32,
        position: usize,
        prefix: Option<NameId>,
        raw: &[u8],
        x: &mut Extractor<'_>,
    ) -> (u32, Key) {
        let place = object as usize;
        if self.objects.len() <= place {
            self.objects.resize_with(place + 1, Keys::default);
        }
        let keys = &mut self.objects[place];
        if let Some(i) = keys.order.get(position) {
            let (known, key) = &keys.known[*i as usize];
            if **known == *raw {
                return (*i, *key);
            }
        }
        let i = match keys.index.get(raw) {
            Some(i) => *i,
            None => {
                let key = Key::new(prefix, raw, x);
                keys.known.push((raw.into(), key));
                keys.index.insert(raw.into(), keys.known.len() as u32 - 1);
                keys.known.len() as u32 - 1
            }
        };
        if position < keys.order.len() {
            keys.order[position] = i;
        } else if position == keys.order.len() {
            keys.order.push(i);
        }
        (i, keys.known[i as usize].1)
    }

    /// The number of the object that key `i` of `object` is.
    fn object(&mut self, object: u32, i: u32) -> u32 {
        let next = self.objects.len() as u32;
        let key = &mut self.objects[object as usize].known[i as usize].1;
        let number = *key.object.get_or_insert(next);
        if number == next {
            self.objects.push(Keys::default());
        }
        number
    }
}

impl Key {
    fn new(prefix: Option<NameId>, raw: &[u8], x: &mut Extractor<'_>) -> Self {
        let text = String::from_utf8_lossy(raw);
        let own = sanitize(&text, prefix.is_none());
        let name = match prefix {
            _ if own.is_empty() => None,
            None => Some(own),
            Some(prefix) => Some(format!("{}_{own}", x.state.names.name(prefix))),
        };
        let Some(name) = name else {
            return Key { name: None, object: None, relevant: false, wanted: false };
        };
        let id = x.state.names.id(&name);
        let (relevant, wanted) = match &x.hints.needs {
            None => (true, true),
            Some(needs) => {
                let extracted = x.state.names.extracted(id);
                // An object is passed over if no wanted name begins with its own.
                let begins = format!("{name}_");
                (
                    needs.contains(&id) || needs.contains(&extracted),
                    needs.iter().any(|id| x.state.names.name(*id).starts_with(&begins)),
                )
            }
        };
        Key { name: Some(id), object: None, relevant, wanted }
    }
}

/// Reads the object that the line is.
fn json(data: &[u8], x: &mut Extractor<'_>, cache: &mut ParserCache) -> Result<(), Stop> {
    match skip_space(data, 0) {
        Some(at) if data[at] == b'{' => json_object(data, at + 1, x, cache, (0, None), 0).map(|_| ()),
        _ => Err(Stop::Error(OBJECT)),
    }
}

/// Reads an object after its brace, and returns the index after it. Objects inside are read on the way.
fn json_object(
    data: &[u8],
    start: usize,
    x: &mut Extractor<'_>,
    cache: &mut ParserCache,
    (object, prefix): (u32, Option<NameId>),
    depth: usize,
) -> Result<usize, Stop> {
    let mut at = skip_space(data, start).ok_or(MALFORMED)?;
    if data[at] == b'}' {
        return Ok(at + 1);
    }
    let mut unescaped = Vec::new();
    for position in 0.. {
        match data[at] {
            b'"' => at += 1,
            b'}' => return Ok(at + 1),
            _ => return Err(Stop::Error(OBJECT)),
        }
        let (end, escaped) = string_end(data, at).ok_or(MALFORMED)?;
        let mut raw = &data[at..end - 1];
        let colon = skip_space(data, end).ok_or(MALFORMED)?;
        if escaped {
            unescaped.clear();
            if !unescape(raw, &mut unescaped) {
                return Err(Stop::Error(ESCAPE));
            }
            raw = &unescaped;
        }
        if data[colon] != b':' {
            return Err(Stop::Error(MALFORMED));
        }
        let (i, key) = cache.key(object, position, prefix, raw, x);
        let begin = skip_space(data, colon + 1).ok_or(MALFORMED)?;
        at = match (data[begin], key.name) {
            (b'{', Some(name)) if key.wanted && depth < MAX_DEPTH => {
                let inner = match key.object {
                    Some(inner) => inner,
                    None => cache.object(object, i),
                };
                let before = x.state.touched();
                match json_object(data, begin + 1, x, cache, (inner, Some(name)), depth + 1) {
                    // Loki looks for the end of an object first, and takes nothing out of one that has none.
                    Err(Stop::Error(_)) if block_end(data, begin, b'{', b'}').is_none() => {
                        x.state.forget_since(before);
                        return Err(Stop::Error(OBJECT));
                    }
                    end => end?,
                }
            }
            (b'{', _) => block_end(data, begin, b'{', b'}').ok_or(OBJECT)?,
            (_, name) => {
                let (text, kind, after) = json_scan::value(data, begin)?;
                if key.relevant
                    && matches!(kind, Kind::String | Kind::Number | Kind::Boolean)
                    && let Some(id) = name.and_then(|name| x.wanted(name))
                {
                    set_json(x, id, text, kind, &mut cache.scratch)?;
                }
                after
            }
        };
        at = skip_space(data, at).ok_or(ARRAY)?;
        match data[at] {
            b'}' => return Ok(at + 1),
            b',' => at = skip_space(data, at + 1).ok_or(ARRAY)?,
            _ => return Err(Stop::Error(OBJECT)),
        }
    }
    Ok(at)
}

/// Sets a label to a JSON value: strings without their escapes, anything else as written.
fn set_json(
    x: &mut Extractor<'_>,
    id: NameId,
    value: &[u8],
    kind: Kind,
    scratch: &mut Vec<u8>,
) -> Result<(), Stop> {
    if kind != Kind::String {
        return x.set(id, value);
    }
    scratch.clear();
    x.set(id, json_text(value, scratch))
}

/// The text of a JSON string; empty if an escape is not valid. Replacement characters become spaces.
fn json_text<'v>(value: &'v [u8], scratch: &'v mut Vec<u8>) -> &'v [u8] {
    let replacement = "\u{fffd}";
    let escaped = memchr::memchr(b'\\', value).is_some();
    if !escaped && memchr::memmem::find(value, replacement.as_bytes()).is_none() {
        return value;
    }
    if !unescape(value, scratch) {
        return b"";
    }
    if memchr::memmem::find(scratch, replacement.as_bytes()).is_some() {
        *scratch = String::from_utf8_lossy(scratch).replace(replacement, " ").into_bytes();
    }
    scratch
}

fn json_paths(line: &[u8], paths: &[(NameId, Vec<Step>)], x: &mut Extractor<'_>, scratch: &mut Vec<u8>) {
    if line.is_empty() {
        return;
    }
    let first = line.iter().find(|b| !matches!(b, b' ' | b'\n' | b'\r' | b'\t'));
    if !matches!(first, Some(b'{' | b'[' | b'"')) {
        x.state.fail(JSON_ERROR, None);
        return;
    }
    for (name, steps) in paths {
        let id = x.state.parsed_name_of_base(*name);
        match find(line, steps) {
            Ok(Some((value, kind))) => {
                scratch.clear();
                let text = match kind {
                    Kind::Null => b"",
                    Kind::Object => value,
                    _ => json_text(value, scratch),
                };
                x.state.set(Category::Parsed, id, text);
            }
            Ok(None) => {
                if x.state.get(*name).is_none() {
                    x.state.set(Category::Parsed, *name, b"");
                }
            }
            Err(e) => {
                x.state.fail(JSON_ERROR, Some(e));
                if x.state.get(*name).is_none() {
                    x.state.set(Category::Parsed, *name, b"");
                }
            }
        }
    }
}

/// The value at a path; an error only if the value itself is malformed.
fn find<'d>(data: &'d [u8], steps: &[Step]) -> Result<Option<(&'d [u8], Kind)>, &'static str> {
    let Some((step, rest)) = steps.split_first() else {
        return json_scan::value(data, 0).map(|v| Some((v.0, v.1)));
    };
    let found = match step {
        Step::Index(i) => json_scan::nth_element(data, *i),
        Step::Key(key) => {
            let mut found = None;
            let end: Result<(), &'static str> = json_scan::each_pair(data, &mut |k, v, kind| {
                if k == key.as_bytes() {
                    found = Some((v, kind));
                    return Ok(Visit::Stop);
                }
                Ok(Visit::Continue)
            });
            match end {
                // The value that is not one may be the one that was looked for.
                Err(e @ "Unknown value type") if found.is_none() => return Err(e),
                _ => found,
            }
        }
    };
    match found {
        Some((value, kind)) if rest.is_empty() => Ok(Some((value, kind))),
        Some((value, Kind::Object | Kind::Array)) => find(value, rest),
        _ => Ok(None),
    }
}

/// The value of a logfmt pair without its escapes.
fn logfmt_text<'v>(value: Value<'v>, scratch: &'v mut Vec<u8>) -> &'v [u8] {
    match value {
        Value::Plain(text) if memchr::memmem::find(text, "\u{fffd}".as_bytes()).is_none() => text,
        Value::Plain(text) | Value::Escaped(text) => {
            scratch.clear();
            unescape(text, scratch);
            if let Ok(text) = std::str::from_utf8(scratch)
                && text.contains(char::REPLACEMENT_CHARACTER)
            {
                *scratch = text.replace(char::REPLACEMENT_CHARACTER, " ").into_bytes();
            }
            scratch
        }
    }
}

fn logfmt(
    line: &[u8],
    strict: bool,
    keep_empty: bool,
    x: &mut Extractor<'_>,
    cache: &mut ParserCache,
) -> Result<(), Stop> {
    let mut scanner = Scanner::new(line);
    let mut scratch = std::mem::take(&mut cache.scratch);
    let mut result = Ok(());
    let mut position = 0;
    while !scanner.is_done() && result.is_ok() {
        let Some((raw, value)) = scanner.next() else {
            if strict && scanner.error().is_some() {
                break;
            }
            continue;
        };
        if !keep_empty && matches!(value, Value::Plain(b"") | Value::Escaped(b"")) {
            continue;
        }
        let (_, key) = cache.key(0, position, None, raw, x);
        position += 1;
        if key.relevant
            && let Some(id) = key.name.and_then(|name| x.wanted(name))
        {
            result = x.set(id, logfmt_text(value, &mut scratch));
        }
    }
    cache.scratch = scratch;
    if strict && result.is_ok() {
        fail_logfmt(&scanner, x);
    }
    result
}

fn fail_logfmt(scanner: &Scanner<'_>, x: &mut Extractor<'_>) {
    if let Some(e) = scanner.error() {
        x.state.fail(LOGFMT_ERROR, Some(&e.to_string()));
    }
}

fn logfmt_keys(
    line: &[u8],
    strict: bool,
    keys: &[(NameId, String)],
    x: &mut Extractor<'_>,
    cache: &mut ParserCache,
) -> Result<(), Stop> {
    for (name, _) in keys {
        if !x.state.base_has(*name) && x.state.category(*name) != Some(Category::Metadata) {
            x.state.set(Category::Parsed, *name, b"");
        }
    }
    let mut scanner = Scanner::new(line);
    let mut scratch = std::mem::take(&mut cache.scratch);
    let mut result = Ok(());
    let mut position = 0;
    while !scanner.is_done() && result.is_ok() {
        let Some((raw, value)) = scanner.next() else {
            if strict && scanner.error().is_some() {
                break;
            }
            continue;
        };
        let (_, key) = cache.key(0, position, None, raw, x);
        position += 1;
        let Some(key) = key.name else { continue };
        let text = logfmt_text(value, &mut scratch);
        for (name, source) in keys {
            // A key that is itself the name of a label sets that label too.
            if *name == key || x.state.names.name(key) == source {
                let id = x.state.parsed_name(*name);
                x.state.set(Category::Parsed, id, text);
                if !x.passes(id) {
                    result = Err(Stop::Drop);
                }
            }
        }
    }
    cache.scratch = scratch;
    if strict && result.is_ok() {
        fail_logfmt(&scanner, x);
    }
    result
}

fn regexp(
    line: &[u8],
    regex: &Regex,
    groups: &[(usize, NameId)],
    x: &mut Extractor<'_>,
    cache: &mut ParserCache,
) -> Result<(), Stop> {
    let captures = cache.captures.get_or_insert_with(|| regex.engine().create_captures());
    regex.engine().captures(line, captures);
    if !captures.is_match() {
        return Ok(());
    }
    for (group, name) in groups {
        let value = captures.get_group(*group).map_or(&b""[..], |span| &line[span.start..span.end]);
        if let Some(id) = x.wanted(*name) {
            x.set(id, value)?;
        }
    }
    Ok(())
}

fn unpack(line: &[u8], x: &mut Extractor<'_>, cache: &mut ParserCache, spare: &mut Vec<u8>) -> Outcome {
    if line.is_empty() {
        return Outcome::Done;
    }
    if line[0] != b'{' {
        x.state.fail(JSON_ERROR, Some("expecting json object(6), but it is not"));
        return Outcome::Done;
    }
    let mut found: Vec<(NameId, &[u8])> = vec![];
    let mut entry = None;
    let end: Result<(), &'static str> = json_scan::each_pair(line, &mut |raw, value, kind| {
        if kind == Kind::String {
            if raw == PACKED_ENTRY {
                entry = Some(value);
            } else if let Some(name) = cache.key(0, found.len(), None, raw, x).1.name {
                found.push((name, value));
            }
        }
        Ok(Visit::Continue)
    });
    if let Err(e) = end {
        x.state.fail(JSON_ERROR, Some(e));
        return Outcome::Done;
    }
    let Some(entry) = entry else { return Outcome::Done };
    let mut scratch = std::mem::take(&mut cache.scratch);
    let mut outcome = Outcome::NewLine;
    for (name, value) in found {
        let Some(id) = x.wanted(name) else { continue };
        scratch.clear();
        if let Err(Stop::Drop) = x.set(id, json_text(value, &mut scratch)) {
            outcome = Outcome::Drop;
            break;
        }
    }
    scratch.clear();
    spare.extend_from_slice(json_text(entry, &mut scratch));
    cache.scratch = scratch;
    outcome
}
