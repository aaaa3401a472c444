#!/usr/bin/env bash
# What 100 idle clients cost for a minute: the processor time of the daemon and of its inference process,
# as a share of one core. Issue 2 allows 1 %.
#
#   benches/idle_cpu.sh [MODEL]           CLAWDBOT=path MQTT_LOAD=path for binaries built elsewhere
set -euo pipefail
cd "$(dirname "$0")/.."

MODEL=${1:-$PWD/../shared/data/models/stories260K/stories260K-f32.gguf}
CLIENTS=${CLIENTS:-100}
SECONDS_IDLE=${SECONDS_IDLE:-60}
PORT=18841
if [[ -z ${CLAWDBOT:-} ]]; then
  cargo build --release --bin clawdbot
  CLAWDBOT=$PWD/target/release/clawdbot
fi

work=$(mktemp -d)
pids=()
stop() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait 2>/dev/null || true
  rm -rf "$work"
}
trap stop EXIT

CLAWDBOT__DATA_DIR=$work/data CLAWDBOT__MQTT__TCP=127.0.0.1:$PORT CLAWDBOT__AUTH__MODE=none \
  CLAWDBOT__METRICS__LISTEN=127.0.0.1:18849 "$CLAWDBOT" serve --model "$MODEL" >"$work/log" 2>&1 &
daemon=$!
pids+=("$daemon")
for _ in $(seq 100); do
  (exec 3<>"/dev/tcp/127.0.0.1/$PORT") 2>/dev/null && break
  sleep 0.1
done

# Clients that connect, keep alive every 30 s as a phone does, and say nothing else.
python3 - "$PORT" "$CLIENTS" $((SECONDS_IDLE + 20)) <<'CLIENTS' &
import socket
import sys
import time

port, clients, seconds = map(int, sys.argv[1:])
streams = []
for index in range(clients):
    stream = socket.create_connection(("127.0.0.1", port))
    name = b"idle%d" % index
    body = b"\0\4MQTT\4\2\0\x1e" + len(name).to_bytes(2, "big") + name
    stream.sendall(b"\x10" + bytes([len(body)]) + body)
    answer = stream.recv(4)
    assert answer == b"\x20\2\0\0", f"client {index} was answered {answer!r}"
    streams.append(stream)
print(f"{clients} clients connected", flush=True)
end = time.monotonic() + seconds
while time.monotonic() < end:
    time.sleep(25)
    for stream in streams:
        stream.sendall(b"\xc0\0")
        assert stream.recv(2) == b"\xd0\0"
CLIENTS
pids+=($!)
# The model is loaded and all are connected before the clock starts.
sleep 10

ticks() { awk '{ sub(/.*\) /, ""); print $12 + $13 }' "/proc/$1/stat"; }
child=$(pgrep -P "$daemon" | head -n 1 || true)
[[ -n $child ]] || { echo "the daemon has no inference process:" >&2; cat "$work/log" >&2; exit 1; }
daemon_before=$(ticks "$daemon") child_before=$(ticks "$child")
sleep "$SECONDS_IDLE"
daemon_after=$(ticks "$daemon") child_after=$(ticks "$child")
kill -0 "${pids[1]}" || { echo "the clients ended before their time" >&2; exit 1; }

awk -v hz="$(getconf CLK_TCK)" -v s="$SECONDS_IDLE" -v d=$((daemon_after - daemon_before)) -v c=$((child_after - child_before)) \
  -v n="$CLIENTS" 'BEGIN {
    printf "%d idle clients, %d s: daemon %.2f s (%.2f %% of a core), inference process %.2f s (%.2f %%), together %.2f %%\n",
      n, s, d / hz, 100 * d / hz / s, c / hz, 100 * c / hz / s, 100 * (d + c) / hz / s
  }'
