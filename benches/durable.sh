#!/usr/bin/env bash
# Messages at QoS 1 for sessions that outlive their connections, Clawdbot beside Mosquitto with `persistence true` and
# `autosave_on_changes true`, turn by turn in one run. How often each flushed the disk (fsync, fdatasync, msync, counted
# by strace where it is installed, in a run of its own since it slows both down) stands behind the rates; what was found
# stands in benches/README.md.
#
#   benches/durable.sh                 medians of three rounds
#   REPEATS=1 SCALE=10 benches/durable.sh   a quick look
#   CLAWDBOT=path DURABLE_LOAD=path    binaries built elsewhere
set -euo pipefail
cd "$(dirname "$0")/.."

REPEATS=${REPEATS:-3}
SCALE=${SCALE:-100}
BROKERS=(clawdbot mosquitto)
declare -A PORT=([clawdbot]=18841 [mosquitto]=18842)
declare -A PID

work=$(mktemp -d)
stop() {
  for pid in "${PID[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait 2>/dev/null || true
}
trap 'stop; rm -rf "$work"' EXIT

if [[ -z ${CLAWDBOT:-} ]]; then
  cargo build --release --bin clawdbot
  CLAWDBOT=$PWD/target/release/clawdbot
fi
if [[ -z ${DURABLE_LOAD:-} ]]; then
  DURABLE_LOAD=$(cargo bench --no-run --bench durable_load --message-format=json |
    python3 -c 'import json,sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable") and message["target"]["name"] == "durable_load": print(message["executable"])')
fi

# start [PREFIX...]: both brokers, each behind PREFIX and with its name in $work/NAME.strace.
start() {
  PID=()
  # What waits in one from before would be written again and again.
  rm -rf "$work/clawdbot" "$work/mosquitto.db"
  CLAWDBOT__DATA_DIR=$work/clawdbot CLAWDBOT__MQTT__TCP=127.0.0.1:${PORT[clawdbot]} CLAWDBOT__AUTH__MODE=none \
    CLAWDBOT__MODEL__PATH= CLAWDBOT__MQTT__WEBSOCKET= CLAWDBOT__METRICS__LISTEN=127.0.0.1:18849 CLAWDBOT__LOG__LEVEL=warn \
    CLAWDBOT__MQTT__MAX_QUEUED_MESSAGES=1000000 CLAWDBOT__MQTT__MAX_QUEUED_BYTES=1000000000 \
    "${@//NAME/clawdbot}" "$CLAWDBOT" serve >"$work/clawdbot.log" 2>&1 &
  PID[clawdbot]=$!
  cat >"$work/mosquitto.conf" <<CONF
listener ${PORT[mosquitto]} 127.0.0.1
allow_anonymous true
user $(id -un)
persistence true
persistence_location $work/
autosave_on_changes true
autosave_interval 1
max_inflight_messages 100
max_queued_messages 0
set_tcp_nodelay true
log_type error
CONF
  "${@//NAME/mosquitto}" mosquitto -c "$work/mosquitto.conf" >"$work/mosquitto.log" 2>&1 &
  PID[mosquitto]=$!
  for broker in "${BROKERS[@]}"; do
    for _ in $(seq 100); do
      (exec 3<>"/dev/tcp/127.0.0.1/${PORT[$broker]}") 2>/dev/null && continue 2
      sleep 0.1
    done
    echo "$broker does not listen:" >&2
    cat "$work/$broker.log" >&2
    exit 1
  done
}

# measure NAME MESSAGES ARGS...
measure() {
  local name=$1 messages=$(($2 * SCALE / 100))
  shift 2
  for round in $(seq "$REPEATS"); do
    for broker in "${BROKERS[@]}"; do
      local line
      line=$(timeout 120 "$DURABLE_LOAD" --port "${PORT[$broker]}" "$@" --messages "$messages" 2>>"$work/load.log") || line="failed"
      echo "$name, round $round, $broker: $line" >&2
      printf '%s\t%s\t%s\n' "$name" "$broker" "$line" >>"$work/results"
    done
  done
}

start
measure "1 pair, connected" 20000 --pairs 1
measure "8 pairs, connected" 10000 --pairs 8
# Fewer, because Mosquitto writes all that waits anew for whatever changes: 40,000 in all it does not take in 120 s.
measure "8 pairs, subscribers away" 1000 --pairs 8 --subscribers away
stop

flushes() { awk '$NF ~ /^(fsync|fdatasync|msync)$/ { sum += $4 } END { print sum + 0 }' "$work/$1.strace"; }
if command -v strace >/dev/null; then
  start strace -f -c -e trace=fsync,fdatasync,msync -o "$work/NAME.strace"
  for broker in "${BROKERS[@]}"; do
    timeout 300 "$DURABLE_LOAD" --port "${PORT[$broker]}" --pairs 8 --messages $((1000 * SCALE / 100)) >/dev/null
  done
  pkill -P "${PID[clawdbot]}" -TERM || true
  pkill -P "${PID[mosquitto]}" -TERM || true
  wait 2>/dev/null || true
  PID=()
  echo "flushes of the disk for $((8000 * SCALE / 100)) messages of 8 pairs: clawdbot $(flushes clawdbot), mosquitto $(flushes mosquitto)"
fi

python3 - "$work/results" <<'PY'
import re, statistics, sys
found = {}
for line in open(sys.argv[1]):
    name, broker, said = line.rstrip("\n").split("\t")
    numbers = dict(re.findall(r"(\w+)=([\d.]+)", said))
    lost = re.search(r"received=(\d+)/(\d+)", said)
    found.setdefault(name, {}).setdefault(broker, []).append((numbers, lost.groups() if lost else ("0", "?")))
print("| load | acknowledged/s, Clawdbot | Mosquitto | ratio | through/s, Clawdbot | Mosquitto | ratio | received, Clawdbot | Mosquitto |")
print("|---|---|---|---|---|---|---|---|---|")
for name, brokers in found.items():
    def median(broker, what):
        return statistics.median(float(n.get(what, 0)) for n, _ in brokers[broker])
    def received(broker):
        return "/".join(brokers[broker][-1][1])
    row = [name]
    for what in ("acknowledged_per_s", "through_per_s"):
        ours, theirs = median("clawdbot", what), median("mosquitto", what)
        row += [f"{ours:,.0f}", f"{theirs:,.0f}", f"{ours / theirs:.2f}" if theirs else "-"]
    print("| " + " | ".join(row + [received("clawdbot"), received("mosquitto")]) + " |")
PY
