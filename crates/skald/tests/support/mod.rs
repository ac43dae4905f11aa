//! A real server process for tests: started on a free port, awaited, and killed when the test ends.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(dead_code, reason = "each file of tests uses a part of this")]

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longer than anything here takes; a test that waits this long has failed.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(5);

/// A command of the binary with an environment that no setting of the caller's reaches.
pub(crate) fn skald(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_skald"));
    command.args(arguments).env_clear().stdin(Stdio::null());
    command
}

/// Runs a command that should end by itself.
pub(crate) fn run(arguments: &[&str]) -> Output {
    let child = skald(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut child = KillOnDrop(child);
    let status = wait(&mut child.0);
    let read = |pipe: &mut dyn std::io::Read| {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).unwrap();
        bytes
    };
    let stdout = read(child.0.stdout.as_mut().unwrap());
    let stderr = read(child.0.stderr.as_mut().unwrap());
    Output { status, stdout, stderr }
}

/// What a command that fails says about it.
pub(crate) fn failure(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(!text.contains("panicked") && !text.contains("stack backtrace"), "{text}");
    text.lines().filter(|l| !l.starts_with("ts=")).collect::<Vec<_>>().join("\n")
}

struct KillOnDrop(Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait(child: &mut Child) -> ExitStatus {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(Instant::now() < end, "the process did not end");
        std::thread::sleep(POLL);
    }
}

/// A running server.
pub(crate) struct Server {
    child: KillOnDrop,
    address: String,
    log: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts a server over `data` on a free port and waits until it is ready.
    pub(crate) fn start(data: &Path, arguments: &[&str]) -> Self {
        let data = data.to_str().unwrap();
        let mut all = vec!["serve", "--listen", "127.0.0.1:0", "--data", data];
        all.extend(arguments);
        let server = Self::over(skald(&all).stderr(Stdio::piped()).spawn().unwrap());
        server.await_status("/ready", 200);
        server
    }

