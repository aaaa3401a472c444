#!/usr/bin/env python3
"""What a lack of memory, a dead inference process and an urgent request cost those who listen, seen from outside.

    governing.py CLAWDBOT MODEL [--rounds N] [--only step|kill|urgent|storm] [--seconds S]

MODEL is a GGUF file of a real shape (benches/make_shape.py); its weights are packed first. Needs paho-mqtt from PyPI.

- step: while an answer streams, another program takes so much memory that the daemon goes from int8 to int4. Told are the time from
  the governor's word to the end of the step, the memory that the process has before and after (resident pages of the packed
  files, and its own), how long after the word that was back with the system, and the longest pause between two items,
  in mean times between tokens.
- kill: sixteen answers stream, the process is killed (SIGILL, so that the precision stays). Told are the time to the first
  item behind that, and whether all answers came whole.
- urgent: eight background answers stream, an urgent request of a short prompt comes. Told is the time to its first item,
  beside that of the same request alone, and the mean time of a step of the eight.
- storm: in a memory cgroup (v1) with what int4 needs at least (weights, 100 MiB, the smallest cache of 64 MiB) and 15 % more,
  eight devices ask for long answers to long prompts for so many seconds. Told are how each request ended, what the group
  used at most, how often it met its limit, and how many processes were lost. Needs root.
"""

import argparse
import atexit
import json
import os
import queue
import shutil
import signal
import statistics
import subprocess
import tempfile
import threading
import time

import paho.mqtt.client as mqtt

PROMPT = "Once upon a time " * 16  # 64 tokens of a vocabulary of pairs of bytes


class Daemon:
    def __init__(self, clawdbot, data, model, group=None, **settings):
        sets = {"mqtt.tcp": "127.0.0.1:0", "mqtt.websocket": "127.0.0.1:0", "metrics.listen": "127.0.0.1:0",
                "log.format": "json", "auth.mode": "none", "model.keep_lower_precisions": "false", **settings}
        command = [clawdbot, "--data-dir", data, "serve", "--model", model]
        for key, value in sets.items():
            command += ["--set", f"{key}={value}"]
        self.log = queue.Queue()
        join = None if group is None else lambda: open(f"{group}/cgroup.procs", "w").write(str(os.getpid()))
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=join)
        atexit.register(self.process.kill)
        threading.Thread(target=self.read, daemon=True).start()
        self.port, self.worker = None, None
        while self.port is None:
            line = self.said("listens", "started")
            if line["message"] == "mqtt listens":
                self.port = int(line["address"].rsplit(":", 1)[1])
        self.said("model loaded")

    def read(self):
        for line in self.process.stderr:
            try:
                line = json.loads(line)
            except json.JSONDecodeError:
                print(line, end="")
                continue
            line["seen"] = time.monotonic()
            if line["message"] == "inference process started":
                self.worker = line["pid"]
            self.log.put(line)
        self.log.put(None)

    def said(self, *texts):
        while True:
            line = self.log.get(timeout=900)
            if line is None:
                raise SystemExit("the daemon has ended; what it said last stands above")
            if any(text in line["message"] for text in texts):
                return line

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


class Asker:
    """A device whose items are noted with the time at which they came."""

    def __init__(self, daemon, name):
        self.name, self.items, self.ended = name, [], threading.Event()
        self.first = threading.Event()
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=name)
        subscribed = threading.Event()
        self.client.on_message = self.on_message
        self.client.on_subscribe = lambda *_: subscribed.set()
        self.client.connect("127.0.0.1", daemon.port)
        self.client.loop_start()
        self.client.subscribe(f"clawdbot/{name}/reply", 1)
        assert subscribed.wait(30)

    def on_message(self, _client, _data, message):
        item = json.loads(message.payload)
        item["came"] = time.monotonic()
        self.items.append(item)
        self.first.set()
        if item.get("done"):
            self.ended.set()

    def ask(self, tokens, priority="interactive", prompt=PROMPT):
        self.items, self.ended, self.first = [], threading.Event(), threading.Event()
        self.asked = time.monotonic()
        request = {"id": "q", "prompt": prompt, "temperature": 0, "max_tokens": tokens, "priority": priority}
        self.client.publish(f"clawdbot/{self.name}/command", json.dumps(request), 1)

    def pauses(self):
        came = [item["came"] for item in self.items]
        return [after - before for before, after in zip(came, came[1:])]

    def check(self):
        assert [item["seq"] for item in self.items] == list(range(len(self.items))), "a seq is missing"
        assert self.items[-1]["finish_reason"] in ("length", "stop"), self.items[-1]


