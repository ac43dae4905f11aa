"""Prints rows of a Skald table as JSON lines: timestamp in nanoseconds, labels, line, metadata.

  table_rows.py duckdb-files|duckdb-delta|deltalake TABLE CONDITION [VERSION]

CONDITION is SQL over the table's columns; without VERSION the newest one is read (duckdb-delta has no other). Exit status 3:
this reader is not installed.
"""
import glob
import json
import os
import sys
import urllib.parse

UNAVAILABLE = 3
COLUMNS = "timestamp, nanos, labels, line, metadata"
NANOSECONDS = "SELECT epoch_us(timestamp) * 1000 + nanos, labels, line, metadata FROM (%s)"


def unavailable(reason):
    print(reason, file=sys.stderr)
    sys.exit(UNAVAILABLE)


def named(table, version):
    """The files that the log names: what commits added and none removed since. Commits are not cleaned up in a test."""
    paths = set()
    for commit in sorted(glob.glob(os.path.join(table, "_delta_log", "*.json"))):
        if version is not None and int(os.path.basename(commit).split(".")[0]) > version:
            break
        with open(commit, encoding="utf-8") as lines:
            for action in map(json.loads, lines):
                if "remove" in action:
                    paths.discard(urllib.parse.unquote(action["remove"]["path"]))
                if "add" in action:
                    paths.add(urllib.parse.unquote(action["add"]["path"]))
    return sorted(paths)


def query(source, table, condition, version):
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    if source == "duckdb-files":
        files = ["'%s/%s'" % (table.replace("'", "''"), path) for path in named(table, version)]
        relation = "read_parquet([%s], hive_partitioning = true)" % ", ".join(files)
    elif source == "duckdb-delta":
        if version is not None:
            unavailable("only the newest version is read by delta_scan")
        try:
            connection.execute("LOAD delta")
        except duckdb.Error as e:
            unavailable("DuckDB's delta extension is not installed: %s" % e)
        relation = "delta_scan('%s')" % table.replace("'", "''")
    else:
        builder = deltalake.QueryBuilder().register("logs", deltalake.DeltaTable(table, version=version))
        # DuckDB reads the Arrow data that this variable holds; here it only makes nanoseconds of two columns.
        selected = builder.execute("SELECT %s FROM logs WHERE %s" % (COLUMNS, condition))  # noqa: F841
        relation, condition = "selected", "true"
    cursor = connection.execute(NANOSECONDS % ("SELECT %s FROM %s WHERE %s" % (COLUMNS, relation, condition)))
    while batch := cursor.fetchmany(10_000):
        yield from batch


def main():
    source, table, condition, *version = sys.argv[1:]
    version = int(version[0]) if version else None
    out = sys.stdout
    for ts, labels, line, metadata in query(source, table, condition, version):
        if isinstance(line, (bytes, bytearray)):
            line = line.decode("utf-8")
        json.dump({"timestamp": ts, "labels": labels, "line": line, "metadata": dict(metadata or {})}, out, ensure_ascii=True)
        out.write("\n")


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5):
        sys.exit(__doc__)
    try:
        import duckdb
        if sys.argv[1] == "deltalake":
            import deltalake
    except ImportError as e:
        unavailable(e)
    main()
