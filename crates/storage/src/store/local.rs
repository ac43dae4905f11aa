//! A local directory as an object store whose acknowledged writes survive a loss of power.
//!
//! Deleting is `LocalFileSystem`'s, and so are listing but for the order and reading but for ranges, whose buffers
//! are used again. Writing is ours, because that store does not sync:
//! the bytes go to a file under `.staging`, are synced, and only then get their name, by hard link (create:
//! atomic, refuses an existing name) or by rename (overwrite: atomic); then the folder is synced, and only then
//! is the write acknowledged. A reader never sees half a file, whenever the power goes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryFutureExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, UploadPart,
};
use parking_lot::Mutex;

use super::buffers::ReadBuffers;

const STORE: &str = "LocalStore";
const STAGING: &str = ".staging";
/// What a killed process left in staging is removed at the next start once it is this old, so that a process
/// that shares the directory and is still writing keeps its files.
const STAGING_AGE_MAX: Duration = Duration::from_secs(3600);

/// See the module's page.
#[derive(Clone, Debug)]
pub(crate) struct LocalStore {
    inner: LocalFileSystem,
    root: Arc<PathBuf>,
    sequence: Arc<AtomicU64>,
    buffers: Arc<ReadBuffers>,
}

impl LocalStore {
    /// Opens `root`, making it if it is not there, and clears what an earlier process left in staging.
    pub(crate) fn open(root: &FsPath) -> io::Result<Self> {
        create_dir_durably(root)?;
        let root = fs::canonicalize(root)?;
        let inner = LocalFileSystem::new_with_prefix(&root).map_err(io::Error::other)?;
        let store = Self { inner, root: Arc::new(root), sequence: Arc::default(), buffers: Arc::default() };
        store.clear_staging();
        Ok(store)
    }

    /// Removes the staging folder if nothing is in it.
    pub(crate) fn tidy(&self) {
        // Not empty or not there: both are as they should be.
        let _ = fs::remove_dir(self.root.join(STAGING));
    }

    fn clear_staging(&self) {
        let Ok(entries) = fs::read_dir(self.root.join(STAGING)) else { return };
        for entry in entries.flatten() {
            let age =
                entry.metadata().and_then(|m| m.modified()).map(|t| SystemTime::now().duration_since(t));
            if matches!(age, Ok(Ok(age)) if age > STAGING_AGE_MAX) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    fn stage(&self) -> Result<Staged> {
        let folder = self.root.join(STAGING);
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_nanos());
        // `#` and digits at the end: a name that `LocalFileSystem` never lists.
        let path = folder.join(format!("{}-{nanos}#{sequence}", std::process::id()));
        let create = || OpenOptions::new().write(true).create_new(true).open(&path);
        let file = create().or_else(|e| match e.kind() {
            ErrorKind::NotFound => fs::create_dir_all(&folder).and_then(|()| create()),
            _ => Err(e),
        });
        let file = file.map_err(|e| failed("create", &path, &e))?;
        Ok(Staged { file: Some(file), path })
    }

    fn destination(&self, location: &Path) -> Result<PathBuf> {
        self.inner.path_to_filesystem(location)
    }
}

/// A file that has no name in the store yet. Dropping it removes it.
#[derive(Debug)]
struct Staged {
    file: Option<File>,
    path: PathBuf,
}

impl Staged {
    fn write(&mut self, payload: &PutPayload) -> Result<()> {
        let Some(file) = self.file.as_mut() else {
            return Err(failed("write", &self.path, &io::Error::other("upload already ended")));
        };
        payload
            .iter()
            .try_for_each(|chunk| file.write_all(chunk))
            .map_err(|e| failed("write", &self.path, &e))
    }

    /// Gives the synced bytes their name. The staging file is gone afterwards, whatever happened.
    fn publish(mut self, to: &FsPath, mode: &PutMode) -> Result<PutResult> {
        let Some(file) = self.file.take() else {
            return Err(failed("publish", to, &io::Error::other("upload already ended")));
        };
        file.sync_all().map_err(|e| failed("sync", &self.path, &e))?;
        drop(file);
        let name = || match mode {
            PutMode::Create => fs::hard_link(&self.path, to),
            _ => fs::rename(&self.path, to),
        };
        let folder = to.parent().unwrap_or(to);
        let named = name().or_else(|e| match e.kind() {
            ErrorKind::NotFound => create_dir_durably(folder).and_then(|()| name()),
            _ => Err(e),
        });
        match named {
            Ok(()) => {}
            Err(source) if source.kind() == ErrorKind::AlreadyExists => {
                return Err(Error::AlreadyExists { path: to.display().to_string(), source: source.into() });
            }
            Err(e) => return Err(failed("name", to, &e)),
        }
        sync_dir(folder).map_err(|e| failed("sync", folder, &e))?;
        Ok(PutResult { e_tag: None, version: None })
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        self.file = None;
        // After a rename it is gone already.
        let _ = fs::remove_file(&self.path);
    }
}

fn failed(what: &str, path: &FsPath, source: &io::Error) -> Error {
    let message = format!("failed to {what} {}: {source}", path.display());
    match source.kind() {
        ErrorKind::PermissionDenied => {
            Error::PermissionDenied { path: path.display().to_string(), source: message.into() }
        }
        _ => Error::Generic { store: STORE, source: message.into() },
    }
}

/// Makes `dir` and its missing parents, each synced into the folder above it.
fn create_dir_durably(dir: &FsPath) -> io::Result<()> {
    match fs::create_dir(dir) {
        Ok(()) => sync_dir(dir.parent().unwrap_or(dir)),
        Err(e) if e.kind() == ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        Err(e) if e.kind() == ErrorKind::NotFound => {
            let parent = dir.parent().filter(|p| !p.as_os_str().is_empty() && *p != dir).ok_or(e)?;
            create_dir_durably(parent)?;
            create_dir_durably(dir)
        }
        Err(e) => Err(e),
    }
}

#[cfg(unix)]
fn sync_dir(dir: &FsPath) -> io::Result<()> {
    let dir = if dir.as_os_str().is_empty() { FsPath::new(".") } else { dir };
    File::open(dir)?.sync_all()
}

/// Other systems order directory updates by themselves and can't open a directory as a file.
#[cfg(not(unix))]
fn sync_dir(_: &FsPath) -> io::Result<()> {
    Ok(())
}

/// Runs file work where it may block; in place when there is no runtime to hand it to.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => runtime.spawn_blocking(work).await?,
        Err(_) => work(),
    }
}