def memory_of(pid):
    """Resident bytes of mapped files, and of its own."""
    sums = {}
    for line in open(f"/proc/{pid}/status"):
        name, _, value = line.partition(":")
        if name in ("RssAnon", "RssFile"):
            sums[name] = int(value.split()[0]) * 1024
    return sums["RssFile"], sums["RssAnon"]


def meminfo(name):
    for line in open("/proc/meminfo"):
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"/proc/meminfo has no {name}")


def cached(directory):
    """Bytes of the packed files in the page cache, by fincore of util-linux."""
    found = subprocess.run(["fincore", "-b", "-n", "-o", "RES", *(os.path.join(directory, name)
                           for name in os.listdir(directory))], capture_output=True, text=True, check=True)
    return sum(int(line) for line in found.stdout.split())


def mib(count):
    return f"{count / 2**20:.0f} MiB"


def step(args, data):
    # What is kept free leaves room for int8, or the daemon would begin lower by itself; then another program takes it.
    total, available = meminfo("MemTotal"), meminfo("MemAvailable")
    packed = os.path.join(data, "packed")
    needed = max(os.path.getsize(os.path.join(packed, name)) for name in os.listdir(packed)) + 2**30
    keep = int((available - needed) * 100 / total) - 1
    assert keep > 5, "there is not enough memory for int8 and something beside it"
    daemon = Daemon(args.clawdbot, data, args.model, **{
        "model.precision": "int8", "memory.keep_free_percent": keep, "memory.recovery_margin_percent": 1,
        "memory.interval_s": 4, "memory.dwell_s": 1, "supervisor.heartbeat_interval_s": 1})
    asker = Asker(daemon, "phone")
    asker.ask(400)
    assert asker.first.wait(300)
    taken = meminfo("MemAvailable") - keep * total // 100 + 2**30
    hog = subprocess.Popen(["python3", "-c", f"import time; taken = bytearray({taken}); "
                            "taken[::4096] = bytes(len(taken[::4096])); time.sleep(600)"])
    atexit.register(hog.kill)
    line = daemon.said("memory is governed")
    while "StepDown" not in str(line):
        before, in_cache = memory_of(daemon.worker), cached(packed)
        line = daemon.said("memory is governed")
    word = line["seen"]
    back = None
    end = daemon.said("at another precision")["seen"]
    while back is None or time.monotonic() < word + 5:
        now = cached(packed)
        if back is None and now < in_cache * 0.7:
            back = time.monotonic() - word
        time.sleep(0.02)
        if time.monotonic() > word + 60:
            break
    after, now = memory_of(daemon.worker), cached(packed)
    assert asker.ended.wait(600)
    asker.check()
    around = [(b["came"], b["came"] - a["came"]) for a, b in zip(asker.items, asker.items[1:])]
    usual = statistics.mean(pause for at, pause in around if at < word)
    longest = max(pause for at, pause in around if word <= at <= end + 2)
    print(f"step int8 -> int4: {end - word:.2f} s; resident {mib(sum(before))} -> {mib(sum(after))}, packed files in the "
          f"page cache {mib(in_cache)} -> {mib(now)}, most of it back {back:.2f} s after the word; "
          f"longest pause {longest * 1000:.0f} ms = {longest / usual:.1f} mean times between items")
    hog.kill()
    daemon.stop()


def kill(args, data):
    daemon = Daemon(args.clawdbot, data, args.model, **{
        "model.precision": "int4", "model.max_sequences": 16, "memory.keep_free_percent": 0})
    askers = [Asker(daemon, f"phone{number}") for number in range(16)]
    for asker in askers:
        asker.ask(48)
    for asker in askers:
        assert asker.first.wait(600)
    at = time.monotonic()
    os.kill(daemon.worker, signal.SIGILL)
    for asker in askers:
        assert asker.ended.wait(600)
        asker.check()
    behind = [next(item["came"] for item in asker.items if item["attempt"] == 2) - at
              for asker in askers if asker.items[-1]["attempt"] == 2]
    print(f"kill with 16 streams: {len(behind)} of them were interrupted, all came whole; the first went on after "
          f"{min(behind):.2f} s, the last after {max(behind):.2f} s")
    daemon.stop()


