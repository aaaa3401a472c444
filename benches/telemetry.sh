#!/usr/bin/env bash
# What telemetry costs: broker throughput, tokens and commands a second, and the processor time of each, of a daemon that is
# scraped every second and sends metrics, lines and every request's trace to a collector, beside one with all of that off: see
# telemetry_cost.py. What was found stands in benches/README.md. About a quarter of an hour.
#
#   benches/telemetry.sh                       medians of ten pairs
#   REPEATS=2 ONLY=pairs benches/telemetry.sh  a quick look at measures with "pairs" in their names
#   CONTROL=1 benches/telemetry.sh             everything off on both sides: how far the ratios can be trusted
#   CALM=1                                     waits for moments in which other programs leave the processor alone
#   SCRAPE_INTERVAL_S=15                       as usual, instead of 1
#   MODEL=path                                 weights of a real shape [default: those of governing.sh, a 1B one]
#   CLAWDBOT=path MQTT_LOAD=path ROTEL=path    binaries built elsewhere
#   CLAWDBOT_BENCH_CACHE=folder                where weights and the collector are kept [default: target/bench-peers]
#
# The collector is rotel, from PyPI: one in Rust, which takes what it is sent and throws it away. Prometheus comes from Debian.
set -euo pipefail
cd "$(dirname "$0")/.."

shape=llama-3.2-1b
rotel_version=0.0.1a15
cache=$(mkdir -p "${CLAWDBOT_BENCH_CACHE:-target/bench-peers}" && cd "${CLAWDBOT_BENCH_CACHE:-target/bench-peers}" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Fifty pairs are two hundred sockets.
ulimit -n "$(ulimit -Hn)"

python=$cache/venv/bin/python
[[ -x $python ]] || python3 -m venv "$cache/venv"

if [[ -z ${ROTEL:-} ]]; then
  "$cache/venv/bin/pip" -q install "rotel==$rotel_version"
  ROTEL=$("$python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))')/rotel/rotel-agent
fi

if [[ -z ${MODEL:-} ]]; then
  MODEL=$cache/$shape-F16.gguf
  if [[ ! -f $MODEL ]]; then
    echo "drawing the weights of $shape" >&2
    "$cache/venv/bin/pip" -q install numpy gguf
    "$python" benches/make_shape.py "$shape" "$MODEL.part"
    mv "$MODEL.part" "$MODEL"
  fi
fi

if [[ -z ${CLAWDBOT:-} ]]; then
  cargo build -q --release
  CLAWDBOT=${CARGO_TARGET_DIR:-target}/release/clawdbot
fi
if [[ -z ${MQTT_LOAD:-} ]]; then
  # The tool lies in a folder that may not be written to.
  CARGO_TARGET_DIR=$PWD/target/mqtt-load cargo build -q --release --manifest-path ../shared/tools/mqtt-load/Cargo.toml
  MQTT_LOAD=$PWD/target/mqtt-load/release/mqtt-load
fi

# Packed once for both, and in the page cache once.
packed=$cache/telemetry
"$CLAWDBOT" --data-dir "$packed" model quantize "$MODEL" --precision int4 >&2
for state in off on; do
  mkdir -p "$work/data-$state"
  chmod 700 "$work/data-$state"
  mkdir "$work/data-$state/packed"
  ln "$packed"/packed/*int4* "$work/data-$state/packed/" 2>/dev/null || cp "$packed"/packed/*int4* "$work/data-$state/packed/"
done

"$python" benches/telemetry_cost.py "$CLAWDBOT" --mqtt-load "$MQTT_LOAD" --collector "$ROTEL" --model "$MODEL" \
  --tiny-model ../shared/data/models/stories260K/stories260K-f32.gguf --sentences tests/assistant/en-dev.jsonl \
  --work "$work" --repeats "${REPEATS:-10}" --scrape-interval "${SCRAPE_INTERVAL_S:-1}" --only "${ONLY:-}" \
  ${CONTROL:+--control} ${CALM:+--calm}