impl std::fmt::Display for LocalStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LocalStore({})", self.root.display())
    }
}

#[async_trait]
impl ObjectStore for LocalStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        if matches!(opts.mode, PutMode::Update(_)) {
            return self.inner.put_opts(location, payload, opts).await;
        }
        let (store, to) = (self.clone(), self.destination(location)?);
        blocking(move || {
            let mut staged = store.stage()?;
            staged.write(&payload)?;
            staged.publish(&to, &opts.mode)
        })
        .await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        _: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let (store, to) = (self.clone(), self.destination(location)?);
        let staged = blocking(move || store.stage()).await?;
        Ok(Box::new(LocalUpload {
            parts: Arc::new(Mutex::new(Parts { staged: Some(staged), written: 0 })),
            next: 0,
            to,
        }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let (path, ranges, buffers) = (self.destination(location)?, ranges.to_vec(), self.buffers.clone());
        blocking(move || {
            let read = || {
                let file = File::open(&path)?;
                let one = |r: &Range<u64>| {
                    let length = usize::try_from(r.end.saturating_sub(r.start)).map_err(io::Error::other)?;
                    buffers.read(length, |buffer| file.read_exact_at(buffer, r.start))
                };
                ranges.iter().map(one).collect::<io::Result<Vec<_>>>()
            };
            read().map_err(|e| match e.kind() {
                ErrorKind::NotFound => Error::NotFound { path: path.display().to_string(), source: e.into() },
                _ => failed("read", &path, &e),
            })
        })
        .await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        sorted(self.inner.list(prefix))
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        sorted(self.inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let mut found = self.inner.list_with_delimiter(prefix).await?;
        found.common_prefixes.retain(|p| p.as_ref() != STAGING);
        Ok(found)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await?;
        self.sync_parent(to).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.inner.rename_opts(from, to, options).await?;
        self.sync_parent(to).await
    }
}

impl LocalStore {
    async fn sync_parent(&self, location: &Path) -> Result<()> {
        let to = self.destination(location)?;
        blocking(move || {
            let folder = to.parent().unwrap_or(&to);
            sync_dir(folder).map_err(|e| failed("sync", folder, &e))
        })
        .await
    }
}

/// Puts a listing in order of the paths, as the object stores do: the Delta library finds gaps otherwise.
fn sorted(listing: BoxStream<'static, Result<ObjectMeta>>) -> BoxStream<'static, Result<ObjectMeta>> {
    let collected = listing.try_collect().map_ok(|mut found: Vec<ObjectMeta>| {
        found.sort_unstable_by(|a, b| a.location.cmp(&b.location));
        futures::stream::iter(found.into_iter().map(Ok))
    });
    collected.try_flatten_stream().boxed()
}

/// An upload in parts. Parts are appended in the order they were put, whatever the order they are polled in.
#[derive(Debug)]
struct LocalUpload {
    parts: Arc<Mutex<Parts>>,
    next: u64,
    to: PathBuf,
}

#[derive(Debug)]
struct Parts {
    staged: Option<Staged>,
    written: u64,
}

impl Parts {
    fn write_at(&mut self, offset: u64, payload: &PutPayload) -> Result<()> {
        use std::io::{Seek, SeekFrom};
        let Some(staged) = self.staged.as_mut() else {
            return Err(Error::Generic { store: STORE, source: "upload already ended".into() });
        };
        if let Some(file) = staged.file.as_mut() {
            file.seek(SeekFrom::Start(offset)).map_err(|e| failed("seek", &staged.path, &e))?;
        }
        staged.write(payload)?;
        self.written += payload.content_length() as u64;
        Ok(())
    }
}

#[async_trait]
impl MultipartUpload for LocalUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let offset = self.next;
        self.next += data.content_length() as u64;
        let parts = Arc::clone(&self.parts);
        blocking(move || parts.lock().write_at(offset, &data)).boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let (parts, to, size) = (Arc::clone(&self.parts), self.to.clone(), self.next);
        blocking(move || {
            let mut parts = parts.lock();
            // A part that failed or was never polled leaves a hole; such a file must not get a name.
            if parts.written != size {
                let message = format!("upload has {} of {size} bytes", parts.written);
                return Err(Error::Generic { store: STORE, source: message.into() });
            }
            let Some(staged) = parts.staged.take() else {
                return Err(Error::Generic { store: STORE, source: "upload already ended".into() });
            };
            staged.publish(&to, &PutMode::Overwrite)
        })
        .await
    }

    async fn abort(&mut self) -> Result<()> {
        let parts = Arc::clone(&self.parts);
        blocking(move || {
            drop(parts.lock().staged.take());
            Ok(())
        })
        .await
    }
}
