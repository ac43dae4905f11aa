//! Templates of lines, found as Drain does: a line is compared only with templates of the same number of tokens and the
//! same first word; the nearest one that is near enough takes it and turns what differs into variables.

use rustc_hash::FxHashMap;

use super::tokens::{Kind, Token, shape};

/// At least this share of the words must agree, in percent.
const SIMILARITY_MIN_PERCENT: usize = 65;
/// Most first words of lines of one length that are told apart; others share a group.
const HEADS_MAX: usize = 24;
/// Shapes that are remembered for each template.
const SHAPES_PER_TEMPLATE: usize = 8;
/// Bytes of a template besides its text, roughly.
const TEMPLATE_BYTES: usize = 160;

/// The templates of one service.
#[derive(Debug, Default)]
pub(super) struct Tree {
    slots: Vec<Slot>,
    /// Where lines go that differ in variables only from one that was seen.
    shapes: FxHashMap<u64, Id>,
    groups: FxHashMap<Group, Vec<u32>>,
    /// First words by length, as hashes.
    heads: FxHashMap<u16, Vec<u64>>,
    clock: u64,
    bytes: usize,
}

/// Names a template as long as it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Id {
    slot: u32,
    generation: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Group {
    tokens: u16,
    head: u64,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    template: Template,
    group: Group,
    used: u64,
}

/// A line with some of its tokens replaced.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Template {
    /// The tokens' bytes, those of variables left out.
    text: Vec<u8>,
    /// Ends in `text`, and what the token is.
    tokens: Vec<(u32, Kind)>,
}

impl Tree {
    /// The template of a line, found or made. When there are `templates_max`, the one that was not seen for the longest
    /// time goes. When there may be none, only one that is there already is found.
    pub(super) fn insert(&mut self, line: &[u8], tokens: &[Token], templates_max: usize) -> Option<Id> {
        self.clock += 1;
        let shape = shape(line, tokens);
        if let Some(id) = self.shapes.get(&shape).copied()
            && self.is_kept(id)
        {
            self.slots[id.slot as usize].used = self.clock;
            return Some(id);
        }
        let group = self.group_of(line, tokens);
        let id = match self.nearest(group, line, tokens) {
            Some(slot) => {
                let found = &mut self.slots[slot as usize];
                found.template.widen(line, tokens);
                found.used = self.clock;
                Id { slot, generation: found.generation }
            }
            None if templates_max == 0 => return None,
            None => self.add(group, Template::of(line, tokens), templates_max),
        };
        if self.shapes.len() >= self.slots.len() * SHAPES_PER_TEMPLATE {
            self.shapes.clear();
        }
        self.shapes.insert(shape, id);
        Some(id)
    }

    /// Adds a template as it was saved.
    pub(super) fn restore(&mut self, template: Template, templates_max: usize) -> Id {
        self.clock += 1;
        let (line, tokens) = template.as_line();
        let group = self.group_of(&line, &tokens);
        self.add(group, template, templates_max.max(1))
    }

    pub(super) fn get(&self, id: Id) -> Option<&Template> {
        self.is_kept(id).then(|| &self.slots[id.slot as usize].template)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Bytes of memory, roughly.
    pub(super) fn bytes(&self) -> usize {
        self.bytes + self.shapes.capacity() * 24
    }

    fn is_kept(&self, id: Id) -> bool {
        self.slots.get(id.slot as usize).is_some_and(|s| s.generation == id.generation)
    }

    fn group_of(&mut self, line: &[u8], tokens: &[Token]) -> Group {
        let first = tokens.iter().find(|t| t.kind == Kind::Word);
        let head = first.map_or(0, |t| shape(line, std::slice::from_ref(t)) | 1);
        let tokens = tokens.len() as u16;
        let heads = self.heads.entry(tokens).or_default();
        if !heads.contains(&head) {
            if heads.len() >= HEADS_MAX {
                return Group { tokens, head: 0 };
            }
            heads.push(head);
        }
        Group { tokens, head }
    }

    fn nearest(&self, group: Group, line: &[u8], tokens: &[Token]) -> Option<u32> {
        let slots = self.groups.get(&group)?;
        let words = tokens.iter().filter(|t| t.kind != Kind::Gap).count();
        let needed = (words * SIMILARITY_MIN_PERCENT).div_ceil(100);
        let near =
            slots.iter().map(|slot| (self.slots[*slot as usize].template.agreeing(line, tokens), *slot));
        // Of equally near ones the oldest.
        let best = near.max_by_key(|(agreeing, slot)| (*agreeing, std::cmp::Reverse(*slot)))?;
        (best.0 >= needed).then_some(best.1)
    }

    fn add(&mut self, group: Group, template: Template, templates_max: usize) -> Id {
        self.bytes += template.bytes();
        let used = self.clock;
        let slot = if self.slots.len() < templates_max {
            self.slots.push(Slot { generation: 0, template, group, used });
            self.slots.len() - 1
        } else {
            let oldest = self.slots.iter().enumerate().min_by_key(|(_, s)| s.used).map_or(0, |(i, _)| i);
            let slot = &mut self.slots[oldest];
            self.bytes -= slot.template.bytes();
            if let Some(slots) = self.groups.get_mut(&slot.group) {
                slots.retain(|s| *s != oldest as u32);
                if slots.is_empty() {
                    self.groups.remove(&slot.group);
                }
            }
            *slot = Slot { generation: slot.generation.wrapping_add(1), template, group, used };
            oldest
        };
        self.groups.entry(group).or_default().push(slot as u32);
        Id { slot: slot as u32, generation: self.slots[slot].generation }
    }
}

impl Template {
    fn of(line: &[u8], tokens: &[Token]) -> Self {
        let mut template = Self { text: Vec::new(), tokens: Vec::with_capacity(tokens.len()) };
        for token in tokens {
            if token.kind != Kind::Variable {
                template.text.extend_from_slice(&line[token.start as usize..token.end as usize]);
            }
            template.tokens.push((template.text.len() as u32, token.kind));
        }
        template
    }

