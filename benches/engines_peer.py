"""How fast SQLite takes what the store gives its database: the same as engines.rs does with redb.

Arguments: a folder, values put in each commit, commits. Each commit is flushed (WAL, synchronous = FULL)."""

import os
import random
import sqlite3
import sys
import time

VALUE_BYTES = 300

folder, batch, commits = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
path = os.path.join(folder, "engine.sqlite")
database = sqlite3.connect(path, isolation_level=None)
database.execute("PRAGMA journal_mode = WAL")
database.execute("PRAGMA synchronous = FULL")
database.execute("PRAGMA cache_size = -4096")
database.execute("CREATE TABLE deliveries (name BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID")
# Made before the clock runs: what Python takes for that is not SQLite's.
pool = [random.randbytes(VALUE_BYTES) for _ in range(1024)]


def names(commit):
    return [number.to_bytes(16, "big") for number in range(commit * batch, (commit + 1) * batch)]


seconds = 0.0
before = []
for commit in range(commits):
    now = names(commit)
    rows = [(name, pool[number % len(pool)]) for number, name in enumerate(now)]
    gone = [(name,) for name in before]
    started = time.perf_counter()
    database.execute("BEGIN")
    database.executemany("INSERT OR REPLACE INTO deliveries VALUES (?, ?)", rows)
    database.executemany("DELETE FROM deliveries WHERE name = ?", gone)
    database.execute("COMMIT")
    seconds += time.perf_counter() - started
    before = now
size = sum(os.path.getsize(path + end) for end in ("", "-wal") if os.path.exists(path + end))
print(f"values_per_s={batch * commits / seconds:.0f} bytes={size}")
