#!/usr/bin/env bash
# Clawdbot's engine, llama.cpp and candle on the same weights, turn by turn in one run: a prompt of 512 tokens, 64 tokens
# decoded one by one behind it, eight sequences at once, memory, and the time from a start to the first token. What was
# found stands in benches/README.md.
#
#   benches/inference.sh                 medians of three rounds, a 1B shape
#   SHAPES="llama-3.2-1b llama-3.2-3b small"  other shapes (of make_shape.py); the 3B one needs 20 GB of disk
#   PRECISIONS="int4 int8 f16"           only some of them
#   REPEATS=5 THREADS=4
#   CLAWDBOT=path                        a built clawdbot
#   LLAMA_CPP=folder                     with llama-bench and llama-quantize built already
#   CANDLE=path                          a built candle_peer; CANDLE=no leaves candle out
#   CLAWDBOT_BENCH_CACHE=folder          where peers and weights are kept [default: target/bench-peers]
#
# llama.cpp is built for this very processor from the PyPI source package llama-cpp-python, by CMake from PyPI; candle by
# cargo with target-cpu=native. That takes about a quarter of an hour on two cores, once.
set -euo pipefail
cd "$(dirname "$0")/.."

REPEATS=${REPEATS:-3}
SHAPES=${SHAPES:-llama-3.2-1b}
PRECISIONS=${PRECISIONS:-int4 int8 f16}
THREADS=${THREADS:-$(getconf _NPROCESSORS_ONLN)}
PROMPT=512 TOKENS=64
cache=$(mkdir -p "${CLAWDBOT_BENCH_CACHE:-target/bench-peers}" && cd "${CLAWDBOT_BENCH_CACHE:-target/bench-peers}" && pwd)
llama_version=0.3.36
llama_sha256=832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e

python=$cache/venv/bin/python
if [[ ! -x $python ]]; then
  echo "installing cmake, ninja, numpy and gguf from PyPI" >&2
  python3 -m venv "$cache/venv"
  "$cache/venv/bin/pip" -q install cmake ninja numpy gguf
fi

if [[ -z ${LLAMA_CPP:-} ]]; then
  LLAMA_CPP=$cache/llama.cpp/bin
  if [[ ! -x $LLAMA_CPP/llama-bench ]]; then
    echo "building llama.cpp" >&2
    archive=llama_cpp_python-$llama_version.tar.gz
    address=$(curl -fsL https://pypi.org/simple/llama-cpp-python/ |
      grep -o "https://[^\"#]*/$archive" | head -n 1)
    curl -fsL "$address" -o "$cache/$archive"
    echo "$llama_sha256  $cache/$archive" | sha256sum --check --quiet
    tar -xzf "$cache/$archive" -C "$cache"
    PATH=$cache/venv/bin:$PATH cmake -G Ninja -S "$cache/llama_cpp_python-$llama_version/vendor/llama.cpp" \
      -B "$cache/llama.cpp" -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DBUILD_SHARED_LIBS=OFF -DLLAMA_CURL=OFF \
      -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF >/dev/null
    PATH=$cache/venv/bin:$PATH cmake --build "$cache/llama.cpp" --target llama-bench llama-quantize >/dev/null
  fi
fi

if [[ -z ${CANDLE:-} ]]; then
  echo "building candle" >&2
  RUSTFLAGS="-C target-cpu=native" cargo build -q --release --manifest-path benches/candle_peer/Cargo.toml \
    --target-dir "$cache/candle"
  CANDLE=$cache/candle/release/candle_peer
fi

if [[ -z ${CLAWDBOT:-} ]]; then
  cargo build -q --release
  CLAWDBOT=${CARGO_TARGET_DIR:-target}/release/clawdbot
fi

declare -A types=([int4]=Q4_0 [int8]=Q8_0 [f16]=F16)
results=$(mktemp)
trap 'rm -f "$results"' EXIT
cache_data=$cache/data
mkdir -p "$cache_data"

# SHAPE PRECISION: the file with the weights at llama.cpp's type for it.
weights() {
  local floats=$cache/$1-F16.gguf quantised=$cache/$1-${types[$2]}.gguf
  if [[ ! -f $floats ]]; then
    echo "drawing the weights of $1" >&2
    "$python" benches/make_shape.py "$1" "$floats.part"
    mv "$floats.part" "$floats"
  fi
  if [[ ! -f $quantised ]]; then
    echo "quantising $1 to ${types[$2]} by llama.cpp" >&2
    "$LLAMA_CPP/llama-quantize" "$floats" "$quantised.part" "${types[$2]}" >/dev/null 2>&1
    mv "$quantised.part" "$quantised"
  fi
  echo "$quantised"
}