    /// From its parts as they were saved; `None` if they contradict each other.
    pub(super) fn from_parts(text: Vec<u8>, tokens: Vec<(u32, Kind)>) -> Option<Self> {
        std::str::from_utf8(&text).ok()?;
        let mut from = 0;
        for (end, _) in &tokens {
            text.get(from..*end as usize)?;
            from = *end as usize;
        }
        Some(Self { text, tokens })
    }

    /// What [`Template::from_parts`] takes.
    pub(super) fn parts(&self) -> (&[u8], &[(u32, Kind)]) {
        (&self.text, &self.tokens)
    }

    fn pieces(&self) -> impl Iterator<Item = (&[u8], Kind)> {
        let mut from = 0;
        self.tokens.iter().map(move |(end, kind)| {
            let piece = &self.text[from..*end as usize];
            from = *end as usize;
            (piece, *kind)
        })
    }

    /// A line of this template, whose variables are empty.
    fn as_line(&self) -> (Vec<u8>, Vec<Token>) {
        let mut start = 0;
        let token = |(end, kind): &(u32, Kind)| {
            let token = Token { start, end: *end, kind: *kind };
            start = *end;
            token
        };
        (self.text.clone(), self.tokens.iter().map(token).collect())
    }

    /// Words and variables that a line of as many tokens has where the template has them.
    fn agreeing(&self, line: &[u8], tokens: &[Token]) -> usize {
        let same = |((piece, kind), token): &((&[u8], Kind), &Token)| match (kind, token.kind) {
            (Kind::Gap, _) | (_, Kind::Gap) => false,
            (Kind::Variable, Kind::Variable) => true,
            _ => *piece == &line[token.start as usize..token.end as usize],
        };
        self.pieces().zip(tokens).filter(same).count()
    }

    /// Makes variables of the tokens that the line has not.
    fn widen(&mut self, line: &[u8], tokens: &[Token]) {
        let mut from = 0;
        for ((end, kind), token) in self.tokens.iter_mut().zip(tokens) {
            let piece = &self.text[from..*end as usize];
            from = *end as usize;
            if token.kind != *kind || piece != &line[token.start as usize..token.end as usize] {
                *kind = Kind::Variable;
            }
        }
    }

    /// The pattern, for the pattern filter of LogQL.
    pub(super) fn render(&self) -> String {
        let mut out: Vec<u8> = Vec::with_capacity(self.text.len() + 16);
        let mut after_variable = false;
        let mut joint: &[u8] = &[];
        for (piece, kind) in self.pieces() {
            match kind {
                Kind::Variable => {
                    // `<_>:<_>` says no more than `<_>`.
                    if !after_variable {
                        out.extend_from_slice(b"<_>");
                    }
                    (after_variable, joint) = (true, &[]);
                }
                _ if after_variable && joint.is_empty() && is_joint(piece) => joint = piece,
                _ => {
                    out.extend_from_slice(std::mem::take(&mut joint));
                    out.extend_from_slice(piece);
                    after_variable = false;
                }
            }
        }
        out.extend_from_slice(joint);
        String::from_utf8(out).unwrap_or_default()
    }

    fn bytes(&self) -> usize {
        TEMPLATE_BYTES + self.text.capacity() + self.tokens.capacity() * size_of::<(u32, Kind)>()
    }
}

/// What stands inside of times, addresses and paths.
fn is_joint(gap: &[u8]) -> bool {
    matches!(gap, b":" | b"/" | b"," | b"://")
}
