#!/usr/bin/env bash
# Clawdbot, Mosquitto, rumqttd and a bare byte relay under the same load (../shared/tools/mqtt-load), turn by turn in one run,
# so that a neighbour's noise hits all of them. Prints a Markdown table; what each column means and what was
# found stands in benches/README.md.
#
#   benches/brokers.sh                    the whole matrix
#   REPEATS=3 benches/brokers.sh          medians of three rounds
#   ONLY=idle benches/brokers.sh          only the memory of idle clients, and many connections
#   ONLY=busy benches/brokers.sh          only the paced load while the model works (MODEL=path to a model; without
#                                         it, busy_model.py makes one that is heavy enough of a small one)
#   SCALE=10 benches/brokers.sh           a tenth of the messages, for a quick look
#   CLAWDBOT=path RUMQTTD_PEER=path RELAY_PEER=path MQTT_LOAD=path   binaries built elsewhere
set -euo pipefail
cd "$(dirname "$0")/.."

REPEATS=${REPEATS:-1}
SCALE=${SCALE:-100}
# No single measurement may take longer; what it did not deliver by then is printed as lost.
LIMIT_S=${LIMIT_S:-90}
IDLE_CLIENTS=${IDLE_CLIENTS:-5000}
MANY_CLIENTS=${MANY_CLIENTS:-15000}
SMALL_MODEL=../shared/data/models/stories260K/stories260K-f32.gguf
BROKERS=(clawdbot mosquitto rumqttd)
declare -A PORT=([clawdbot]=18831 [mosquitto]=18832 [rumqttd]=18833 [relay]=18834)
declare -A PID

work=$(mktemp -d)
stop() {
  for pid in "${PID[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait 2>/dev/null || true
}
trap 'stop; rm -rf "$work"' EXIT
ulimit -n "$(ulimit -Hn)"

say() { echo "$*" >&2; }

bench_binary() {
  cargo bench --no-run --bench "$1" --message-format=json |
    python3 -c 'import json,sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable") and message["target"]["name"] == sys.argv[1]: print(message["executable"])' "$1"
}

build() {
  if [[ -z ${CLAWDBOT:-} ]]; then
    cargo build --release --bin clawdbot
    CLAWDBOT=$PWD/target/release/clawdbot
  fi
  RUMQTTD_PEER=${RUMQTTD_PEER:-$(bench_binary rumqttd_peer)}
  RELAY_PEER=${RELAY_PEER:-$(bench_binary relay_peer)}
  if [[ -z ${MQTT_LOAD:-} ]]; then
    # The tool lies in a folder that may not be written to.
    CARGO_TARGET_DIR=$PWD/target/mqtt-load cargo build --release --manifest-path ../shared/tools/mqtt-load/Cargo.toml
    MQTT_LOAD=$PWD/target/mqtt-load/release/mqtt-load
  fi
}

start() {
  CLAWDBOT__DATA_DIR=$work/clawdbot CLAWDBOT__MQTT__TCP=127.0.0.1:${PORT[clawdbot]} CLAWDBOT__AUTH__MODE=none \
    CLAWDBOT__MQTT__WEBSOCKET= CLAWDBOT__MQTT__MAX_CONNECTIONS=20000 CLAWDBOT__MODEL__PATH=${model:-} \
    CLAWDBOT__METRICS__LISTEN=127.0.0.1:18839 CLAWDBOT__LOG__LEVEL=warn "$CLAWDBOT" serve >"$work/clawdbot.log" 2>&1 &
  PID[clawdbot]=$!
  cat >"$work/mosquitto.conf" <<CONF
listener ${PORT[mosquitto]} 127.0.0.1
allow_anonymous true
persistence false
max_inflight_messages 100
max_queued_messages 0
set_tcp_nodelay true
log_type error
CONF
  mosquitto -c "$work/mosquitto.conf" >"$work/mosquitto.log" 2>&1 &
  PID[mosquitto]=$!
  "$RUMQTTD_PEER" --port "${PORT[rumqttd]}" >"$work/rumqttd.log" 2>&1 &
  PID[rumqttd]=$!
  "$RELAY_PEER" --port "${PORT[relay]}" >"$work/relay.log" 2>&1 &
  PID[relay]=$!
  for broker in "${BROKERS[@]}" relay; do
    for _ in $(seq 100); do
      (exec 3<>"/dev/tcp/127.0.0.1/${PORT[$broker]}") 2>/dev/null && continue 2
      sleep 0.1
    done
    say "$broker does not listen on ${PORT[$broker]}:"
    cat "$work/$broker.log" >&2
    exit 1
  done
}

