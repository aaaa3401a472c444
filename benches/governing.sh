#!/usr/bin/env bash
# What a step of precision, a dead inference process and an urgent request cost those who listen, on weights of a real shape:
# see governing.py. What was found stands in benches/README.md.
#
#   benches/governing.sh                       a 1B shape, all three
#   SHAPE=llama-3.2-3b ONLY=step ROUNDS=50     another shape (of make_shape.py), one of step, kill, urgent and storm (ten minutes, root)
#   CLAWDBOT=path                              a built clawdbot
#   CLAWDBOT_BENCH_CACHE=folder                where weights are kept [default: target/bench-peers]
set -euo pipefail
cd "$(dirname "$0")/.."

SHAPE=${SHAPE:-llama-3.2-1b}
cache=$(mkdir -p "${CLAWDBOT_BENCH_CACHE:-target/bench-peers}" && cd "${CLAWDBOT_BENCH_CACHE:-target/bench-peers}" && pwd)

python=$cache/venv/bin/python
[[ -x $python ]] || python3 -m venv "$cache/venv"
"$cache/venv/bin/pip" -q install numpy gguf paho-mqtt

floats=$cache/$SHAPE-F16.gguf
if [[ ! -f $floats ]]; then
  echo "drawing the weights of $SHAPE" >&2
  "$python" benches/make_shape.py "$SHAPE" "$floats.part"
  mv "$floats.part" "$floats"
fi

if [[ -z ${CLAWDBOT:-} ]]; then
  cargo build -q --release
  CLAWDBOT=${CARGO_TARGET_DIR:-target}/release/clawdbot
fi

"$python" benches/governing.py "$CLAWDBOT" "$floats" --data "$cache/governing-$SHAPE" --rounds "${ROUNDS:-20}" \
  ${ONLY:+--only "$ONLY"}
