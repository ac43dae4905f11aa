//! Lines of files and of standard input, read by a thread of their own.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result};
use tokio::sync::mpsc;

/// No line of the input is longer, in bytes. Servers take far less.
const LINE_BYTES_MAX: usize = 4 << 20;

/// Lines are handed over in chunks of about this size, and sooner when the input pauses.
const CHUNK_BYTES: usize = 64 << 10;

/// Chunks that wait to be taken.
const CHUNKS_MAX: usize = 4;

/// A line, and where it stands.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// Without its end.
    pub(super) text: String,
    /// Its file and number.
    pub(super) place: String,
}

/// Lines that were read together; an error stands for one that cannot be an entry.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    pub(super) lines: Vec<Result<Line, String>>,
    bytes: usize,
}

/// The input.
#[derive(Debug)]
pub(super) struct Source {
    chunks: mpsc::Receiver<Chunk>,
    read: Arc<AtomicU64>,
    size: Option<u64>,
}

impl Source {
    /// Opens the files, all before the first line is read, and begins to read.
    pub(super) fn open(files: &[PathBuf]) -> Result<Self> {
        let mut inputs: Vec<(String, Box<dyn Read + Send>)> = Vec::new();
        let mut size = Some(0);
        let standard_input = [PathBuf::from("-")];
        for path in if files.is_empty() { &standard_input } else { files } {
            if path == Path::new("-") {
                size = None;
                inputs.push(("standard input".into(), Box::new(io::stdin())));
                continue;
            }
            let open = || format!("failed to open {}", path.display());
            let file = File::open(path).with_context(open)?;
            let metadata = file.metadata().with_context(open)?;
            size = size.filter(|_| metadata.is_file()).map(|size| size + metadata.len());
            inputs.push((path.display().to_string(), Box::new(file)));
        }
        let (sender, chunks) = mpsc::channel(CHUNKS_MAX);
        let read = Arc::new(AtomicU64::new(0));
        let progress = read.clone();
        // Not a task of the runtime: reading standard input cannot be cancelled, and the process has to end anyway.
        std::thread::Builder::new()
            .name("input".into())
            .spawn(move || {
                for (name, input) in inputs {
                    if !read_all(&name, BufReader::with_capacity(CHUNK_BYTES, input), &progress, &sender) {
                        return;
                    }
                }
            })
            .context("failed to start a thread")?;
        Ok(Self { chunks, read, size })
    }

    /// The next lines; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<Chunk> {
        self.chunks.recv().await
    }

    /// Bytes read so far.
    pub(super) fn read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// Bytes of all files, when that is known.
    pub(super) fn size(&self) -> Option<u64> {
        self.size
    }
}

/// Hands over all lines of an input. False when nobody wants them any more.
fn read_all<R: Read>(
    name: &str,
    mut input: BufReader<R>,
    progress: &AtomicU64,
    sender: &mpsc::Sender<Chunk>,
) -> bool {
    let mut chunk = Chunk::default();
    let mut number = 0u64;
    loop {
        number += 1;
        let line = match read_line(&mut input) {
            Ok(None) => break,
            Ok(Some((length, line))) => {
                progress.fetch_add(length, Ordering::Relaxed);
                line.map_err(|reason| format!("{name}, line {number}: {reason}"))
            }
            Err(error) => {
                chunk.lines.push(Err(format!("{name}, line {number}: failed to read: {error}")));
                break;
            }
        };
        let line = line.map(|text| Line { text, place: format!("{name}, line {number}") });
        chunk.bytes += line.as_ref().map_or(0, |line| line.text.len()) + 64;
        chunk.lines.push(line);
        let pauses = input.buffer().is_empty();
        if (pauses || chunk.bytes >= CHUNK_BYTES) && sender.blocking_send(std::mem::take(&mut chunk)).is_err()
        {
            return false;
        }
    }
    chunk.lines.is_empty() || sender.blocking_send(chunk).is_ok()
}

type ReadLine = Option<(u64, Result<String, String>)>;

/// The next line without its end, and how many bytes were read for it. Of a line that is too long the rest is skipped.
fn read_line(input: &mut impl BufRead) -> io::Result<ReadLine> {
    let mut bytes = Vec::new();
    let mut length = input.by_ref().take(LINE_BYTES_MAX as u64 + 1).read_until(b'\n', &mut bytes)? as u64;
    if length == 0 {
        return Ok(None);
    }
    if bytes.len() > LINE_BYTES_MAX && !bytes.ends_with(b"\n") {
        length += skip_line(input)?;
        return Ok(Some((length, Err(format!("longer than {LINE_BYTES_MAX} bytes")))));
    }
    if bytes.ends_with(b"\n") {
        bytes.pop();
        if bytes.ends_with(b"\r") {
            bytes.pop();
        }
    }
    let text = match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    };
    Ok(Some((length, Ok(text))))
}

fn skip_line(input: &mut impl BufRead) -> io::Result<u64> {
    let mut skipped = 0;
    loop {
        let buffer = input.fill_buf()?;
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let length = end.map_or(buffer.len(), |at| at + 1);
        if length == 0 {
            return Ok(skipped);
        }
        input.consume(length);
        skipped += length as u64;
        if end.is_some() {
            return Ok(skipped);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(input: &[u8]) -> Vec<Result<String, String>> {
        let mut input = BufReader::with_capacity(16, input);
        let mut lines = Vec::new();
        while let Some((_, line)) = read_line(&mut input).unwrap() {
            lines.push(line);
        }
        lines
    }

    #[test]
    fn lines_end_as_on_any_system() {
        let ok = |text: &str| Ok(text.to_owned());
        assert_eq!(lines(b"one\r\ntwo\n\nthree"), [ok("one"), ok("two"), ok(""), ok("three")]);
        assert_eq!(lines(b""), []);
        assert_eq!(lines(b"a\xffb\n"), [ok("a\u{fffd}b")]);
    }

    #[test]
    fn a_line_that_is_too_long_is_left_out_and_the_next_one_read() {
        let mut input = vec![b'x'; LINE_BYTES_MAX + 100];
        input.extend_from_slice(b"\nnext\n");
        let lines = lines(&input);
        assert!(lines[0].as_ref().unwrap_err().contains("longer than"));
        assert_eq!(lines[1..], [Ok("next".to_owned())]);
        let longest = vec![b'x'; LINE_BYTES_MAX];
        assert_eq!(self::lines(&longest)[0].as_ref().unwrap().len(), LINE_BYTES_MAX);
    }

    #[tokio::test]
    async fn files_are_read_one_after_the_other() {
        let dir = tempfile::tempdir().unwrap();
        let paths = [dir.path().join("a"), dir.path().join("b")];
        std::fs::write(&paths[0], "1\n2\n").unwrap();
        std::fs::write(&paths[1], "3").unwrap();
        let mut source = Source::open(&paths).unwrap();
        let mut found = Vec::new();
        while let Some(chunk) = source.next().await {
            found.extend(chunk.lines.into_iter().map(Result::unwrap));
        }
        let texts: Vec<_> = found.iter().map(|line| line.text.as_str()).collect();
        assert_eq!(texts, ["1", "2", "3"]);
        assert!(found[1].place.ends_with("a, line 2"), "{}", found[1].place);
        assert_eq!((source.read(), source.size()), (5, Some(5)));
        assert!(Source::open(&[dir.path().join("missing")]).is_err());
    }
}
