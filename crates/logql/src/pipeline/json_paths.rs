//! Where in a JSON line the labels of the `json` parser come from.

use std::collections::BTreeMap;

use super::json_scan::{self, Kind, ScanError, Visit};
use super::labels::sanitize;

/// Objects in objects are looked at so deep, as by the parser.
const MAX_DEPTH: usize = 64;

/// For each label that the `json` parser makes of `line`, before it is told apart from the stream's, the keys that lead to
/// its value.
pub(crate) fn json_paths(line: &[u8]) -> BTreeMap<String, Vec<String>> {
    let mut paths = BTreeMap::new();
    walk(line, "", &mut Vec::new(), &mut paths);
    paths
}

fn walk(object: &[u8], prefix: &str, path: &mut Vec<String>, paths: &mut BTreeMap<String, Vec<String>>) {
    // What was read before an error counts; the parser has the last word on whether the line is JSON.
    let _: Result<(), ScanError> = json_scan::each_pair(object, &mut |key, value, kind| {
        let key = String::from_utf8_lossy(key);
        let own = sanitize(&key, path.is_empty());
        if !own.is_empty() {
            let name = if path.is_empty() { own } else { format!("{prefix}_{own}") };
            path.push(key.into_owned());
            match kind {
                Kind::Object if path.len() <= MAX_DEPTH => walk(value, &name, path, paths),
                Kind::String | Kind::Number | Kind::Boolean => {
                    paths.entry(name).or_insert_with(|| path.clone());
                }
                _ => {}
            }
            path.pop();
        }
        Ok(Visit::Continue)
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_keys_as_written() {
        let paths = json_paths(r#"{"a b":{"1c":1,"d":[1],"e":null},"1x":true,"a_b_1c":2,"":3}"#.as_bytes());
        let paths: Vec<(&str, String)> = paths.iter().map(|(n, p)| (n.as_str(), p.join("/"))).collect();
        assert_eq!(paths, [("_1x", "1x".to_owned()), ("a_b_1c", "a b/1c".to_owned())]);
    }
}