    /// Takes over a process that serves HTTP and logs to a pipe, once it listens.
    pub(crate) fn over(child: Child) -> Self {
        let mut child = KillOnDrop(child);
        let log = Arc::new(Mutex::new(Vec::new()));
        let lines = BufReader::new(child.0.stderr.take().unwrap()).lines();
        let sink = log.clone();
        let reader = std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                sink.lock().unwrap().push(line);
            }
        });
        let mut server = Self { child, address: String::new(), log, reader: Some(reader) };
        server.address = server.await_line("protocol=http").split("address=").nth(1).unwrap().to_owned();
        server
    }

    /// Waits for a log line with `part`.
    pub(crate) fn await_line(&mut self, part: &str) -> String {
        let end = Instant::now() + DEADLINE;
        loop {
            if let Some(line) = self.log.lock().unwrap().iter().find(|l| l.contains(part)) {
                return line.clone();
            }
            let ended = self.child.0.try_wait().unwrap();
            assert!(
                ended.is_none() && Instant::now() < end,
                "no {part:?} in the log ({ended:?}):\n{}",
                self.log()
            );
            std::thread::sleep(POLL);
        }
    }

    /// Waits until `path` answers so.
    pub(crate) fn await_status(&self, path: &str, status: u16) {
        let end = Instant::now() + DEADLINE;
        while self.get(path).0 != status {
            assert!(Instant::now() < end, "{path} does not answer {status}:\n{}", self.log());
            std::thread::sleep(POLL);
        }
    }

    /// All log lines so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    /// `host:port`
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    fn agent() -> ureq::Agent {
        ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(DEADLINE))
            .build()
            .into()
    }

    /// Status and body.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        self.get_with(path, &[])
    }

    /// Status and body of a request with headers.
    pub(crate) fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> (u16, String) {
        let mut request = Self::agent().get(format!("http://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut answer = request.call().unwrap();
        (answer.status().as_u16(), answer.body_mut().read_to_string().unwrap())
    }

    /// Status and body of a DELETE request.
    pub(crate) fn delete(&self, path: &str) -> (u16, String) {
        let mut answer = Self::agent().delete(format!("http://{}{path}", self.address)).call().unwrap();
        (answer.status().as_u16(), answer.body_mut().read_to_string().unwrap())
    }

    /// Status and body.
    pub(crate) fn post(&self, path: &str, content_type: &str, body: &str) -> (u16, String) {
        let request = Self::agent().post(format!("http://{}{path}", self.address)).content_type(content_type);
        let mut answer = request.send(body).unwrap();
        (answer.status().as_u16(), answer.body_mut().read_to_string().unwrap())
    }

    /// Status, body and the header `Retry-After` of a request for `tenant`; a POST if there is a body.
    pub(crate) fn ask(&self, tenant: &str, path: &str, body: Option<&str>) -> (u16, String, Option<String>) {
        let url = format!("http://{}{path}", self.address);
        let answer = match body {
            None => Self::agent().get(url).header("X-Scope-OrgID", tenant).call(),
            Some(body) => {
                let request = Self::agent().post(url).header("X-Scope-OrgID", tenant);
                request.content_type("application/json").send(body)
            }
        };
        let mut answer = answer.unwrap();
        let retry_after = answer.headers().get("retry-after").map(|v| v.to_str().unwrap().to_owned());
        (answer.status().as_u16(), answer.body_mut().read_to_string().unwrap(), retry_after)
    }

    /// Status and body of a JSON request with headers.
    pub(crate) fn post_with(&self, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, String) {
        let mut request =
            Self::agent().post(format!("http://{}{path}", self.address)).content_type("application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut answer = request.send(body).unwrap();
        (answer.status().as_u16(), answer.body_mut().read_to_string().unwrap())
    }

    /// Pushes entries of the stream `{app="test"}`; each is acknowledged or the test fails.
    pub(crate) fn push(&self, entries: &[(i64, &str)]) {
        let values: Vec<_> =
            entries.iter().map(|(t, line)| serde_json::json!([t.to_string(), line])).collect();
        let body = serde_json::json!({"streams": [{"stream": {"app": "test"}, "values": values}]});
        let answer = self.post("/loki/api/v1/push", "application/json", &body.to_string());
        assert_eq!(answer.0, 204, "{answer:?}");
    }

    /// The lines of the stream `{app="test"}`, oldest first.
    pub(crate) fn lines(&self) -> Vec<String> {
        let path =
            "/loki/api/v1/query_range?query=%7Bapp%3D%22test%22%7D&since=1h&direction=forward&limit=5000";
        let (status, body) = self.get(path);
        assert_eq!(status, 200, "{body}");
        let answer: Value = serde_json::from_str(&body).unwrap();
        let streams = answer["data"]["result"].as_array().unwrap().iter();
        let mut entries: Vec<_> = streams
            .flat_map(|s| s["values"].as_array().unwrap())
            .map(|v| (v[0].as_str().unwrap().to_owned(), v[1].as_str().unwrap().to_owned()))
            .collect();
        entries.sort();
        entries.into_iter().map(|(_, line)| line).collect()
    }

    /// Asks the process to end and waits for it.
    pub(crate) fn terminate(mut self) -> (ExitStatus, String) {
        let pid = self.child.0.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        let status = wait(&mut self.child.0);
        // The pipe has ended, too, so all lines are there.
        self.reader.take().unwrap().join().unwrap();
        (status, self.log())
    }

    /// Ends the process without a warning.
    pub(crate) fn kill(mut self) {
        self.child.0.kill().unwrap();
        self.child.0.wait().unwrap();
    }
}

/// Nanoseconds since the Unix epoch.
pub(crate) fn now() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as i64
}

/// All files below a directory with their sizes, to see that nothing was changed.
pub(crate) fn files(dir: &Path) -> Vec<(String, u64)> {
    let mut found = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else {
                found.push((entry.path().display().to_string(), entry.metadata().unwrap().len()));
            }
        }
    }
    found.sort();
    found
}

/// Replaces a file in one step, so that whoever looks meanwhile sees the old one or the new one.
pub(crate) fn replace_file(path: &Path, text: &str) {
    let next = path.with_extension("next");
    std::fs::write(&next, text).unwrap();
    std::fs::rename(&next, path).unwrap();
}

/// A push of the line `one` of now to `{app="test"}`, as processes send it to each other.
pub(crate) fn push_of_one_line() -> skald_model::Push {
    let entry = skald_model::EntryRef {
        timestamp: now(),
        line_start: 0,
        line_len: 3,
        metadata_start: 0,
        metadata_len: 0,
    };
    let labels = skald_model::PushLabels::Text("{app=\"test\"}".into());
    skald_model::Push {
        streams: vec![skald_model::PushStream { labels, entries: 0..1 }],
        entries: skald_model::batch::Entries { body: "one".into(), refs: vec![entry], ..Default::default() },
    }
}