# SHAPE PRECISION PEER JSON
note() {
  printf '%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "$4" >>"$results"
  echo "$1 $2 $3: $4" >&2
}

ours() {
  "$CLAWDBOT" --data-dir "$cache_data" bench --model "$cache/$1-F16.gguf" --threads "$THREADS" --precision "$2" \
    --prompt-tokens $PROMPT --tokens $TOKENS --json 2>/dev/null
}

# Twice: the first one packs the weights, if they are not yet, and warms the page cache.
first_token() {
  local begun ended
  for _ in 1 2; do
    begun=$(date +%s%N)
    "$CLAWDBOT" --data-dir "$cache_data" generate --model "$cache/$1-F16.gguf" --threads "$THREADS" --precision "$2" \
      --max-tokens 1 --temperature 0 "The first word" >/dev/null 2>&1
    ended=$(date +%s%N)
  done
  note "$1" "$2" start "{\"seconds\": $(((ended - begun) / 1000000))e-3}"
}

theirs() {
  local file=$1
  "$LLAMA_CPP/llama-bench" -m "$file" -t "$THREADS" -r 1 -p $PROMPT -n 0 -o json 2>/dev/null
  "$LLAMA_CPP/llama-bench" -m "$file" -t "$THREADS" -r 1 -p 0 -n $TOKENS -d $PROMPT -o json 2>/dev/null
}

for shape in $SHAPES; do
  for precision in $PRECISIONS; do
    file=$(weights "$shape" "$precision")
    first_token "$shape" "$precision"
    for _ in $(seq "$REPEATS"); do
      note "$shape" "$precision" clawdbot "$(ours "$shape" "$precision")"
      note "$shape" "$precision" llama.cpp "$(theirs "$file" | "$python" -c '
import json, sys
text, decoder, paces = sys.stdin.read().strip(), json.JSONDecoder(), []
while text:
    runs, end = decoder.raw_decode(text)
    paces += [run["avg_ts"] for run in runs]
    text = text[end:].strip()
print(json.dumps({"prefill_tokens_per_s": paces[0], "decode_tokens_per_s": paces[1]}))')"
      if [[ $CANDLE != no ]]; then
        read -r prefill decode < <(RAYON_NUM_THREADS=$THREADS "$CANDLE" "$file" $PROMPT $TOKENS)
        note "$shape" "$precision" candle "{\"prefill_tokens_per_s\": $prefill, \"decode_tokens_per_s\": $decode}"
      fi
    done
  done
done

"$python" - "$results" <<'PY'
import json, statistics, sys

runs = {}
for line in open(sys.argv[1]):
    shape, precision, peer, said = line.rstrip("\n").split("\t")
    runs.setdefault((shape, precision), {}).setdefault(peer, []).append(json.loads(said))

def median(of, what):
    return statistics.median(run[what] for run in of) if of else None

def shown(value, form="{:.1f}"):
    return "" if value is None else form.format(value)

print("| | Clawdbot | llama.cpp | candle | to llama.cpp | to the better |")
print("|---|---|---|---|---|---|")
for (shape, precision), peers in runs.items():
    for what, name in (("prefill_tokens_per_s", "prefill"), ("decode_tokens_per_s", "decode")):
        ours, theirs, third = (median(peers.get(p), what) for p in ("clawdbot", "llama.cpp", "candle"))
        better = max(pace for pace in (theirs, third) if pace is not None)
        print(f"| {shape} {precision}, {name}, tokens/s | {shown(ours)} | {shown(theirs)} | {shown(third)} "
              f"| {ours / theirs:.2f} | {ours / better:.2f} |")
print()
print("| | 8 at once, tokens/s | to one | weights read, of the memory's pace | weights MiB | resident beyond weights and caches MiB | start to first token s |")
print("|---|---|---|---|---|---|---|")
for (shape, precision), peers in runs.items():
    ours = peers["clawdbot"]
    beyond = statistics.median(r["resident_bytes"] - r["weights_bytes"] - r["cache_bytes"] for r in ours)
    share = statistics.median(r["weights_read_bytes_per_s"] / r["memory_bytes_per_s"] for r in ours)
    batch, one = median(ours, "batch_tokens_per_s"), median(ours, "decode_tokens_per_s")
    print(f"| {shape} {precision} | {batch:.1f} | {batch / one:.2f} | {share:.0%} "
          f"| {ours[0]['weights_bytes'] / 2**20:.0f} | {beyond / 2**20:.0f} | {median(peers['start'], 'seconds'):.2f} |")
PY
