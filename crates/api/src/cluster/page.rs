//! The pages for people: one table, no scripts, nothing fetched from elsewhere.

use std::fmt::Write as _;

use skald_model::Timestamp;
use skald_model::time::SECOND;

use super::MemberRow;

/// The beginning of every page.
pub(crate) const HEAD: &str = "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
<meta name=\"viewport\" content=\"width=device-width\">\
<style>body{font:15px/1.4 system-ui,sans-serif;margin:2em;color:#222}\
table{border-collapse:collapse}th,td{padding:.3em .9em;border-bottom:1px solid #ddd;text-align:left}\
td.n{text-align:right;font-variant-numeric:tabular-nums}tr.bad td{background:#fff0ee}\
p{max-width:45em}@media(prefers-color-scheme:dark){body{background:#181818;color:#ddd}\
th,td{border-color:#444}tr.bad td{background:#3a1d1a}a{color:#8bf}}</style>";

/// The ring of ingesters, with a button for those that are dead.
pub(super) fn ring(rows: &[MemberRow], now: Timestamp) -> String {
    let mut page = format!("{HEAD}<title>Skald: ring</title></head><body>\n<h1>Ring of ingesters</h1>\n");
    page.push_str(
        "<table><tr><th>Instance</th><th>Zone</th><th>State</th><th>Address</th><th>Last heartbeat</th>\
         <th>Tokens</th><th>Ownership</th><th></th></tr>\n",
    );
    let mut has_dead = false;
    for row in rows {
        let is_dead = !row.is_alive && row.registered_at != 0;
        has_dead |= is_dead;
        let _ = write!(
            page,
            "<tr{}><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td class=\"n\">{}</td>\
             <td class=\"n\">{:.1} %</td><td>",
            if row.is_alive { "" } else { " class=\"bad\"" },
            escaped(&row.name),
            escaped(&row.zone),
            escaped(&row.state),
            escaped(&row.grpc),
            ago(row.last_heartbeat, now),
            row.tokens.len(),
            row.ownership * 100.0,
        );
        if is_dead {
            let _ = write!(
                page,
                "<form method=\"post\"><button name=\"forget\" value=\"{}\">Forget</button></form>",
                escaped(&row.name)
            );
        }
        page.push_str("</td></tr>\n");
    }
    page.push_str("</table>\n");
    if has_dead {
        page.push_str(
            "<p>An ingester that is dead but registered may hold entries that no table has. Reads are sure as long \
             as fewer such ingesters are missing than a write needs. It is forgotten by itself when it comes back and \
             leaves, or, with a replication factor above 1, when the others have written all that it took part in. \
             <b>Forget</b> takes it out now: what only it held is given up. With a replication factor of 1, or when \
             as many are dead as a write needs, that is the only way to read on without it.</p>\n",
        );
    }
    page.push_str("</body></html>\n");
    page
}

/// The processes of the cluster.
pub(crate) fn members(rows: &[MemberRow], now: Timestamp) -> String {
    let mut page = format!("{HEAD}<title>Skald: members</title></head><body>\n<h1>Members</h1>\n");
    page.push_str(
        "<table><tr><th>Name</th><th>Roles</th><th>State</th><th>Zone</th><th>gRPC</th><th>HTTP</th>\
         <th>Last heartbeat</th></tr>\n",
    );
    for row in rows {
        let _ = writeln!(
            page,
            "<tr{}><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            if row.is_alive { "" } else { " class=\"bad\"" },
            escaped(&row.name),
            escaped(&row.roles.join(", ")),
            escaped(&row.state),
            escaped(&row.zone),
            escaped(&row.grpc),
            escaped(&row.http),
            ago(row.last_heartbeat, now),
        );
    }
    page.push_str("</table>\n</body></html>\n");
    page
}

/// How long ago something was.
pub(crate) fn ago(time: Timestamp, now: Timestamp) -> String {
    match time {
        0 => "not heard".to_owned(),
        time => format!("{} s ago", now.saturating_sub(time).max(0) / SECOND),
    }
}

/// A text for HTML.
pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_and_only_the_dead_can_be_forgotten() {
        let dead = MemberRow {
            name: "<b>&'\"".into(),
            state: "Unhealthy".into(),
            registered_at: 1,
            ..MemberRow::default()
        };
        let page = ring(std::slice::from_ref(&dead), 5 * SECOND);
        assert!(page.contains("value=\"&lt;b&gt;&amp;&#39;&quot;\">Forget"), "{page}");
        assert!(!page.contains("<b>&"));
        let alive = MemberRow { is_alive: true, last_heartbeat: 3 * SECOND, ..dead };
        let page = ring(&[alive], 5 * SECOND);
        assert!(!page.contains("Forget") && page.contains("2 s ago"), "{page}");
    }
}
