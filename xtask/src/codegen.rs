//! Generates the Rust code of `proto/` into `crates/rpc/src/gen/`.
//!
//! The result is checked in, so nobody needs this (or `protoc`) to build; a test holds the two together.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// Where the services are described, below the workspace.
const PROTO: &str = "proto";
/// What is compiled, below `proto/`.
const FILES: [&str; 5] = [
    "skald/v1/types.proto",
    "skald/v1/distributor.proto",
    "skald/v1/ingester.proto",
    "skald/v1/querier.proto",
    "skald/v1/frontend.proto",
];
/// Where the generated code lies, below the workspace.
const GENERATED: &str = "crates/rpc/src/gen";

/// Writes the generated code.
pub(crate) fn run() -> Result<()> {
    let folder = workspace().join(GENERATED);
    fs::create_dir_all(&folder).with_context(|| format!("failed to create {}", folder.display()))?;
    for (name, code) in generate()? {
        let path = folder.join(name);
        fs::write(&path, code).with_context(|| format!("failed to write {}", path.display()))?;
    }
    Ok(())
}

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace")
}

/// File names with their content.
fn generate() -> Result<BTreeMap<String, String>> {
    let root = workspace().join(PROTO);
    let files =
        protox::compile(FILES.map(|f| root.join(f)), [&root]).context("failed to compile proto files")?;
    let out = tempfile::tempdir().context("failed to create a temporary directory")?;
    tonic_prost_build::configure()
        .out_dir(out.path())
        .bytes(".")
        // Written from two buffers without joining them.
        .extern_path(".skald.v1.EncodedBatch", "crate::grpc::EncodedBatch")
        .compile_fds(files)
        .context("failed to generate code")?;
    let mut generated = BTreeMap::new();
    for entry in fs::read_dir(out.path())? {
        let path: PathBuf = entry?.path();
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        generated.insert(name, fs::read_to_string(&path)?);
    }
    Ok(generated)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checked_in_code_is_what_the_proto_files_give() {
        let generated = generate().unwrap();
        assert!(generated.contains_key("skald.v1.rs"));
        for (name, code) in generated {
            let path = workspace().join(GENERATED).join(&name);
            let checked_in = fs::read_to_string(&path).unwrap_or_default();
            assert!(checked_in == code, "{} is not up to date; run `cargo xtask codegen`", path.display());
        }
    }
}
