#!/usr/bin/env python3
"""What telemetry costs: two daemons of the same program under the same load, turn by turn, one with everything off, one with
everything on. Prints a Markdown table; `telemetry.sh` calls it, and what was found stands in benches/README.md.

    telemetry_cost.py CLAWDBOT --mqtt-load PATH --collector PATH --model GGUF --tiny-model GGUF --sentences JSONL --work FOLDER
                      [--repeats N] [--only PART-OF-A-NAME] [--scrape-interval S] [--control] [--calm]

Only Python's standard library is needed: the clients are sockets and a few bytes of MQTT 3.1.1, so that they take little of the
processor that they share with what is measured.

off: nobody scrapes, no collector, no disk probe, only warnings are logged. The HTTP listener is there and the numbers are
     counted, since neither can be switched off.
on:  Prometheus scrapes (curl does where there is none), metrics, log lines and every request's trace go to a collector, the
     disk is probed every 15 s as by default, and lines from "info" on are logged.

With --control both have everything off: what the ratios are then is the error of this measurement. With --calm each load waits
for a moment in which other programs leave the processor alone, five minutes in all at most. The last column says what they took
during the loads nevertheless.

Each pair of measurements has two daemons of its own, since where a process happens to lie in memory makes a few hundredths of its
speed, and would look like telemetry in all pairs alike. Each of the two has the load twice, in the order off, on, on, off or the
other way round, so that a machine that gets faster or slower meanwhile favours neither.

A rate is what the client has; the processor time is that of the daemon and its inference process together, by the kernel's own
clock of a process, so that what the collector and Prometheus take of the same cores is no part of it.
"""

import argparse
import atexit
import itertools
import json
import math
import os
import re
import selectors
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request

PROMPT = "Once upon a time "
# Longer than this nothing may take; then something hangs.
PATIENCE_S = 120
# Of a load, before it is measured.
WARM_UP = 0.1


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def cpu_s(pid):
    """Processor time of a process up to now, in seconds: all its threads, those that have ended as well."""
    # The clock's number is made as in the kernel's CPUCLOCK_SCHED of another process.
    return time.clock_gettime(((~pid) << 3) | 2)


def children(pid):
    found = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/children") as file:
            found += [int(child) for child in file.read().split()]
    return found


def busy_s():
    """Processor time that all programs of this machine have had up to now, in seconds of a core."""
    with open("/proc/stat") as file:
        user, nice, system, _idle, _waiting, irq, softirq, *_ = map(int, file.readline().split()[1:])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


class Calm:
    """Waits until other programs have less than a quarter of a core for half a second, as long as there is patience."""

    def __init__(self, left_s):
        self.left_s = left_s

    def wait(self):
        while self.left_s > 0:
            busy, began = busy_s(), time.monotonic()
            time.sleep(0.5)
            passed_s = time.monotonic() - began
            if busy_s() - busy < 0.25 * passed_s:
                return
            self.left_s -= passed_s


def start(command, log, env=None):
    with open(log, "ab") as file:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=env)
    atexit.register(process.kill)
    return process


class Daemon:
    def __init__(self, args, name, is_on, http_port, collector_port, settings):
        self.http_port, self.port = http_port, free_port()
        self.log = os.path.join(args.work, f"{name}.log")
        data = os.path.join(args.work, f"data-{name}")
        sets = {
            "mqtt.tcp": f"127.0.0.1:{self.port}", "mqtt.websocket": "", "auth.mode": "none",
            "metrics.listen": f"127.0.0.1:{http_port}",
            # Nothing else than telemetry may happen now and then.
            "memory.keep_free_percent": 0, "model.keep_lower_precisions": "false", "store.check_interval_s": 0,
            **settings,
        }
        if is_on:
            sets |= {"telemetry.otlp_endpoint": f"http://127.0.0.1:{collector_port}", "telemetry.trace_percent": 100,
                     "log.level": "info"}
        else:
            sets |= {"metrics.disk_probe_interval_s": 0, "log.level": "warn"}
        command = [args.clawdbot, "--data-dir", data, "serve"]
        for key, value in sets.items():
            command += ["--set", f"{key}={value}"]
        # What this shell has set for a daemon of its own is not meant for these two.
        env = {key: value for key, value in os.environ.items() if not key.startswith("CLAWDBOT__")}
        self.process = start(command, self.log, env)
        until = time.monotonic() + PATIENCE_S
        wanted = "ready" if sets["model.path"] else "none"
        while self.health().get("model") != wanted:
            if self.process.poll() is not None or time.monotonic() > until:
                with open(self.log) as log:
                    raise SystemExit(f"the daemon is not ready ({self.health()}); its log:\n{log.read()}")
            time.sleep(0.1)
        self.pids = [self.process.pid, *children(self.process.pid)]

    def health(self):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http_port}/health", timeout=5) as answer:
                return json.load(answer)
        except OSError:
            return {}

    def cpu_s(self):
        return sum(cpu_s(pid) for pid in self.pids)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()

    def complaints(self):
        """What it warned of, such as of spans that were dropped: then not everything was on."""
        with open(self.log) as log:
            found = [line for line in log if re.search("WARN|ERROR", line)]
        os.truncate(self.log, 0)
        return found