def urgent(args, data):
    daemon = Daemon(args.clawdbot, data, args.model, **{
        "model.precision": "int4", "model.max_sequences": 8, "memory.keep_free_percent": 0})
    phone = Asker(daemon, "phone")
    alone, beside, steps = [], [], []
    # Prompts of which nothing is cached.
    prompts = (f"{number} {PROMPT}" for number in range(1_000_000))
    for _ in range(args.rounds):
        phone.ask(4, "urgent", next(prompts))
        assert phone.ended.wait(300)
        alone.append(phone.items[0]["came"] - phone.asked)
    others = [Asker(daemon, f"other{number}") for number in range(8)]
    for other in others:
        other.ask(4000, "background", next(prompts))
    for other in others:
        assert other.first.wait(600)
    for _ in range(args.rounds):
        time.sleep(1)
        seen = [len(other.items) for other in others]
        time.sleep(1)
        steps.append(1 / max(1, max(len(other.items) - before for other, before in zip(others, seen))))
        phone.ask(4, "urgent", next(prompts))
        assert phone.ended.wait(300)
        phone.check()
        beside.append(phone.items[0]["came"] - phone.asked)
    worst = lambda times: sorted(times)[int(0.99 * (len(times) - 1))]
    solo, step_s = statistics.median(alone), statistics.median(steps)
    print(f"urgent beside 8 background answers, {args.rounds} rounds: first item after {statistics.median(beside) * 1000:.0f} ms "
          f"in the median, P99 {worst(beside) * 1000:.0f} ms; alone {solo * 1000:.0f} and {worst(alone) * 1000:.0f} ms; a step of "
          f"the eight takes {step_s * 1000:.0f} ms; P99 is {(worst(beside) - step_s) / worst(alone):.2f} times alone, less one step")
    daemon.stop()


def storm(args, data):
    packed = [os.path.join(data, "packed", name) for name in os.listdir(os.path.join(data, "packed")) if "int4" in name]
    weights = max(os.path.getsize(path) for path in packed)
    limit = int((weights + (100 << 20) + (64 << 20)) * 1.15)
    group = f"/sys/fs/cgroup/memory/clawdbot-{os.getpid()}"
    os.mkdir(group)
    open(f"{group}/memory.limit_in_bytes", "w").write(str(limit))
    # So that the group pays for the pages that it reads.
    open("/proc/sys/vm/drop_caches", "w").write("1")
    daemon = Daemon(args.clawdbot, data, args.model, group, **{"model.precision": "int4", "memory.interval_s": 1})
    askers = [Asker(daemon, f"phone{number}") for number in range(8)]
    ends, until, number = {}, time.monotonic() + args.seconds, 0
    for asker in askers:
        asker.ended.set()
    while time.monotonic() < until or not all(asker.ended.is_set() for asker in askers):
        for asker in askers:
            if not asker.ended.is_set():
                continue
            if asker.items:
                end = asker.items[-1]
                assert [item["seq"] for item in asker.items] == list(range(len(asker.items))), "a seq is missing"
                how = end["error"]["code"] if "error" in end else end["finish_reason"]
                ends[how] = ends.get(how, 0) + 1
                asker.items = []
            if time.monotonic() < until:
                number += 1
                asker.ask(300, ("interactive", "background")[number % 2], f"{number} {PROMPT * (1 + number % 8)}")
        time.sleep(0.05)
        if time.monotonic() > until + 900:
            raise SystemExit("requests are left that did not end")
    said = lambda name: open(f"{group}/{name}").read()
    kills = [line.split()[1] for line in said("memory.oom_control").splitlines() if line.startswith("oom_kill ")]
    lost = 0
    while not daemon.log.empty():
        line = daemon.log.get()
        lost += line is not None and line["message"] == "inference process lost"
    print(f"storm for {args.seconds} s in {mib(limit)} (int4 has {mib(weights)} of weights): {ends}; at most "
          f"{mib(int(said('memory.max_usage_in_bytes')))} used, the limit met {said('memory.failcnt').strip()} times, "
          f"{kills} kills by the system, {lost} processes lost")
    daemon.stop()
    time.sleep(1)
    os.rmdir(group)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("clawdbot")
    parser.add_argument("model")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--only")
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--data", help="where weights stay packed for the next time")
    args = parser.parse_args()
    data = args.data or tempfile.mkdtemp(prefix="clawdbot-governing-")
    os.makedirs(data, mode=0o700, exist_ok=True)
    for precision in ("int8", "int4"):
        subprocess.run([args.clawdbot, "--data-dir", data, "model", "quantize", args.model, "--precision", precision],
                       check=True, stdout=subprocess.DEVNULL)
    for measure in (step, kill, urgent, storm):
        if args.only in ((None, measure.__name__) if measure is not storm else ("storm",)):
            measure(args, data)
    if not args.data:
        shutil.rmtree(data)


if __name__ == "__main__":
    main()
