//! The cost of a query in the shape that Loki's clients look for. What Skald does not have is 0.

use std::io::Write as _;

use skald_model::QueryStats;

const CACHE: &str = r#"{"entriesFound":0,"entriesRequested":0,"entriesStored":0,"bytesReceived":0,"bytesSent":0,"requests":0,"downloadTime":0,"queryLengthServed":0}"#;

/// Loki's names for its caches.
const CACHES: [&str; 9] = [
    "chunk",
    "index",
    "result",
    "statsResult",
    "volumeResult",
    "seriesResult",
    "labelResult",
    "instantMetricResult",
    "logResult",
];

/// Appends `"stats":{…}`.
pub(crate) fn write(out: &mut Vec<u8>, s: &QueryStats) {
    let bytes = s.block_bytes + s.head_bytes + s.structured_metadata_bytes;
    let lines = s.block_lines + s.head_lines;
    let per_second = |n: u64| if s.exec_seconds > 0.0 { (n as f64 / s.exec_seconds) as u64 } else { 0 };
    out.extend_from_slice(b"\"stats\":{");
    // Writing to a vector cannot fail.
    let _ = write!(
        out,
        "\"summary\":{{\"bytesProcessedPerSecond\":{},\"linesProcessedPerSecond\":{},\"totalBytesProcessed\":{bytes},\
         \"totalLinesProcessed\":{lines},\"execTime\":{},\"queueTime\":{},\"subqueries\":{},\
         \"totalEntriesReturned\":{},\"splits\":{},\"shards\":0,\"totalPostFilterLines\":{},\
         \"totalStructuredMetadataBytesProcessed\":{}}},",
        per_second(bytes),
        per_second(lines),
        finite(s.exec_seconds),
        finite(s.queue_seconds),
        s.subqueries,
        s.entries_returned,
        s.subqueries,
        s.post_filter_lines,
        s.structured_metadata_bytes,
    );
    out.extend_from_slice(b"\"querier\":{");
    let blocks = Store {
        refs: s.blocks + s.blocks_pruned,
        downloaded: s.blocks,
        head: (0, 0),
        decompressed: (s.block_bytes, s.block_lines),
        compressed: s.compressed_bytes,
        duplicates: s.duplicates,
        post_filter: s.post_filter_lines,
        metadata: s.structured_metadata_bytes,
    };
    store(out, &blocks);
    let _ = write!(
        out,
        "}},\"ingester\":{{\"totalReached\":{},\"totalChunksMatched\":0,\"totalBatches\":0,\"totalLinesSent\":0,",
        s.ingesters
    );
    store(out, &Store { head: (s.head_bytes, s.head_lines), ..Store::default() });
    out.extend_from_slice(b"},\"cache\":{");
    for (i, name) in CACHES.iter().enumerate() {
        let _ = write!(out, "{}\"{name}\":{CACHE}", if i > 0 { "," } else { "" });
    }
    let _ = write!(
        out,
        "}},\"index\":{{\"totalChunks\":{},\"postFilterChunks\":{},\"shardsDuration\":0,\"usedBloomFilters\":false,\
         \"totalStreams\":{},\"chunkRefsLookupTime\":0,\"bloomFilterTime\":0}}}}",
        s.blocks + s.blocks_pruned,
        s.blocks,
        s.streams,
    );
}

/// JSON has no word for what is not finite.
fn finite(seconds: f64) -> f64 {
    if seconds.is_finite() { seconds } else { 0.0 }
}

/// What one kind of source has cost.
#[derive(Default)]
struct Store {
    refs: u64,
    downloaded: u64,
    /// Bytes and lines.
    head: (u64, u64),
    /// Bytes and lines.
    decompressed: (u64, u64),
    compressed: u64,
    duplicates: u64,
    post_filter: u64,
    metadata: u64,
}

fn store(out: &mut Vec<u8>, s: &Store) {
    let _ = write!(
        out,
        "\"store\":{{\"totalChunksRef\":{},\"totalChunksDownloaded\":{},\"chunksDownloadTime\":0,\
         \"queryReferencedStructuredMetadata\":false,\"chunk\":{{\"headChunkBytes\":{},\"headChunkLines\":{},\
         \"decompressedBytes\":{},\"decompressedLines\":{},\"compressedBytes\":{},\"totalDuplicates\":{},\
         \"postFilterLines\":{},\"headChunkStructuredMetadataBytes\":0,\
         \"decompressedStructuredMetadataBytes\":{}}},\"chunkRefsFetchTime\":0,\"congestionControlLatency\":0,\
         \"pipelineWrapperFilteredLines\":0}}",
        s.refs,
        s.downloaded,
        s.head.0,
        s.head.1,
        s.decompressed.0,
        s.decompressed.1,
        s.compressed,
        s.duplicates,
        s.post_filter,
        s.metadata,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_find_what_they_look_for() {
        let stats = QueryStats {
            block_bytes: 1000,
            head_bytes: 24,
            block_lines: 9,
            exec_seconds: 0.5,
            blocks: 2,
            blocks_pruned: 3,
            ..QueryStats::default()
        };
        let mut out = b"{".to_vec();
        write(&mut out, &stats);
        out.push(b'}');
        let v: serde_json::Value = serde_json::from_slice(&out).unwrap();
        let at =
            |path: &str| v.pointer(&format!("/stats/{path}")).unwrap_or_else(|| panic!("{path}")).clone();
        assert_eq!(at("summary/totalBytesProcessed"), 1024);
        assert_eq!(at("summary/bytesProcessedPerSecond"), 2048);
        assert_eq!(at("summary/execTime"), 0.5);
        assert_eq!(at("querier/store/chunk/decompressedBytes"), 1000);
        assert_eq!(at("ingester/store/chunk/headChunkBytes"), 24);
        assert_eq!(at("cache/logResult/requests"), 0);
        assert_eq!(at("index/totalChunks"), 5);
    }
}