def remaining_length(length):
    digits = bytearray()
    while True:
        length, digit = divmod(length, 128)
        digits.append(digit | (128 if length else 0))
        if not length:
            return bytes(digits)


def text(value):
    value = value.encode()
    return len(value).to_bytes(2, "big") + value


def packet(first, body):
    return bytes([first]) + remaining_length(len(body)) + body


class Asker:
    """A device that asks its next question as soon as the last one is answered."""

    def __init__(self, port, name, requests):
        self.name, self.requests, self.input, self.tokens, self.answers = name, iter(requests), bytearray(), 0, 0
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.send(packet(0x10, b"\0\4MQTT\4\2\0\0" + text(name)))
        self.send(packet(0x82, b"\0\1" + text(f"clawdbot/{name}/reply") + b"\0"))
        self.socket.settimeout(PATIENCE_S)
        while not any(first == 0x90 for first, _ in self.packets()):
            pass

    def send(self, data):
        self.socket.sendall(data)

    def packets(self):
        """What has come, waiting for some of it."""
        data = self.socket.recv(1 << 16)
        if not data:
            raise SystemExit("the daemon closed a connection")
        self.input += data
        at, found = 0, []
        while len(self.input) - at >= 2:
            length, shift, body = 0, 0, at + 1
            while body < len(self.input):
                digit = self.input[body]
                length |= (digit & 127) << shift
                shift, body = shift + 7, body + 1
                if digit < 128:
                    break
            else:
                break
            if len(self.input) < body + length:
                break
            found.append((self.input[at], bytes(self.input[body:body + length])))
            at = body + length
        del self.input[:at]
        return found

    def ask(self):
        """The next question; false where there is none."""
        request = next(self.requests, None)
        if request is None:
            return False
        self.seq = 0
        self.send(packet(0x30, text(f"clawdbot/{self.name}/command") + json.dumps(request).encode()))
        return True

    def goes_on(self):
        """Takes what has come, and asks again; false when all was answered."""
        for first, body in self.packets():
            if first >> 4 != 3:
                continue
            item = json.loads(body[2 + int.from_bytes(body[:2], "big"):])
            if item.get("seq") != self.seq:
                raise SystemExit(f"item {self.seq} is missing: {item}")
            self.seq += 1
            if not item.get("done"):
                continue
            if "usage" not in item:
                raise SystemExit(f"a request failed: {item}")
            self.tokens += item["usage"]["completion_tokens"]
            self.answers += 1
            if not self.ask():
                return False
        return True


def asked(port, requests_of):
    """All these requests, each client's one after the other; the seconds, the tokens and the answers."""
    askers = [Asker(port, f"phone{number}", requests) for number, requests in enumerate(requests_of)]
    began = time.monotonic()
    with selectors.DefaultSelector() as waits:
        for asker in askers:
            asker.ask()
            waits.register(asker.socket, selectors.EVENT_READ, asker)
        while waits.get_map():
            ready = waits.select(PATIENCE_S)
            if not ready:
                raise SystemExit(f"no answer came for {PATIENCE_S} s")
            for key, _ in ready:
                if not key.data.goes_on():
                    waits.unregister(key.fileobj)
    seconds = time.monotonic() - began
    for asker in askers:
        asker.send(b"\xe0\0")
        asker.socket.close()
    return seconds, sum(asker.tokens for asker in askers), sum(asker.answers for asker in askers)


