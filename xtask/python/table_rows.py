"""Prints rows of a Skald table as JSON lines: timestamp in nanoseconds, labels, line, metadata.

  table_rows.py duckdb-files|duckdb-delta|deltalake TABLE CONDITION

CONDITION is SQL over the table's columns. Exit status 3: this reader is not installed.
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


def named(table):
    """The files that the log names: what commits added and none removed since. Commits are not cleaned up in a test."""
    paths = set()
    for commit in sorted(glob.glob(os.path.join(table, "_delta_log", "*.json"))):
        with open(commit, encoding="utf-8") as lines:
            for action in map(json.loads, lines):
                if "remove" in action:
                    paths.discard(urllib.parse.unquote(action["remove"]["path"]))
                if "add" in action:
                    paths.add(urllib.parse.unquote(action["add"]["path"]))
    return sorted(paths)


def query(source, table, condition):
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    if source == "duckdb-files":
        files = ["'%s/%s'" % (table.replace("'", "''"), path) for path in named(table)]
        relation = "read_parquet([%s], hive_partitioning = true)" % ", ".join(files)
    elif source == "duckdb-delta":
        try:
            connection.execute("LOAD delta")
        except duckdb.Error as e:
            unavailable("DuckDB's delta extension is not installed: %s" % e)
        relation = "delta_scan('%s')" % table.replace("'", "''")
    else:
        builder = deltalake.QueryBuilder().register("logs", deltalake.DeltaTable(table))
        # DuckDB reads the Arrow data that this variable holds; here it only makes nanoseconds of two columns.
        selected = builder.execute("SELECT %s FROM logs WHERE %s" % (COLUMNS, condition))  # noqa: F841
        relation, condition = "selected", "true"
    cursor = connection.execute(NANOSECONDS % ("SELECT %s FROM %s WHERE %s" % (COLUMNS, relation, condition)))
    while batch := cursor.fetchmany(10_000):
        yield from batch


def main():
    source, table, condition = sys.argv[1:]
    out = sys.stdout
    for ts, labels, line, metadata in query(source, table, condition):
        if isinstance(line, (bytes, bytearray)):
            line = line.decode("utf-8")
        json.dump({"timestamp": ts, "labels": labels, "line": line, "metadata": dict(metadata or {})}, out, ensure_ascii=True)
        out.write("\n")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    try:
        import duckdb
        if sys.argv[1] == "deltalake":
            import deltalake
    except ImportError as e:
        unavailable(e)
    main()
