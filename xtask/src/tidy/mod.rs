//! The rules of the house that a machine can check. They run as ordinary tests, too (`cargo test -p xtask`).

mod dependencies;
mod files;
mod packages;

use anyhow::Result;

/// Checks everything and prints what is wrong. True when nothing is.
pub(crate) fn run() -> Result<bool> {
    let mut findings = Vec::new();
    let packages = packages::read()?;
    findings.extend(dependencies::check(&packages));
    findings.extend(packages::check(&packages)?);
    findings.extend(files::check()?);
    for finding in &findings {
        println!("{finding}");
    }
    println!("tidy: {} findings", findings.len());
    Ok(findings.is_empty())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_checkout_is_tidy() {
        assert!(super::run().unwrap(), "see the findings above");
    }
}