rss_kib() { awk '/VmRSS/ { print $2 }' "/proc/${PID[$1]}/status" 2>/dev/null || echo 0; }

# measure NAME MESSAGES ARGS...: one round of every broker.
measure() {
  local name=$1 messages=$(($2 * SCALE / 100))
  shift 2
  for round in $(seq "$REPEATS"); do
    for broker in "${BROKERS[@]}" relay; do
      local line
      line=$(timeout "$LIMIT_S" "$MQTT_LOAD" --port "${PORT[$broker]}" "$@" --messages "$messages" 2>>"$work/load.log") || line="failed"
      say "$name, round $round, $broker: $line"
      printf '%s\t%s\t%s\n' "$name" "$broker" "$line" >>"$work/results"
    done
  done
}

remember_rss() { for broker in "${BROKERS[@]}"; do printf '%s\t%s\trss_kib=%s\n' "$1" "$broker" "$(rss_kib "$broker")" >>"$work/results"; done; }

# Processor time of the inference process up to now.
model_cpu_ms() {
  local ticks
  ticks=$(awk '{ print $14 + $15 }' "/proc/$(pgrep -P "${PID[clawdbot]}" | head -1)/stat")
  echo $((ticks * 1000 / $(getconf CLK_TCK)))
}

# Paced load on Clawdbot alone, while four questions at a time keep the model busy.
busy() {
  stop
  if [[ -z ${MODEL:-} ]]; then
    MODEL=$work/busy.gguf
    python3 benches/busy_model.py "$SMALL_MODEL" "$MODEL"
  fi
  model=$MODEL start
  for _ in $(seq 100); do
    curl -sf http://127.0.0.1:18839/health | grep -q '"model":"ready"' && break
    sleep 0.2
  done
  local name
  for state in idle busy; do
    if [[ $state == busy ]]; then
      for asker in 1 2 3 4; do
        # Ends with the broker; more questions than there are answers only wait in their device's queue.
        (while sleep 0.2; do echo '{"prompt":"Once upon a time","max_tokens":400}'; done |
          mosquitto_pub -h 127.0.0.1 -p "${PORT[clawdbot]}" -t "clawdbot/asker$asker/command" -q 1 -l) >/dev/null 2>&1 &
        mosquitto_sub -h 127.0.0.1 -p "${PORT[clawdbot]}" -t "clawdbot/asker$asker/reply" >/dev/null 2>&1 &
      done
      sleep 2
    fi
    local before=$(model_cpu_ms) since=$(date +%s%3N)
    for round in $(seq "$REPEATS"); do
      for kind in "1 pair at 1,000/s:--clients 1 --rate 1000 --messages 5000" "50 pairs at 40/s:--clients 50 --rate 40 --messages 200"; do
        name="${kind%%:*}, model $state"
        # shellcheck disable=SC2086
        say "$name, round $round: $(timeout "$LIMIT_S" "$MQTT_LOAD" --port "${PORT[clawdbot]}" pairs --size 100 --qos 1 ${kind#*:})"
      done
    done
    say "model $state: its process had $((100 * ($(model_cpu_ms) - before) / ($(date +%s%3N) - since))) % of a core"
  done
}

build
start
if [[ ${ONLY:-} == busy ]]; then
  busy
  exit 0
fi
if [[ ${ONLY:-} != idle ]]; then
  remember_rss "memory at rest"
  for size in 100 4096; do
    for qos in 0 1; do
      # Enough for half a second of the fastest: a shorter run measures how it begins.
      case "$size, $qos" in
        "100, 0") messages=1000000 ;;
        "100, 1") messages=300000 ;;
        "4096, 0") messages=150000 ;;
        "4096, 1") messages=60000 ;;
      esac
      measure "1 pair, $size B, QoS $qos" $messages pairs --clients 1 --size $size --qos $qos
      measure "50 pairs, $size B, QoS $qos" $((messages / 25)) pairs --clients 50 --size $size --qos $qos
    done
  done
  measure "fan-out to 50, 100 B, QoS 0" 20000 fanout --clients 50 --size 100 --qos 0
  measure "fan-out to 50, 100 B, QoS 1" 10000 fanout --clients 50 --size 100 --qos 1
  measure "paced: 1 pair at 1,000/s, QoS 1" 5000 pairs --clients 1 --size 100 --qos 1 --rate 1000
  measure "paced: 50 pairs at 40/s, QoS 1" 200 pairs --clients 50 --size 100 --qos 1 --rate 40
  sleep 10
  remember_rss "memory ten seconds after"
  # What the load left behind is in the line above; idle clients are counted on processes that saw none.
  stop
  start
