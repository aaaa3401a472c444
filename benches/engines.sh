#!/usr/bin/env bash
# What the embedded store is built on, redb, beside SQLite (WAL, synchronous = FULL) under the store's own load, turn by
# turn in one run: values of 300 bytes put and taken away again, so many in each flushed commit. What was found stands in
# benches/README.md.
#
#   benches/engines.sh              medians of three rounds
#   DIRECTORY=path                  on that disk, not in the temporary directory
set -euo pipefail
cd "$(dirname "$0")/.."

REPEATS=${REPEATS:-3}
work=$(mktemp -d -p "${DIRECTORY:-${TMPDIR:-/tmp}}")
trap 'rm -rf "$work"' EXIT

if [[ -z ${ENGINES:-} ]]; then
  ENGINES=$(cargo bench --no-run --bench engines --message-format=json |
    python3 -c 'import json,sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable") and message["target"]["name"] == "engines": print(message["executable"])')
fi

# BATCH COMMITS
measure() {
  for _ in $(seq "$REPEATS"); do
    for engine in redb sqlite; do
      local folder line
      folder=$(mktemp -d -p "$work")
      case $engine in
      redb) line=$("$ENGINES" "$folder" "$1" "$2") ;;
      sqlite) line=$(python3 benches/engines_peer.py "$folder" "$1" "$2") ;;
      esac
      rm -rf "$folder"
      echo "$1 a commit, $engine: $line" >&2
      printf '%s\t%s\t%s\n' "$1" "$engine" "$line" >>"$work/results"
    done
  done
}

measure 1 2000
measure 16 1000
measure 256 400
measure 2048 100

python3 - "$work/results" <<'PY'
import re, statistics, sys
found = {}
for line in open(sys.argv[1]):
    batch, engine, said = line.rstrip("\n").split("\t")
    found.setdefault(batch, {}).setdefault(engine, []).append({k: int(v) for k, v in re.findall(r"(\w+)=(\d+)", said)})
print("| values a commit | values/s, redb | SQLite | ratio | MiB, redb | SQLite |")
print("|---|---|---|---|---|---|")
for batch, engines in found.items():
    def median(engine, what):
        return statistics.median(run[what] for run in engines[engine])
    ours, theirs = median("redb", "values_per_s"), median("sqlite", "values_per_s")
    sizes = [f"{median(engine, 'bytes') / 2**20:.1f}" for engine in ("redb", "sqlite")]
    print(f"| {batch} | {ours:,} | {theirs:,} | {ours / theirs:.2f} | {sizes[0]} | {sizes[1]} |")
PY
