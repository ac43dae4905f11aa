//! What this binary was built from. Builds of releases set the variables.

use skald_runtime::metrics::BuildInfo;

pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

pub(crate) const INFO: BuildInfo = BuildInfo {
    version: VERSION,
    revision: or_unknown(option_env!("SKALD_REVISION")),
    branch: or_unknown(option_env!("SKALD_BRANCH")),
    date: or_unknown(option_env!("SKALD_BUILD_DATE")),
};

const fn or_unknown(text: Option<&'static str>) -> &'static str {
    match text {
        Some(text) => text,
        None => "unknown",
    }
}

/// One line for `skald version`.
pub(crate) fn line() -> String {
    let BuildInfo { version, revision, branch, date } = INFO;
    format!("skald, version {version} (branch: {branch}, revision: {revision}, built: {date})")
}