def loads(args):
    """Each with its settings, and its measures: a name, what is counted, and a load, of which a share can be asked for, and which
    says how much it was and at what rate."""

    def broker(kind, qos, messages):
        def run(port, share=1):
            load = [kind, "--clients", 50, "--size", 100, "--qos", qos, "--messages", int(messages * share)]
            said = subprocess.run([args.mqtt_load, "--port", str(port), *map(str, load)], capture_output=True, text=True,
                                  check=True, timeout=PATIENCE_S).stdout
            rate, came, wanted = map(int, re.search(r"delivered/s=(\d+) delivered=(\d+)/(\d+)", said).groups())
            if came != wanted:
                raise SystemExit(f"messages were lost: {said}")
            return came, rate
        return run

    # No two prompts are the same, or all but the first would be answered out of the cache.
    numbers = itertools.count(1)

    def tokens(clients, requests, length, prompt):
        def run(port, share=1):
            each = [[{"prompt": f"{next(numbers)} {prompt}", "temperature": 0, "max_tokens": length}
                     for _ in range(math.ceil(requests * share))] for _ in range(clients)]
            seconds, count, _ = asked(port, each)
            return count, count / seconds
        return run

    with open(args.sentences) as file:
        sentences = [json.loads(line)["text"] for line in file]

    def commands(clients, requests):
        def run(port, share=1):
            first = [number * len(sentences) // clients for number in range(clients)]
            each = [[{"prompt": sentences[(at + number) % len(sentences)]} for number in range(math.ceil(requests * share))]
                    for at in first]
            seconds, _, count = asked(port, each)
            return count, count / seconds
        return run

    plain = {"model.commands": "none"}
    return [
        ({"model.path": "", **plain}, [
            ("50 pairs, 100 B, QoS 0", "message", broker("pairs", 0, 60_000)),
            ("50 pairs, 100 B, QoS 1", "message", broker("pairs", 1, 30_000)),
            ("fan-out to 50, 100 B, QoS 0", "message", broker("fanout", 0, 150_000)),
            ("fan-out to 50, 100 B, QoS 1", "message", broker("fanout", 1, 40_000)),
        ]),
        ({"model.path": os.path.abspath(args.model), "model.precision": "int4", **plain}, [
            ("1B shape at int4, 4 streams of 100 tokens", "token", tokens(4, 1, 100, PROMPT * 4)),
        ]),
        ({"model.path": os.path.abspath(args.tiny_model), **plain}, [
            ("260K weights, 4 streams of 400 tokens", "token", tokens(4, 3, 400, PROMPT)),
            ("260K weights, 4 clients, answers of 8 tokens", "token", tokens(4, 250, 8, PROMPT)),
        ]),
        ({"model.path": "embedded"}, [
            ("commands to the assistant, 8 clients", "command", commands(8, 40)),
        ]),
    ]


class Watchers:
    """The collector, and who scrapes; both share the machine with what they watch."""

    def __init__(self, args, metrics_port):
        self.collector_port = free_port()
        self.log = os.path.join(args.work, "watchers.log")
        self.collector = start(
            [args.collector, "start", "--otlp-http-endpoint", f"127.0.0.1:{self.collector_port}",
             "--otlp-grpc-endpoint", f"127.0.0.1:{free_port()}", "--exporter", "blackhole",
             "--pid-file", os.path.join(args.work, "collector.pid"), "--log-file", os.path.join(args.work, "collector.log")],
            self.log)
        address = f"127.0.0.1:{metrics_port}"
        self.scraper_name = "Prometheus" if shutil.which("prometheus") else "curl"
        if self.scraper_name == "Prometheus":
            config = os.path.join(args.work, "prometheus.yml")
            with open(config, "w") as file:
                json.dump({"global": {"scrape_interval": f"{args.scrape_interval}s"},
                           "scrape_configs": [{"job_name": "clawdbot", "static_configs": [{"targets": [address]}]}]}, file)
            command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={args.work}/prometheus",
                       f"--web.listen-address=127.0.0.1:{free_port()}", "--log.level=warn"]
        else:
            command = ["sh", "-c", f"while :; do curl -s -o /dev/null http://{address}/metrics; sleep {args.scrape_interval}; done"]
        self.scraper = start(command, self.log)
        until = time.monotonic() + 10
        while time.monotonic() < until:
            try:
                return socket.create_connection(("127.0.0.1", self.collector_port)).close()
            except OSError:
                time.sleep(0.1)
        raise SystemExit(f"the collector does not listen; see {self.log}")

    def cpu_s(self):
        return cpu_s(self.collector.pid) + cpu_s(self.scraper.pid)

    def scrape(self, does):
        # While the other daemon is measured, nobody scrapes.
        self.scraper.send_signal(signal.SIGCONT if does else signal.SIGSTOP)


