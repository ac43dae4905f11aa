//! What queries must not see, to and from its message.

use std::sync::Arc;

use skald_model::removal::{CutoffRule, DeleteRule, RemovalSpec};
use skald_model::{Error, Result};

use super::convert::{range_from, range_to};
use super::proto;

pub(super) fn removals_to(removals: Option<Arc<RemovalSpec>>) -> Option<proto::RemovalSpec> {
    let spec = removals?;
    let delete = |DeleteRule { generation, accepted, range, query }: &DeleteRule| proto::DeleteRule {
        generation: *generation,
        accepted: *accepted,
        range: range_to(*range),
        query: query.to_string(),
    };
    let cutoff = |CutoffRule { selector, cutoff }: &CutoffRule| proto::CutoffRule {
        selector: selector.to_string(),
        cutoff: *cutoff,
    };
    let RemovalSpec { generation, deletes, cutoffs, cutoff: others } = &*spec;
    Some(proto::RemovalSpec {
        generation: *generation,
        deletes: deletes.iter().map(delete).collect(),
        cutoffs: cutoffs.iter().map(cutoff).collect(),
        cutoff: *others,
    })
}

pub(super) fn removals_from(removals: Option<proto::RemovalSpec>) -> Result<Option<Arc<RemovalSpec>>> {
    let Some(proto::RemovalSpec { generation, deletes, cutoffs, cutoff }) = removals else { return Ok(None) };
    let delete = |proto::DeleteRule { generation, accepted, range, query }| {
        let range = range.ok_or_else(|| Error::invalid("a delete rule has no time range"))?;
        Ok(DeleteRule { generation, accepted, range: range_from(Some(range))?, query: query.into() })
    };
    let deletes = deletes.into_iter().map(delete).collect::<Result<_>>()?;
    let rule = |proto::CutoffRule { selector, cutoff }| CutoffRule { selector: selector.into(), cutoff };
    let cutoffs = cutoffs.into_iter().map(rule).collect();
    Ok(Some(Arc::new(RemovalSpec { generation, deletes, cutoffs, cutoff })))
}
