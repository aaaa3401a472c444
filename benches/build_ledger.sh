#!/usr/bin/env bash
# What each direct dependency costs to build, as a Markdown table: one first release build in an empty
# target directory, read from cargo's own timings. benches/BUILD_LEDGER.md keeps what was measured.
#
#   benches/build_ledger.sh                    builds (some ten minutes on two cores), then prints
#   TIMINGS=file.html benches/build_ledger.sh  reads an earlier `cargo build --release --timings`
#   RUMQTTD=0 benches/build_ledger.sh          leaves out what only the tests build
set -euo pipefail
cd "$(dirname "$0")/.."

TIMINGS=${TIMINGS:-}
RUMQTTD_TIMINGS=${RUMQTTD_TIMINGS:-}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if [[ -z $TIMINGS ]]; then
  CARGO_TARGET_DIR=$work/release cargo build --release --timings
  TIMINGS=$work/release/cargo-timings/cargo-timing.html
fi

# A package of nothing but rumqttd, with our lock file's versions and the profile of the tests.
if [[ -z $RUMQTTD_TIMINGS && ${RUMQTTD:-1} == 1 ]]; then
  mkdir -p "$work/peer/src"
  touch "$work/peer/src/lib.rs"
  cp Cargo.lock "$work/peer/"
  cat >"$work/peer/Cargo.toml" <<'PEER'
[package]
name = "peer"
version = "0.0.0"
edition = "2024"
[dependencies]
rumqttd = { version = "0.20.0", default-features = false }
[workspace]
[profile.dev]
opt-level = 1
debug = "line-tables-only"
PEER
  CARGO_TARGET_DIR=$work/peer-target cargo build --timings --manifest-path "$work/peer/Cargo.toml"
  RUMQTTD_TIMINGS=$work/peer-target/cargo-timings/cargo-timing.html
fi

host=$(rustc -vV | sed -n 's/^host: //p')
cargo metadata --format-version 1 --filter-platform "$host" >"$work/metadata.json"
python3 - "$work/metadata.json" "$TIMINGS" "$RUMQTTD_TIMINGS" <<'LEDGER'
import json
import re
import sys
from collections import defaultdict

metadata = json.load(open(sys.argv[1]))


def units(path):
    text = open(path).read()
    return json.loads(re.search(r"UNIT_DATA = (\[.*?\n?\]);", text, re.S)[1])


def seconds_by_crate(path):
    spent = defaultdict(float)
    for unit in units(path):
        spent[unit["name"], unit["version"]] += unit["duration"]
    return spent


spent = seconds_by_crate(sys.argv[2])
wall = max(unit["start"] + unit["duration"] for unit in units(sys.argv[2]))
packages = {package["id"]: (package["name"], package["version"]) for package in metadata["packages"]}
members = set(metadata["workspace_members"])
needs, direct = {}, defaultdict(set)
for node in metadata["resolve"]["nodes"]:
    wanted = {
        dep["pkg"] for dep in node["deps"] if any(kind["kind"] in (None, "build") for kind in dep["dep_kinds"])
    }
    needs[node["id"]] = wanted
    if node["id"] in members:
        for dep in wanted - members:
            direct[dep].add(packages[node["id"]][0])


def reach(start):
    seen, todo = set(), [start]
    while todo:
        for dep in needs[todo.pop()] - seen:
            seen.add(dep)
            todo.append(dep)
    return seen


reached_by = defaultdict(set)
for root in direct:
    for crate in reach(root) - set(direct):
        reached_by[crate].add(root)

rows = []
for root, users in direct.items():
    own = spent.get(packages[root], 0.0)
    alone = [crate for crate, roots in reached_by.items() if roots == {root} and packages[crate] in spent]
    brought = sum(spent[packages[crate]] for crate in alone)
    worst = sorted(alone, key=lambda crate: -spent[packages[crate]])[:3]
    names = ", ".join(f"{packages[crate][0]} {spent[packages[crate]]:.0f}" for crate in worst)
    rows.append((own + brought, packages[root], own, brought, len(alone), names, sorted(users)))
shared = [crate for crate, roots in reached_by.items() if len(roots) > 1 and packages[crate] in spent]
ours = sum(spent.get(packages[member], 0.0) for member in members)

print(f"First release build: {wall:.0f} s of wall time, {sum(spent.values()):.0f} s of compilation,")
print(f"{len(spent)} crates, {len(members)} of them ours.\n")
print("| direct dependency | for | itself, s | crates it alone brings | those, s | together, s | the largest of them |")
print("|---|---|---|---|---|---|---|")
for total, (name, version), own, brought, count, names, users in sorted(rows, reverse=True):
    print(f"| {name} {version} | {', '.join(users)} | {own:.1f} | {count} | {brought:.1f} | {total:.1f} | {names} |")
print(f"| *shared by several* | | | {len(shared)} | {sum(spent[packages[c]] for c in shared):.1f} | |"
      f" {', '.join(f'{packages[c][0]} {spent[packages[c]]:.0f}' for c in sorted(shared, key=lambda c: -spent[packages[c]])[:5])} |")
print(f"| *our own crates* | | | {len(members)} | {ours:.1f} | | |")

if sys.argv[3]:
    peer = seconds_by_crate(sys.argv[3])
    extra = {crate: seconds for crate, seconds in peer.items() if crate not in spent and crate[0] != "peer"}
    print(f"\nrumqttd, tests and benches only: {len(peer) - 1} crates, {len(extra)} of which nothing else needs:")
    print(f"{sum(extra.values()):.0f} s of compilation with the tests' profile ({sum(peer.values()):.0f} s with the rest).")
LEDGER