fi
for broker in "${BROKERS[@]}"; do
  line=$(timeout "$LIMIT_S" "$MQTT_LOAD" --port "${PORT[$broker]}" idle --clients "$IDLE_CLIENTS" --pid "${PID[$broker]}" 2>>"$work/load.log") || line="failed"
  say "idle, $broker: $line"
  printf '%s\t%s\t%s\n' "$IDLE_CLIENTS idle clients" "$broker" "$line" >>"$work/results"
done
stop
start
for broker in clawdbot mosquitto; do
  line=$(timeout "$LIMIT_S" "$MQTT_LOAD" --port "${PORT[$broker]}" idle --clients "$MANY_CLIENTS" --pid "${PID[$broker]}" 2>>"$work/load.log") || line="failed"
  say "many, $broker: $line"
  printf '%s\t%s\t%s\n' "$MANY_CLIENTS idle clients" "$broker" "$line" >>"$work/results"
done
[[ -s $work/load.log ]] && sort "$work/load.log" | uniq -c | sort -rn | head -5 >&2

python3 - "$work/results" <<'TABLE'
import re
import statistics
import sys

BROKERS = ["clawdbot", "mosquitto", "rumqttd"]
cases = {}
for line in open(sys.argv[1]):
    name, broker, result = line.rstrip("\n").split("\t")
    cases.setdefault(name, {}).setdefault(broker, []).append(result)


def number(pattern, results):
    found = [float(m[1]) for m in (re.search(pattern, r) for r in results) if m]
    return statistics.median(found) if found else None


def spread(results):
    """Slowest and fastest round: how far a single one is to be trusted."""
    found = [int(m[1]) for m in (re.search(r"delivered/s=(\d+)", r) for r in results) if m]
    return f" [{min(found):,}–{max(found):,}]" if len(found) > 1 else ""


def lost(results):
    pairs = [m.groups() for m in (re.search(r"delivered=(\d+)/(\d+)", r) for r in results) if m]
    failed = sum(1 for r in results if r == "failed")
    missing = sum(int(all_) - int(came) for came, all_ in pairs)
    return ("" if not missing else f" ({missing:,} lost)") + ("" if not failed else f" ({failed} failed)")


print("| | Clawdbot | Mosquitto | rumqttd | bare relay | to the better peer | to the relay |")
print("|---|---|---|---|---|---|---|")
for name, results in cases.items():
    cells, values, p50s = [], {}, {}
    for broker in [*BROKERS, "relay"]:
        own = results.get(broker, [])
        if not own:
            cells.append("")
            values[broker] = None
            continue
        if name.startswith("paced"):
            p50, p99 = number(r"p50_ms=([\d.]+)", own), number(r"p99_ms=([\d.]+)", own)
            values[broker], p50s[broker] = p99, p50
            cells.append(("failed" if p99 is None else f"p50 {p50:.3f} ms, p99 {p99:.2f} ms") + lost(own))
        elif name.startswith("memory"):
            values[broker] = number(r"rss_kib=(\d+)", own)
            cells.append(f"{values[broker] / 1024:.1f} MiB")
        elif "idle" in name:
            values[broker], seconds = number(r"subscribed=(\d+)", own), number(r"connect_s=([\d.]+)", own)
            cells.append("failed" if seconds is None else f"{values[broker] / 1024:.1f} MiB, connected in {seconds:.1f} s")
        else:
            values[broker] = number(r"delivered/s=(\d+)", own)
            cells.append(("failed" if values[broker] is None else f"{values[broker]:,.0f}/s{spread(own)}") + lost(own))
    peers = [values[b] for b in BROKERS[1:] if values[b]]
    smaller_is_better = name.startswith(("paced", "memory")) or "idle" in name
    ratio = ""
    if values["clawdbot"] and peers:
        ratio = f"{values['clawdbot'] / (min(peers) if smaller_is_better else max(peers)):.2f}"
    if name.startswith("paced") and p50s.get("clawdbot"):
        # What they are held to is Mosquitto alone.
        better, relay = (
            f"{p50s['clawdbot'] / p50s[b]:.2f}, {values['clawdbot'] / values[b]:.2f}" if p50s.get(b) else ""
            for b in ("mosquitto", "relay")
        )
        print(f"| {name} | {' | '.join(cells)} | {better} | {relay} |")
        continue
    to_relay = f"{values['clawdbot'] / values['relay']:.2f}" if values["clawdbot"] and values["relay"] else ""
    print(f"| {name} | {' | '.join(cells)} | {ratio} | {to_relay} |")
TABLE
