//! A cache whose budget is bytes: for footers, stream indexes, line filters and whatever else is read often.

use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};
use skald_runtime::Instruments;

/// A value that knows how much memory it holds.
pub trait Weigh {
    /// Bytes in memory, about, what it points to included.
    fn weight(&self) -> usize;
}

impl Weigh for bytes::Bytes {
    fn weight(&self) -> usize {
        self.len()
    }
}

impl<T: Weigh + ?Sized> Weigh for Arc<T> {
    fn weight(&self) -> usize {
        (**self).weight()
    }
}

/// What each entry costs beside key and value: the cache's own bookkeeping.
const ENTRY_BYTES: usize = 128;

/// The instruments of all caches of a process, under Loki's names.
#[derive(Clone, Debug)]
pub struct CacheMetrics {
    fetched_keys: IntCounterVec,
    hits: IntCounterVec,
    bytes: IntGaugeVec,
}

impl CacheMetrics {
    /// Registers `loki_cache_fetched_keys`, `loki_cache_hits` and `skald_cache_bytes`, each by the cache's name.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let (r, label) = (Instruments(registry), &["name"]);
        Ok(Self {
            fetched_keys: r.counters(
                "loki_cache_fetched_keys",
                "Total count of keys requested from cache.",
                label,
            )?,
            hits: r.counters("loki_cache_hits", "Total count of keys found in cache.", label)?,
            bytes: r.gauges("skald_cache_bytes", "Bytes that a cache holds.", label)?,
        })
    }
}

/// A cache of at most so many bytes. What was used least often and longest ago goes first. Clones share it.
#[derive(Clone, Debug)]
pub struct ByteCache<K: Hash + Eq + Send + Sync + 'static, V: Weigh + Clone + Send + Sync + 'static> {
    cache: moka::future::Cache<K, V>,
    fetched: IntCounter,
    hits: IntCounter,
    bytes: IntGauge,
}

impl<K, V> ByteCache<K, V>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Weigh + Clone + Send + Sync + 'static,
{
    /// A cache called `name` in the metrics. With `bytes_max` 0 nothing is kept, but callers that want the same
    /// at the same time still share one load.
    pub fn new(name: &str, bytes_max: u64, metrics: &CacheMetrics) -> Self {
        let cache = moka::future::Cache::builder()
            .max_capacity(bytes_max)
            .weigher(|_, value: &V| {
                u32::try_from(size_of::<K>() + ENTRY_BYTES + value.weight()).unwrap_or(u32::MAX)
            })
            .build();
        Self {
            cache,
            fetched: metrics.fetched_keys.with_label_values(&[name]),
            hits: metrics.hits.with_label_values(&[name]),
            bytes: metrics.bytes.with_label_values(&[name]),
        }
    }

    /// The value of `key`, if it is there.
    pub async fn get(&self, key: &K) -> Option<V> {
        self.fetched.inc();
        let found = self.cache.get(key).await;
        if found.is_some() {
            self.hits.inc();
        }
        found
    }

    /// The value of `key`; loads it if it is not there. Of callers that come together one loads and all get its
    /// value or its error; an error is not kept.
    pub async fn get_or_load<E>(&self, key: K, load: impl Future<Output = Result<V, E>>) -> Result<V, Arc<E>>
    where
        E: Send + Sync + 'static,
    {
        self.fetched.inc();
        let loaded = AtomicBool::new(false);
        let observed = async {
            loaded.store(true, Ordering::Relaxed);
            load.await
        };
        let value = self.cache.try_get_with(key, observed).await;
        match (&value, loaded.into_inner()) {
            (Ok(_), false) => self.hits.inc(),
            (Ok(_), true) => self.bytes.set(self.cache.weighted_size() as i64),
            (Err(_), _) => {}
        }
        value
    }

    /// Keeps `value` under `key`.
    pub async fn insert(&self, key: K, value: V) {
        self.cache.insert(key, value).await;
        self.bytes.set(self.cache.weighted_size() as i64);
    }

    /// Forgets `key`.
    pub async fn remove(&self, key: &K) {
        self.cache.invalidate(key).await;
    }

    /// Bytes held, up to date after pending evictions were carried out.
    pub async fn bytes(&self) -> u64 {
        self.cache.run_pending_tasks().await;
        self.bytes.set(self.cache.weighted_size() as i64);
        self.cache.weighted_size()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn cache(bytes_max: u64) -> ByteCache<u64, Bytes> {
        ByteCache::new("test", bytes_max, &CacheMetrics::new(&Registry::new()).unwrap())
    }

    #[tokio::test]
    async fn keeps_to_its_budget() {
        let cache = cache(100_000);
        for key in 0..1000 {
            cache.insert(key, Bytes::from(vec![0; 1000])).await;
        }
        let held = cache.bytes().await;
        assert!(held <= 100_000 && held > 50_000, "{held}");
    }

    #[tokio::test]
    async fn callers_that_come_together_share_one_load() {
        let cache = cache(100_000);
        let loads = std::sync::atomic::AtomicUsize::new(0);
        let load = || async {
            loads.fetch_add(1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            Ok::<_, String>(Bytes::from_static(b"x"))
        };
        let all = futures::future::join_all((0..10).map(|_| cache.get_or_load(1, load()))).await;
        assert!(all.iter().all(|v| v.as_deref() == Ok(b"x")));
        assert_eq!(loads.load(Ordering::SeqCst), 1);
        assert_eq!((cache.fetched.get(), cache.hits.get()), (10, 9));
    }

    #[tokio::test]
    async fn errors_are_told_and_not_kept() {
        let cache = cache(100_000);
        let failed = cache.get_or_load(1, async { Err("no") }).await;
        assert_eq!(failed, Err(Arc::new("no")));
        assert_eq!(cache.get(&1).await, None);
        let loaded = cache.get_or_load(1, async { Ok::<_, String>(Bytes::new()) }).await;
        assert_eq!(loaded, Ok(Bytes::new()));
        assert!(cache.get(&1).await.is_some());
        cache.remove(&1).await;
        assert_eq!(cache.get(&1).await, None);
    }
}