def measure(daemon, load, watchers, is_scraped, calm):
    calm.wait()
    watchers.scrape(is_scraped)

    def taken():
        # Those of this program's children that have ended are its loads.
        own = sum(os.times()[:4])
        return daemon.cpu_s(), watchers.cpu_s(), busy_s() - own, time.monotonic()

    before = taken()
    count, rate = load(daemon.port)
    cpu_s, watchers_s, busy, passed_s = (after - ago for after, ago in zip(taken(), before))
    return {"count": count, "seconds": count / rate, "cpu_s": cpu_s, "watchers_s": watchers_s,
            "others_s": busy - cpu_s - watchers_s, "passed_s": passed_s}


def together(parts):
    of = {key: sum(part[key] for part in parts) for key in parts[0]}
    return {"rate": of["count"] / of["seconds"], "cpu_s": of["cpu_s"] / of["count"],
            "watchers": of["watchers_s"] / of["passed_s"], "others": of["others_s"] / of["passed_s"]}


def quartiles(values):
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def ratio(values):
    low, high = quartiles(values)
    return f"{statistics.median(values):.3f} [{low:.3f}–{high:.3f}]"


def shown(value):
    """With four digits, or all of those before the point."""
    return f"{value:,.{max(0, 3 - int(math.floor(math.log10(value))))}f}"


def row(name, unit, pairs):
    rate = {state: statistics.median(pair[state]["rate"] for pair in pairs) for state in ("off", "on")}
    cpu_us = {state: statistics.median(pair[state]["cpu_s"] for pair in pairs) * 1e6 for state in ("off", "on")}
    rates = [pair["on"]["rate"] / pair["off"]["rate"] for pair in pairs]
    cpus = [pair["on"]["cpu_s"] / pair["off"]["cpu_s"] for pair in pairs]
    watched = statistics.median(pair["on"]["watchers"] for pair in pairs)
    others = statistics.median(pair[state]["others"] for pair in pairs for state in pair)
    return (f"| {name} | {shown(rate['off'])} {unit}s/s | {shown(rate['on'])} | {ratio(rates)} "
            f"| {shown(cpu_us['off'])} µs a {unit} | {shown(cpu_us['on'])} | {ratio(cpus)} | {watched:.1%} | {others:.0%} |")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("clawdbot")
    for name in ("mqtt-load", "collector", "model", "tiny-model", "sentences", "work"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--only", default="")
    parser.add_argument("--scrape-interval", type=int, default=1)
    parser.add_argument("--control", action="store_true")
    parser.add_argument("--calm", action="store_true")
    args = parser.parse_args()
    os.makedirs(args.work, mode=0o700, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))

    metrics_port = free_port()
    watchers = Watchers(args, metrics_port)
    calm = Calm(300 if args.calm else 0)
    print(f"| {args.repeats} pairs, scraped every {args.scrape_interval} s by {watchers.scraper_name} | off | on "
          "| on/off [quartiles] | processor time off | on | on/off [quartiles] | collector and scraper, of a core "
          "| others, of a core |")
    print("|---|---|---|---|---|---|---|---|---|")
    for settings, measures in loads(args):
        measures = [measure for measure in measures if args.only in measure[0]]
        if not measures:
            continue
        pairs = {name: [] for name, _, _ in measures}
        for number in range(args.repeats):
            watchers.scrape(False)
            daemons = {state: Daemon(args, state, state == "on" and not args.control, port, watchers.collector_port, settings)
                       for state, port in (("off", free_port()), ("on", metrics_port))}
            for name, _, load in measures:
                for daemon in daemons.values():
                    load(daemon.port, WARM_UP)
                parts = {"off": [], "on": []}
                for state in (("off", "on", "on", "off"), ("on", "off", "off", "on"))[number % 2]:
                    is_scraped = state == "on" and not args.control
                    parts[state].append(measure(daemons[state], load, watchers, is_scraped, calm))
                pairs[name].append({state: together(of) for state, of in parts.items()})
                print(f"{name}, pair {number + 1}, load {os.getloadavg()[0]:.1f}: {json.dumps(pairs[name][-1])}",
                      file=sys.stderr, flush=True)
            for state, daemon in daemons.items():
                daemon.stop()
                for line in daemon.complaints():
                    print(f"the daemon with telemetry {state} said: {line}", end="", file=sys.stderr)
        for name, unit, _ in measures:
            print(row(name, unit, pairs[name]), flush=True)


if __name__ == "__main__":
    main()
