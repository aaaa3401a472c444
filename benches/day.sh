#!/usr/bin/env bash
# A day of a busy household in twenty minutes: flat memory, bounded disk, no error, and every message and answer where it
# belongs. See day/table.py, which is the day; what was found stands in benches/README.md.
#
#   benches/day.sh                 the whole day
#   MINUTES=2 benches/day.sh       a quick look: as much in a second, but a tenth of it; flatness is not judged then
#   DEVICES=30                     a smaller house [default: 60]
#   HELD=1                         judge what is allocated, counted by benches/counted_daemon.rs, and not what is resident
#   CLAWDBOT=path                  a built clawdbot; with HELD, a built counted_daemon
#   CLAWDBOT_BENCH_CACHE=folder    where the Python environment is kept [default: target/bench-peers]
#   KEEP=folder                    where samples, metrics and the log stay [default: nowhere, unless something is off]
#   SEED=number                    the same chances again
set -euo pipefail
cd "$(dirname "$0")/.."

cache=$(mkdir -p "${CLAWDBOT_BENCH_CACHE:-target/bench-peers}" && cd "${CLAWDBOT_BENCH_CACHE:-target/bench-peers}" && pwd)
model=${MODEL:-../shared/data/models/stories260K/stories260K-f32.gguf}
if [[ ! -f $model ]]; then
  echo "there is no model $model; name a small GGUF file by MODEL" >&2
  exit 2
fi

python=$cache/venv/bin/python
[[ -x $python ]] || python3 -m venv "$cache/venv"
"$python" -c 'import paho.mqtt' 2>/dev/null || "$cache/venv/bin/pip" -q install paho-mqtt

if [[ -z ${CLAWDBOT:-} && -n ${HELD:-} ]]; then
  CLAWDBOT=$(cargo bench -q --no-run --bench counted_daemon --message-format=json |
    sed -n 's/.*"name":"counted_daemon".*"executable":"\([^"]*\)".*/\1/p')
elif [[ -z ${CLAWDBOT:-} ]]; then
  cargo build -q --release
  CLAWDBOT=${CARGO_TARGET_DIR:-target}/release/clawdbot
fi

# What an owner has set for a daemon of theirs is not for this one.
for variable in $(compgen -e CLAWDBOT__ || true); do unset "$variable"; done

exec "$python" benches/day "$CLAWDBOT" "$model" --minutes "${MINUTES:-20}" --devices "${DEVICES:-60}" \
  --seed "${SEED:-$RANDOM}" ${KEEP:+--keep "$KEEP"} ${HELD:+--held}
