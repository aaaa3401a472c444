#!/usr/bin/env python3
"""A day of a busy household, with a day's coming and going in twenty minutes: is memory flat, the disk bounded, and nothing
lost, doubled, out of order or said in the log that is an error?

    day.py CLAWDBOT MODEL [--minutes 20] [--devices 60] [--seed N] [--keep DIR] [--held DIR]

The table below is the day. Times of the day (an hour, a period) are shortened by 24 hours to --minutes; what happens in a
second of this clock is the same however many minutes there are, so that fewer minutes have less of everything, not
everything faster. Every device has a secret of its own, got by pairing; tokens, flapping, expiry and the periodic checks are on.
Exit code 1, with the reasons, if anything is off. Needs paho-mqtt from PyPI.
"""

import argparse
import atexit
import collections
import contextlib
import csv
import hashlib
import heapq
import http.client
import http.server
import itertools
import json
import os
import random
import re
import shutil
import signal
import socket
import ssl
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

# The day of 60 devices. A number of hours is of the simulated day: 50 s of this clock when it takes twenty minutes.
COMPRESSION = 72  # 24 hours to 20 minutes: what these periods are divided by
STATE_EVERY_S = 30 / COMPRESSION  # each sensor, retained, half of the sensors at QoS 1
EVENT_EVERY_S = 360 / COMPRESSION  # a quarter of the sensors (motion, doors), QoS 1, to phones (away, too) and recorders
SWITCH_EVERY_S = 600 / COMPRESSION  # each phone that is there switches a lamp, QoS 2
INBOX_EVERY_S = 1200 / COMPRESSION  # and writes to another phone, there or away, QoS 2
COMMANDS_A_DAY = 1500  # sentences for the assistant
QUESTIONS_A_DAY = 400  # for the model: of a hundred 10 urgent, 20 in the background, 10 cancelled, 10 with a deadline
PHONE_THERE_HOURS = (0.3, 2.0)  # then it is away:
PHONE_AWAY_HOURS = (0.2, 4.0)
PHONE_NIGHT_HOURS = (5.0, 6.5)  # from the first hour on
PHONE_LEAVES = ("says goodbye", "says goodbye", "is cut", "out of range")  # out of range: the socket stays, nothing comes
SENSOR_CUTS_A_DAY = 2  # for six minutes
ROOM_CHANGE_HOURS = 1 / 3  # the tablet subscribes to another room
PICTURE_HOURS = 1.0  # the camera, retained, QoS 1:
PICTURE_BYTES = 256 * 1024
GUEST_HOURS = 1.0  # a new device: paired, leaves 20 retained messages, which are cleared, and is revoked
GUEST_RETAINED = 20
VISITOR_HOURS = 1.0  # a session that expires with messages in it
RUDE_HOURS = 1 / 3  # each way of being rude once
FLAPPING_HOURS = (3, 11, 19)  # a client comes and goes until it is banned
OWNER_HOURS = 1.0  # `status`, `topics`, `device list`
DOCTOR_AT = (4, 10, 16, 22)  # `doctor --json` and `store verify --json`
EXPORT_AT = 21  # `store export`, to elsewhere
RENEW_AT = 12  # `certs renew`, which a running daemon takes up: there is no other change of settings while it runs
ROTATE_AT = 15  # `keys rotate`
KILL_MODEL_AT = (7, 17)  # SIGKILL to the process of the model, in the middle of three long answers
KILL_ASSISTANT_AT = 13  # and to the assistant's
COLLECTOR = ("takes", "takes", "takes", "hangs", "is away", "refuses")  # telemetry's, an hour each
SCRAPE_S, SAMPLE_S = 2, 5  # of this clock
KEEP_ALIVE_S = 5  # of this clock; 30 s of the day would be less than MQTT can say

# What an owner's daemon does at intervals, divided by 72 where the settings allow it. Not to be shortened: a pairing code
# (10 minutes), the sweep of conversations and what is noted of devices (an hour), the metrics to a collector (15 s).
SETTINGS = {
    "mqtt.connect_timeout_s": 5,  # 10 would be 0.1
    "mqtt.max_session_expiry_s": 8400,
    "mqtt.sys_interval_s": 1,  # 0.1
    "mqtt.tls_check_interval_s": 1,
    "flapping.window_s": 1,
    "flapping.ban_s": 4,
    "auth.token_lifetime_s": 12,
    "conversation.idle_s": 4,
    "conversation.undeliverable_grace_s": 1,
    "scheduler.background_after_s": 2,
    "scheduler.oldest_first_after_s": 1,
    "supervisor.reset_backoff_after_s": 1,
    "supervisor.period_s": 1,
    "supervisor.step_up_after_s": 4,
    "supervisor.heartbeat_interval_s": 1,
    "memory.dwell_s": 1,
    "memory.interval_s": 1,
    "store.check_interval_s": 300,  # four times a day; once would be when it is over
    "metrics.disk_probe_interval_s": 1,
    # Full within two hours, so that it is seen whether it stays within its bound.
    "model.cache_mib": 4,
}
ACCESS = """
[[access]]
permission = "deny"
action = "publish"
topics = ["house/door/lock"]
[[access]]
devices = ["sensor-*", "camera", "guest-*", "visitor", "rude"]
permission = "allow"
action = "publish"
topics = ["house/+/${device_id}/#"]
[[access]]
devices = ["phone-*", "tablet"]
permission = "allow"
action = "publish"
topics = ["house/+/+/set", "house/presence/${device_id}", "clawdbot/+/inbox"]
[[access]]
devices = ["phone-*", "tablet", "lamp-*", "recorder-*", "guest-*", "visitor"]
permission = "allow"
action = "subscribe"
topics = ["house/#"]
[[access]]
devices = ["wall"]
permission = "allow"
topics = ["house/#", "clawdbot/#", "$SYS/#"]
"""

# What the log may say at WARN and ERROR on such a day; any other such line is a fault.
EXPECTED = [
    ("WARN", r"^inference process lost$", "killed by us"),
    ("WARN", r"^the inference worker is started again after a wait$", "killed by us"),
    ("WARN", r"^client banned", "the flapping one"),
    ("WARN", r"^a device tried to be paired with a wrong code", "the rude one"),
    ("(WARN|ERROR)", r"^opentelemetry", "the collector hangs, is away or refuses"),
    ("WARN", r"^the last (traces|metrics) were not sent", "the same, at the end"),
]

# How flat is flat: of what a process has, from ten o'clock on. Until then the allocator gathers pages that it keeps when they are
# freed, up to the same height for three days' load in the same time. And how much the disk may take more at the end than at noon.
WARM_HOURS = 10
YOUNG_HOURS = 6  # a process that took another's place fills its caches first, as the one before it did
MAX_SLOPE, MAX_QUARTERS = 0.05, 0.03
MIN_GROWTH_BYTES = 1 << 20  # less is where the allocator cuts its pages
# Threads for what may block stay ten seconds; with looks at files every second, two that took turns never leave.
MORE_THREADS = 2
MAX_DISK_SHARE, MAX_DISK_BYTES = 0.05, 1 << 20
MAX_SERIES = 2000
# The labels of config/METRICS.md and what they may be: nothing that grows with devices or words.
LABELS = {
    "owner": None, "le": None, "gen_ai_operation_name": {"chat"}, "gen_ai_token_type": {"input", "output"},
    "gen_ai_response_model": {"", "stories260K", "clawdbot-assistant"}, "precision": {"", "f32", "f16", "int8", "int4"},
    "priority": {"urgent", "interactive", "background"}, "prompt": {"short", "long"}, "state": None, "actor": {"Bridge", "Conversation"},
    "finish_reason": {"stop", "length", "tool_calls", "cancelled"}, "error_type": None, "service_name": {"clawdbot"},
    "service_version": None, "telemetry_sdk_language": None, "telemetry_sdk_name": None, "telemetry_sdk_version": None,
}
JUDGED_FROM_MINUTES = 10  # a shorter look says nothing about slopes

ROOMS = ["kitchen", "bedroom", "hall", "office", "garden", "garage", "bathroom", "workshop"]
PROMPTS = ["Once upon a time", "There was a little cat", "Tom and his dog", "One day, Lily went", "The old robot",
           "In a small house by the sea", "Why is the sky blue", "Tell me about the garden"]
SENTENCES = ["turn off the lights in the kitchen", "turn on the lights in the bedroom", "set the bedroom to 21 degrees",
             "close the blinds in the office", "open the garage door", "turn on the light in the hall",
             "set the kitchen light to 30 percent", "turn off the bathroom light", "turn on the fan in the office",
             "set a timer for ten minutes", "turn off the lights in the kitchen and set the bedroom to 21 degrees",
             "把客厅的灯调到百分之三十", "打开厨房的灯", "关闭卧室的灯"]


def say(text):
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


class Faults:
    """What was off, each kind counted and a few told in full."""

    def __init__(self):
        self.found, self.lock = collections.defaultdict(list), threading.Lock()

    def add(self, kind, text):
        with self.lock:
            self.found[kind].append(text)
            if len(self.found[kind]) <= 3:
                say(f"FAULT {kind}: {text}")


class Collector:
    """Where telemetry goes. It takes what comes, or hangs, or is away, or refuses."""

    def __init__(self):
        self.mode, self.taken, self.server = "is away", collections.Counter(), None
        self.port = free_ports(1)[0]

    def become(self, mode):
        if self.server and mode == "is away":
            self.server.shutdown()
            self.server.server_close()
            self.server = None
        self.mode = mode
        if self.server is None and mode != "is away":
            collector = self

            class Handler(http.server.BaseHTTPRequestHandler):
                def do_POST(self):
                    self.rfile.read(int(self.headers["Content-Length"]))
                    collector.taken[f"{self.path}, {collector.mode}"] += 1
                    if collector.mode == "hangs":
                        time.sleep(8)  # longer than the daemon waits
                    with contextlib.suppress(OSError):
                        self.send_response(503 if collector.mode == "refuses" else 200)
                        self.send_header("Content-Length", "0")
                        self.end_headers()

                def log_message(self, *_):
                    pass

            class Server(http.server.ThreadingHTTPServer):
                allow_reuse_address, daemon_threads, block_on_close = True, True, False

            self.server = Server(("127.0.0.1", self.port), Handler)
            threading.Thread(target=self.server.serve_forever, daemon=True).start()


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Hub:
    """The daemon, its log and its processes."""

    def __init__(self, clawdbot, model, folder, collector_port, faults, held):
        self.clawdbot, self.faults = clawdbot, faults
        self.data, self.log_path = os.path.join(folder, "data"), os.path.join(folder, "daemon.log")
        self.ports = dict(zip(("tcp", "websocket", "tls", "secure_websocket", "metrics"), free_ports(5)))
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("CLAWDBOT__")}
        self.environment["HOME"] = folder
        if held:
            self.environment["CLAWDBOT_HELD"] = held
        self.lines, self.workers, self.lives = collections.Counter(), {}, []
        self.run("certs", "init")
        self.authority = os.path.join(self.data, "certs", "ca.pem")
        with open(os.path.join(self.data, "clawdbot.toml"), "w") as file:
            file.write(self.settings(model, collector_port))
        self.run("check")
        self.process = subprocess.Popen([clawdbot, "--data-dir", self.data, "serve"], stdin=subprocess.DEVNULL,
                                        stderr=subprocess.PIPE, env=self.environment, text=True)
        atexit.register(self.process.kill)
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()
        wait_for("the daemon to be ready", lambda: self.value("clawdbot_worker_ready") == 1
                 and self.value("clawdbot_commands_ready") == 1)

    def settings(self, model, collector_port):
        sections = collections.defaultdict(dict)
        for door in ("tcp", "websocket", "tls", "secure_websocket"):
            sections["mqtt"][door] = f"127.0.0.1:{self.ports[door]}"
        sections["metrics"]["listen"] = f"127.0.0.1:{self.ports['metrics']}"
        sections["model"].update(path=os.path.abspath(model), commands="embedded")
        sections["telemetry"]["otlp_endpoint"] = f"http://127.0.0.1:{collector_port}"
        sections["log"]["format"] = "json"
        for key, value in SETTINGS.items():
            section, name = key.split(".")
            sections[section][name] = value
        lines = []
        for section, values in sections.items():
            lines += [f"[{section}]"] + [f"{name} = {json.dumps(value)}" for name, value in values.items()]
        return "\n".join(lines) + ACCESS

    def run(self, *arguments, code=0):
        command = [self.clawdbot, "--data-dir", self.data, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=self.environment, timeout=120)
        if done.returncode != code:
            told = (done.stderr.strip() or done.stdout.strip())[-600:]
            self.faults.add("command", f"`clawdbot {' '.join(arguments)}` ended with {done.returncode}: {told}")
        return done.stdout

    def read(self):
        with open(self.log_path, "w") as file:
            for text in self.process.stderr:
                file.write(text)
                file.flush()
                try:
                    line = json.loads(text)
                except json.JSONDecodeError:
                    self.faults.add("log", f"a line that is no JSON: {text.strip()}")
                    continue
                self.heard(line)

    def heard(self, line):
        level, message = line["level"], str(line.get("message") or f"{line['target']} {line.get('name', '')}")
        if line["target"].startswith("opentelemetry"):
            message = f"{line['target']}: {message}"
        self.lines[(level, message)] += 1
        if message == "inference process started":
            which = "assistant" if "assistant" in line["model"] else "worker"
            self.workers[which] = line["pid"]
            self.lives.append((time.monotonic(), which))
        if level in ("WARN", "ERROR"):
            if not any(re.match(of, level) and re.search(what, message) for of, what, _ in EXPECTED):
                self.faults.add("log", json.dumps(line, ensure_ascii=False))

    def metrics(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.ports["metrics"], timeout=10)
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        if answer.status != 200:
            raise OSError(f"/metrics answers {answer.status}")
        return {name: float(value) for name, _, value in
                (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))}

    def value(self, name):
        try:
            return self.metrics().get(name)
        except OSError:
            return None

    def post(self, path, body):
        """To /pair or /token, by HTTPS."""
        context = ssl.create_default_context(cafile=self.authority)
        connection = http.client.HTTPSConnection("localhost", self.ports["secure_websocket"], context=context, timeout=20)
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = json.loads(connection.getresponse().read())
        connection.close()
        if answer.get("status") != "ok":
            raise OSError(f"POST {path} is answered with {answer.get('error')}")
        return answer["data"]

    def pair(self, name):
        code = json.loads(self.run("device", "pair", name, "--json", "--no-qr"))["code"]
        return self.post("/pair", {"code": code})["secret"]


def wait_for(what, done, patience_s=60):
    until = time.monotonic() + patience_s
    while time.monotonic() < until:
        if done():
            return True
        time.sleep(0.05)
    raise TimeoutError(f"waited {patience_s} s for {what}")


class Stream:
    """What one party publishes to one topic: numbers from 1 on, and which of them were acknowledged."""

    def __init__(self, party, topic, qos):
        self.party, self.topic, self.qos = party, topic, qos
        self.sent, self.acknowledged, self.pending, self.times = 0, set(), [], {}

    def settle(self):
        left = []
        for number, info in self.pending:
            try:
                done = info.is_published()
            except (RuntimeError, ValueError):
                continue  # never sent, as far as we know
            if done:
                self.acknowledged.add(number)
            else:
                left.append((number, info))
        self.pending = left


class Party:
    """A device: its client, what it has sent and got. It keeps its client over connections, as MQTT's promises want it."""

    def __init__(self, day, name, door="tcp", version=4, lasting=False, by_token=False, secret=None, expiry_s=3600, will=None,
                 keep_alive_s=60):
        self.day, self.name, self.door, self.version, self.lasting = day, name, door, version, lasting
        self.by_token, self.expiry_s, self.will, self.keep_alive_s = by_token, expiry_s, will, keep_alive_s
        self.secret = secret or day.hub.pair(name)
        self.filters, self.streams = [], {}
        self.got = collections.defaultdict(list)
        self.retained_got, self.visits, self.cuts, self.busy = 0, 0, 0, threading.Lock()
        self.there = False
        transport = "websockets" if "websocket" in door else "tcp"
        kind = mqtt.MQTTv5 if version == 5 else mqtt.MQTTv311
        clean = {} if version == 5 else {"clean_session": not lasting}
        self.client = client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=f"{name}-client", protocol=kind,
                                           transport=transport, reconnect_on_failure=False, **clean)
        if transport == "websockets":
            client.ws_set_options(path="/mqtt")
        if door in ("tls", "secure_websocket"):
            client.tls_set(ca_certs=day.hub.authority)
        client.on_connect, client.on_disconnect = self.on_connect, self.on_disconnect
        client.on_message, client.on_subscribe, client.on_publish = self.on_message, self.on_subscribe, self.on_publish
        self.connack, self.granted = threading.Event(), {}
        self.leaving, self.hears = True, None
        day.parties[name] = self

    def come(self):
        """Waits until it is let in, and finds what it left if its session lasts."""
        with self.busy:
            if self.there:
                return
            self.client.loop_stop()
            password = self.day.hub.post("/token", {"device": self.name, "secret": self.secret})["token"] \
                if self.by_token else self.secret
            self.client.username_pw_set(self.name, password)
            self.visits += 1
            if self.will:
                self.client.will_set(self.will, self.payload(self.visits, state="lost"), qos=1, retain=True)
            self.connack.clear()
            self.leaving = False
            if self.visits == 1:
                more = {}
                if self.version == 5:
                    properties = Properties(PacketTypes.CONNECT)
                    properties.SessionExpiryInterval = self.expiry_s if self.lasting else 0
                    more = {"clean_start": not self.lasting, "properties": properties}
                self.client.connect("localhost", self.day.hub.ports[self.door], self.keep_alive_s, **more)
            else:
                self.client.reconnect()
            self.client.loop_start()
            if not self.connack.wait(20):
                raise TimeoutError(f"{self.name} got no CONNACK")
            if self.refused:
                raise OSError(f"{self.name} is refused: {self.refused}")
            if self.lasting and self.found != (self.visits > 1):
                self.day.faults.add("session", f"{self.name} comes for the {self.visits}. time; a session is there: {self.found}")
            self.there = True
            for topic_filter, qos in self.filters:
                if not self.lasting or self.visits == 1:
                    self.subscribe(topic_filter, qos, note=False)

    def go(self, how="says goodbye"):
        with self.busy:
            if not self.there:
                return
            self.there, self.leaving = False, True
            if how == "says goodbye":
                self.client.disconnect()
                self.client.loop_stop()
                return
            self.cuts += 1
            self.client.loop_stop()
            if how == "is cut":
                self.client._sock_close()  # There is no public way to leave without a goodbye.

    def subscribe(self, topic_filter, qos, note=True):
        if note:
            self.filters.append((topic_filter, qos))
        _, number = self.client.subscribe(topic_filter, qos)
        wait_for(f"the SUBACK of {self.name}", lambda: number in self.granted, 20)
        if any(code.is_failure for code in self.granted[number]):
            raise OSError(f"{self.name} may not subscribe to {topic_filter}: {self.granted[number]}")

    def payload(self, number, **fields):
        return json.dumps({"by": self.name, "n": number, "t": round(time.monotonic(), 4), **fields})

    def publish(self, topic, qos, retain=False, body=b"", **fields):
        """The next number of its stream to that topic."""
        if not self.there:
            return None
        stream = self.streams.get(topic) or self.streams.setdefault(topic, Stream(self, topic, qos))
        stream.sent += 1
        text = self.payload(stream.sent, **fields).encode()
        stream.times[stream.sent] = time.monotonic()
        info = self.client.publish(topic, text + b"\n" + body if body else text, qos, retain)
        if qos:
            stream.pending.append((stream.sent, info))
            if len(stream.pending) > 20:
                stream.settle()
        return stream.sent

    def on_connect(self, _client, _data, flags, code, _properties):
        self.refused = str(code) if code.is_failure else None
        self.found = flags.session_present
        self.connack.set()

    def on_disconnect(self, _client, _data, _flags, code, _properties):
        if not self.leaving and self.there:
            self.there = False
            self.cuts += 1
            self.day.lost(self, str(code))

    def on_subscribe(self, _client, _data, number, codes, _properties):
        self.granted[number] = codes

    def on_publish(self, _client, _data, number, code, _properties):
        if code.is_failure:
            self.day.faults.add("publish", f"{self.name} is answered {code}")

    def on_message(self, _client, _data, message):
        try:
            self.take(message)
        except Exception as error:  # A thread of paho's would die of it, and nobody would know why.
            self.day.faults.add("load", f"{self.name}, {message.topic}: {error!r}")

    def take(self, message):
        topic = message.topic
        if self.hears and self.hears(message):
            return
        if topic.endswith("/reply"):
            return self.day.questions.answered(self, json.loads(message.payload))
        if not message.payload or not topic.startswith(("house/", f"clawdbot/{self.name}/inbox")):
            return
        head, _, body = message.payload.partition(b"\n")
        fields = json.loads(head)
        if "sha256" in fields and hashlib.sha256(body).hexdigest() != fields["sha256"]:
            self.day.faults.add("picture", f"{self.name} got one that is not whole: {topic} {fields['n']}")
        if message.retain:
            self.retained_got += 1
            return
        self.got[(fields["by"], topic)].append(fields["n"])
        if self.name == "wall" and message.qos and not body:
            self.day.delays.append(time.monotonic() - fields["t"])


class Questions:
    """What was asked, and whether each answer came whole and ended as it may."""

    MAY_END = {
        "cancelled": {"stop", "length", "cancelled"},
        "deadline": {"stop", "length", "expired", "deadline_unreachable"},
    }

    def __init__(self, day):
        self.day, self.open, self.number, self.lock = day, {}, itertools.count(1), threading.Lock()
        self.ends, self.times = collections.Counter(), collections.defaultdict(list)
        self.understood, self.attempts = set(), collections.Counter()

    def ask(self, party, kind, prompt, cancel_at=None, **request):
        identity = f"{kind}-{next(self.number)}"
        with self.lock:
            self.open[identity] = {"party": party, "kind": kind, "next": 0, "asked": time.monotonic(), "cancel_at": cancel_at,
                                   "done": False, "prompt": prompt}
        request.update(id=identity, prompt=prompt)
        party.client.publish(f"clawdbot/{party.name}/command", json.dumps(request), 1)
        return identity

    def answered(self, party, item):
        with self.lock:
            asked = self.open.get(item["id"])
            if asked is None or asked["party"] is not party:
                return self.day.faults.add("answer", f"{party.name} got what it did not ask for: {item}")
            if item["seq"] < asked["next"] and party.cuts:
                return  # at least once: it was on its way when the connection ended
            if item["seq"] != asked["next"] or asked["done"]:
                return self.day.faults.add("answer", f"{item} where {asked['next']} was next, done: {asked['done']}")
            asked["next"] += 1
            if asked["next"] == asked["cancel_at"]:
                party.client.publish(f"clawdbot/{party.name}/cancel", item["id"], 1)
            if not item.get("done"):
                return
            asked["done"] = True
            kind = asked["kind"]
            end = item["error"]["code"] if "error" in item else item["finish_reason"]
            self.ends[(kind, end)] += 1
            self.attempts[item["attempt"]] += 1
            self.times[kind].append(time.monotonic() - asked["asked"])
            if end not in self.MAY_END.get(kind, {"stop", "length"}):
                self.day.faults.add("answer", f"{item['id']} ended with {end}: {item}")
            if item.get("actions"):
                self.understood.add(item["id"])

    def waiting(self):
        with self.lock:
            return [identity for identity, asked in self.open.items() if not asked["done"]]


class Agenda:
    """What happens when. What may wait runs on threads of its own; what does not get its turn in time is told."""

    def __init__(self, faults):
        self.heap, self.order, self.faults = [], itertools.count(), faults
        self.pool, self.latest_s, self.late, self.over = ThreadPoolExecutor(32), 0.0, 0, False

    def at(self, when, what, waits=False):
        heapq.heappush(self.heap, (when, next(self.order), what, waits))

    def every(self, period_s, first, what, waits=False, until=float("inf")):
        def turn(when=first):
            what()
            if when + period_s < until:
                self.at(when + period_s, lambda: turn(when + period_s), False)

        if waits:
            def begin(when=first):
                self.pool.submit(self.safely, what)
                if when + period_s < until:
                    self.at(when + period_s, lambda: begin(when + period_s), False)
            self.at(first, begin)
        else:
            self.at(first, turn)

    def safely(self, what):
        try:
            what()
        except Exception as error:
            self.faults.add("load", f"{getattr(what, '__qualname__', what)}: {error!r}")

    def run(self, until):
        while time.monotonic() < until and not self.over:
            if not self.heap or self.heap[0][0] > time.monotonic():
                left = min(until, self.heap[0][0] if self.heap else until) - time.monotonic()
                time.sleep(max(0, min(left, 0.2)))
                continue
            when, _, what, waits = heapq.heappop(self.heap)
            late = time.monotonic() - when
            self.latest_s = max(self.latest_s, late)
            self.late += late > 1
            if waits:
                self.pool.submit(self.safely, what)
            else:
                self.safely(what)


class Day:
    def __init__(self, arguments, folder):
        self.arguments, self.folder, self.chance = arguments, folder, random.Random(arguments.seed)
        self.hour_s = arguments.minutes * 60 / 24
        self.faults, self.collector = Faults(), Collector()
        self.parties, self.delays, self.counts = {}, [], collections.Counter()
        self.questions, self.samples, self.ledger = Questions(self), [], []
        self.wills, self.births, self.windows = set(), set(), []
        self.intents, self.scrapes = set(), 0
        self.expiring = 0
        self.hub = Hub(arguments.clawdbot, arguments.model, folder, self.collector.port, self.faults, arguments.held)
        self.agenda = Agenda(self.faults)

    # --- Who lives there ---

    def people(self):
        sensors = max(4, self.arguments.devices * 40 // 60)
        phones = max(2, self.arguments.devices * 10 // 60)
        lamps = max(2, self.arguments.devices - sensors - phones - 6)
        doors = ["tcp", "tls", "websocket", "secure_websocket"]
        self.sensors = [Party(self, f"sensor-{number:02}", doors[(0, 0, 1, 2, 0, 1, 0, 3)[number % 8]], 4 + number % 2)
                        for number in range(sensors)]
        self.phones = [Party(self, f"phone-{number}", doors[(1, 3)[number % 2]], 4 + number // 2 % 2, lasting=True,
                             by_token=number % 2 == 0, will=f"house/presence/phone-{number}", keep_alive_s=KEEP_ALIVE_S)
                       for number in range(phones)]
        self.lamps = [Party(self, f"lamp-{number}", "tls", 4, lasting=True) for number in range(lamps)]
        self.recorders = [Party(self, f"recorder-{number}", "tcp", 5, lasting=number == 0) for number in range(3)]
        self.tablet = Party(self, "tablet", "websocket", 4)
        self.wall = Party(self, "wall", "secure_websocket", 5)
        self.camera = Party(self, "camera", "tls", 5)
        self.rude_secret = self.hub.pair("rude")
        self.visitor_secret = self.hub.pair("visitor")
        self.flapping_secret = self.hub.pair("flapping")
        for party in self.phones:
            party.filters += [("house/+/+/event", 1), (f"clawdbot/{party.name}/inbox", 2), (f"clawdbot/{party.name}/reply", 1)]
        for party in self.phones[::2]:
            party.filters.append(("house/+/+/state", 0))
        for party in self.lamps:
            party.filters.append((f"house/+/{party.name}/set", 2))
        for party in self.recorders:
            party.filters.append(("$share/recorders/house/+/+/event", 1))
        self.tablet.filters.append(("clawdbot/tablet/reply", 1))
        self.wall.filters += [("house/#", 2), ("clawdbot/+/intent", 1), ("$SYS/broker/#", 0)]
        self.wall.hears = self.on_the_wall

    def everybody(self):
        return [self.wall, self.tablet, self.camera, *self.recorders, *self.lamps, *self.phones, *self.sensors]

    def room_of(self, party):
        return ROOMS[int(re.sub(r"\D", "", party.name) or 0) % len(ROOMS)]

    def on_the_wall(self, message):
        """What the dashboard hears beside the numbered messages."""
        if message.topic.startswith("$SYS/"):
            self.counts["statistics"] += 1
            return True
        if message.topic.endswith("/intent"):
            self.intents.add(json.loads(message.payload)["id"])
            return True
        if message.topic.startswith("house/presence/"):
            told = json.loads(message.payload)
            (self.wills if told["state"] == "lost" else self.births).add((told["by"], told["n"]))
            return True
        return False

    def lost(self, party, why):
        """A connection ended that nobody wanted to end. A token that was renewed too late is no fault, if it is rare."""
        by_token = party.by_token and ("connect time" in why.lower() or party.version == 4)
        self.counts["ended by its token" if by_token else "lost unasked"] += 1
        if not by_token:
            self.faults.add("connection", f"{party.name} was disconnected: {why}")
        self.agenda.at(time.monotonic() + 0.3, party.come, waits=True)

    # --- What they do ---

    def arrange(self, start):
        agenda, hour, chance = self.agenda, self.hour_s, self.chance
        end = start + 24 * hour
        quiet = end - 2  # so that what is on its way arrives within the day
        for number, sensor in enumerate(self.sensors):
            topic = f"house/{self.room_of(sensor)}/{sensor.name}"
            agenda.every(STATE_EVERY_S, start + chance.random() * STATE_EVERY_S, lambda s=sensor, t=topic, q=number // 2 % 2:
                         s.publish(f"{t}/state", q, retain=True, value=round(chance.gauss(21, 3), 1)), until=quiet)
            if number % 4 == 0:
                agenda.every(EVENT_EVERY_S, start + chance.random() * EVENT_EVERY_S, lambda s=sensor, t=topic:
                             s.publish(f"{t}/event", 1, kind="motion"), until=quiet)
            for _ in range(SENSOR_CUTS_A_DAY):
                at = start + chance.uniform(0.5, 23) * hour
                agenda.at(at, lambda s=sensor: s.go("is cut"), waits=True)
                agenda.at(at + 0.1 * hour + 1, sensor.come, waits=True)
        for phone in self.phones:
            self.arrange_phone(phone, start)
            agenda.every(SWITCH_EVERY_S, start + chance.random() * SWITCH_EVERY_S, lambda p=phone: self.switch(p), until=quiet)
            agenda.every(INBOX_EVERY_S, start + chance.random() * INBOX_EVERY_S, lambda p=phone: self.write(p), until=quiet)
            if phone.by_token:
                agenda.every(8, start + 4 + chance.random() * 4, lambda p=phone: self.renew(p), waits=True, until=end + 600)
        for _ in range(round(COMMANDS_A_DAY * self.arguments.minutes / 20)):
            agenda.at(chance.uniform(start, quiet), self.command)
        for _ in range(round(QUESTIONS_A_DAY * self.arguments.minutes / 20)):
            agenda.at(chance.uniform(start, quiet), self.question)
        agenda.every(ROOM_CHANGE_HOURS * hour, start + 1, self.change_room, waits=True, until=quiet - 2)
        agenda.every(PICTURE_HOURS * hour, start + 0.3 * hour, self.picture, until=quiet)
        agenda.every(GUEST_HOURS * hour, start + 0.1 * hour, self.guest, waits=True, until=quiet - 4)
        agenda.every(VISITOR_HOURS * hour, start + 0.6 * hour, self.visitor, waits=True, until=quiet - 4)
        agenda.every(hour * 5, start + hour * 2.5, self.recorder_is_away, waits=True, until=quiet - 4)
        for way in RUDE:
            agenda.every(RUDE_HOURS * hour, start + chance.random() * RUDE_HOURS * hour, lambda w=way: w(self), waits=True,
                         until=quiet)
        for at in FLAPPING_HOURS:
            agenda.at(start + at * hour, self.flap, waits=True)
        agenda.every(OWNER_HOURS * hour, start + 0.8 * hour, self.owner_looks, waits=True, until=end)
        for at in DOCTOR_AT:
            agenda.at(start + at * hour, self.owner_examines, waits=True)
        agenda.at(start + EXPORT_AT * hour, self.export, waits=True)
        agenda.at(start + RENEW_AT * hour, lambda: self.hub.run("certs", "renew"), waits=True)
        agenda.at(start + ROTATE_AT * hour, lambda: self.hub.run("keys", "rotate"), waits=True)
        for at in KILL_MODEL_AT:
            agenda.at(start + at * hour, lambda: self.kill("worker"), waits=True)
        agenda.at(start + KILL_ASSISTANT_AT * hour, lambda: self.kill("assistant"), waits=True)
        modes = itertools.cycle(COLLECTOR)
        agenda.every(hour, start, lambda: self.collector.become(next(modes)), waits=True, until=end)
        for at in range(24):
            agenda.at(start + at * hour, lambda at=at: self.tell_hour(at))

    def arrange_phone(self, phone, start):
        at, night = self.chance.uniform(0.2, 1), True
        while at < 23:
            away = self.chance.uniform(*(PHONE_NIGHT_HOURS if night else PHONE_AWAY_HOURS))
            back = min(at + away, self.chance.uniform(23.2, 23.4))
            how = self.chance.choice(PHONE_LEAVES)
            self.agenda.at(start + at * self.hour_s, lambda h=how: self.phone_goes(phone, h), waits=True)
            self.agenda.at(start + back * self.hour_s, lambda: self.phone_comes(phone), waits=True)
            at, night = back + self.chance.uniform(*PHONE_THERE_HOURS), False

    def phone_comes(self, phone):
        phone.come()
        phone.client.publish(phone.will, phone.payload(phone.visits, state="home"), 1, True).wait_for_publish(20)
        self.counts["phones came"] += 1

    def phone_goes(self, phone, how):
        phone.go(how)
        self.counts[f"a phone {how}"] += 1

    def renew(self, phone):
        if phone.there:
            token = self.hub.post("/token", {"device": phone.name, "secret": phone.secret})["token"]
            phone.client.publish(f"clawdbot/{phone.name}/token", token, 1)
            self.counts["tokens renewed"] += 1

    def switch(self, phone):
        lamp = self.chance.choice(self.lamps)
        phone.publish(f"house/{self.room_of(lamp)}/{lamp.name}/set", 2, on=self.chance.random() < 0.5)

    def write(self, phone):
        other = self.chance.choice([other for other in self.phones if other is not phone])
        phone.publish(f"clawdbot/{other.name}/inbox", 2, text="x" * self.chance.randrange(400))

    def asker(self):
        return self.chance.choice([self.tablet, *(phone for phone in self.phones if phone.there)])

    def command(self):
        self.questions.ask(self.asker(), "command", self.chance.choice(SENTENCES), max_tokens=64)

    def question(self):
        prompt = f"{self.chance.choice(PROMPTS)} {self.chance.randrange(50)}"
        kind = self.chance.choices(["plain", "urgent", "background", "cancelled", "deadline", "choice"], [45, 10, 20, 10, 10, 5])[0]
        more = {"max_tokens": self.chance.randrange(20, 200)}
        if kind in ("urgent", "background"):
            more["priority"] = kind
        if kind == "cancelled":
            more.update(cancel_at=self.chance.randrange(1, 6), max_tokens=300)
        if kind == "deadline":
            more["deadline_ms"] = self.chance.choice([5, 50, 500, 5000])
        if kind == "choice":
            more["response_format"] = {"type": "choice", "choices": ["yes", "no", "perhaps"]}
        self.questions.ask(self.asker(), kind, prompt, **more)

    def change_room(self):
        """The tablet looks into another room. What was acknowledged well within the time it looked must have come."""
        if self.windows and self.windows[-1]["to"] is None:
            window = self.windows[-1]
            window["to"] = time.monotonic()
            self.tablet.client.unsubscribe(window["filter"])
        room = self.chance.choice(ROOMS)
        topic_filter = f"house/{room}/+/state"
        self.tablet.subscribe(topic_filter, 1, note=False)
        self.windows.append({"filter": topic_filter, "room": room, "from": time.monotonic(), "to": None})

    def picture(self):
        body = self.chance.randbytes(PICTURE_BYTES)
        self.camera.publish("house/hall/camera/picture", 1, retain=True, body=body, sha256=hashlib.sha256(body).hexdigest())

    def guest(self):
        """A device for an hour, of which nothing is left behind."""
        self.counts["guests"] += 1
        number = self.counts["guests"]
        guest = Party(self, f"guest-{number}", "tls", 5, lasting=True)
        guest.filters.append(("house/+/+/event", 1))
        guest.come()
        topics = [f"house/hall/guest-{number}/{at}" for at in range(GUEST_RETAINED)]
        for topic in topics:
            guest.publish(topic, 1, retain=True)
        time.sleep(max(1, 0.3 * self.hour_s))
        guest.leaving = True  # it is revoked while it is there, or after it was cut
        if number % 2:
            guest.go("is cut")
        for topic in topics:
            self.wall.client.publish(topic, b"", 1, True)
        self.hub.run("device", "revoke", guest.name)
        time.sleep(1)
        guest.there = False
        guest.client.loop_stop()
        guest.client._sock_close()
        for stream in guest.streams.values():
            stream.settle()
        self.counts["retained messages cleared"] += len(topics)

    def visitor(self):
        """A session that expires with what waits in it."""
        visitor = Party(self, "visitor", "websocket", 5, lasting=True, secret=self.visitor_secret, expiry_s=1)
        visitor.filters.append(("house/+/+/event", 1))
        visitor.come()
        time.sleep(0.5)
        visitor.go("is cut")
        self.expiring += 1
        time.sleep(3)

    def recorder_is_away(self):
        recorder = self.recorders[2]
        recorder.go(self.chance.choice(("is cut", "says goodbye")))
        time.sleep(0.5 * self.hour_s)
        recorder.come()

    def flap(self):
        for _ in range(20):
            with contextlib.suppress(OSError), self.dial() as client:
                client.sendall(connect_packet("flapping-client", "flapping", self.flapping_secret))
                if client.recv(4)[3:] != b"\0":
                    self.counts["refused while banned"] += 1
                client.sendall(b"\xe0\0")

    def dial(self, door="tcp"):
        return socket.create_connection(("127.0.0.1", self.hub.ports[door]), timeout=15)

    def owner_looks(self):
        status = json.loads(self.hub.run("status", "--json"))
        self.ledger.append((self.hour(), status["memory"]["ledger"]))
        self.hub.run("topics", "--json")
        self.hub.run("device", "list", "--json")

    def owner_examines(self):
        verified = json.loads(self.hub.run("store", "verify", "--json"))
        if not verified["sound"]:
            self.faults.add("store", f"`store verify` finds {verified}")
        examined = json.loads(self.hub.run("doctor", "--json"))
        if not examined["ok"]:
            self.faults.add("doctor", json.dumps(examined["findings"], ensure_ascii=False))
        for finding in examined["findings"]:
            self.counts[f"doctor: {finding['severity']}, {finding['message']}"[:160]] += 1

    def export(self):
        archive = os.path.join(self.folder, "archive")
        self.hub.run("store", "export", archive)
        self.counts["bytes of the archive"] = os.path.getsize(archive)

    def kill(self, which):
        """In the middle of long answers, if it is the model's process; each of them must come whole all the same."""
        asked = []
        if which == "worker":
            others = [self.tablet, *[phone for phone in self.phones if phone.there][:2]]
            for party in others:
                asked.append(self.questions.ask(party, "killed", "Once upon a time there was a very long story", max_tokens=400,
                                                temperature=0, min_confidence=1))
            wait_for("the first items", lambda: all(self.questions.open[each]["next"] > 3 or self.questions.open[each]["done"]
                                                    for each in asked), 20)
        at = [self.questions.open[each]["next"] for each in asked]
        before = self.hub.workers[which]
        os.kill(before, signal.SIGKILL)
        say(f"{which} killed, long answers were at {at}")
        self.counts[f"{which} killed"] += 1
        wait_for("another process", lambda: self.hub.workers[which] != before, 30)

    # --- What is measured ---

    def hour(self):
        return (time.monotonic() - self.start) / self.hour_s

    def tell_hour(self, at):
        sample = self.samples[-1] if self.samples else {}
        print(f"\r{at:2} o'clock: daemon {sample.get('daemon_rss', 0) / 2**20:.1f} MiB, data {sample.get('disk', 0) / 2**20:.2f} MiB, "
              f"{sum(party.there for party in self.parties.values())} there, {len(self.questions.waiting())} answers to come",
              file=sys.stderr, flush=True)

    def scrape(self):
        self.last_metrics = self.hub.metrics()
        self.scrapes += 1

    def sample(self):
        row = {"hour": round(self.hour(), 3)}
        for name, pid in (("daemon", self.hub.process.pid), *self.hub.workers.items()):
            with contextlib.suppress(OSError, ProcessLookupError):
                row.update({f"{name}_{what}": value for what, value in process_of(pid, self.arguments.held).items()})
        row["disk"], row["disk_blocks"] = disk_of(self.hub.data)
        with contextlib.suppress(OSError):
            row["store"] = os.path.getsize(os.path.join(self.hub.data, "store.redb"))
        row["series"] = len(self.last_metrics)
        for name, value in self.last_metrics.items():
            if name.startswith("clawdbot_memory_used_bytes"):
                row["owner_" + re.search(r'owner="(\w+)"', name)[1]] = value
        for name in ("mqtt_connections", "mqtt_sessions", "mqtt_subscriptions", "mqtt_retained", "mqtt_deliveries_waiting"):
            row[name] = self.last_metrics.get(f"clawdbot_{name}")
        self.samples.append(row)

    def at_rest(self):
        """What the daemon has open when nobody is there, once threads that had work for a moment are gone."""
        found = []
        for _ in range(25):
            time.sleep(1)
            found.append(process_of(self.hub.process.pid, self.arguments.held))
        return {what: min(each[what] for each in found[-5:]) for what in ("fds", "threads", "rss")}

    # --- The day itself ---

    def live(self):
        say(f"pairing {self.arguments.devices} devices, seed {self.arguments.seed}")
        self.last_metrics = self.hub.metrics()
        self.people()
        self.start = time.monotonic()
        # Each door once, and each kind of answer, so that what is made at first use is there before it is compared.
        for party in (self.tablet, self.wall, self.camera, self.lamps[0], self.recorders[0]):
            party.come()
        self.questions.ask(self.tablet, "plain", PROMPTS[0], max_tokens=20)
        for sentence in SENTENCES:
            self.questions.ask(self.tablet, "command", sentence)
        wait_for("the first answers", lambda: not self.questions.waiting())
        # What it is not sure of goes to the model, and that is in order; what it knew once it must know all day.
        self.known = {self.questions.open[each]["prompt"] for each in self.questions.understood}
        for sentence in set(SENTENCES) - self.known:
            say(f"the assistant leaves this to the model: {sentence}")
        for party in (self.tablet, self.wall, self.camera, self.lamps[0], self.recorders[0]):
            party.go()
        self.collector.become("takes")
        rest = self.at_rest()
        say(f"at rest: {rest}")
        for party in self.everybody():
            (self.phone_comes if party in self.phones else lambda p: p.come())(party)
        self.start = time.monotonic()
        end = self.start + 24 * self.hour_s
        self.arrange(self.start)
        self.agenda.every(SCRAPE_S, self.start, self.scrape, waits=True, until=end)
        self.agenda.every(SAMPLE_S, self.start + 1, self.sample, waits=True, until=end)
        self.agenda.run(end)
        say("the day is over")
        self.drain()
        self.check_messages()
        self.check_answers()
        self.goodbye(rest)

    def drain(self):
        """Those who were away or were cut at the last come, and what is on its way arrives."""
        # Tokens are renewed meanwhile, or their sessions would end before they were looked at.
        threading.Thread(target=self.agenda.run, args=(time.monotonic() + 600,), daemon=True).start()
        time.sleep(5)
        for party in self.everybody():
            self.agenda.safely(party.come)

        def arrived():
            for stream in self.streams():
                stream.settle()
            return not self.questions.waiting() and not any(stream.pending for stream in self.streams()) \
                and self.hub.value("clawdbot_mqtt_deliveries_waiting") == 0
        with contextlib.suppress(TimeoutError):
            wait_for("what is on its way", arrived, 60)
        time.sleep(1)

    def streams(self):
        return [stream for party in list(self.parties.values()) for stream in list(party.streams.values())]

    def check_messages(self):
        self.summary = collections.Counter()
        for stream in self.streams():
            if stream.pending:
                self.faults.add("message", f"{len(stream.pending)} of {stream.party.name} to {stream.topic} are not acknowledged")
            self.summary[f"sent at QoS {stream.qos}"] += stream.sent
            if stream.topic.startswith("house/"):
                self.check(self.wall, stream)
            if stream.topic.endswith("/event"):
                for phone in self.phones:
                    self.check(phone, stream)
                self.check_shared(stream)
            for reader in (*self.lamps, *self.phones):
                if stream.topic.endswith((f"/{reader.name}/set", f"clawdbot/{reader.name}/inbox")):
                    self.check(reader, stream)
            if stream.topic.endswith("/state") and stream.qos == 1:
                self.check_windows(stream)
        cuts = {(phone.name, visit) for phone in self.phones for visit in range(1, phone.visits + 1)}
        left = self.counts["a phone is cut"] + self.counts["a phone out of range"] + self.counts["ended by its token"]
        if len(self.wills) != left or not self.wills <= cuts:
            self.faults.add("will", f"{left} phones were cut off, {len(self.wills)} wills were told")

    def check(self, reader, stream):
        """What a reader of the whole day must have of a stream: all that was acknowledged, in order, once or at least once."""
        got = reader.got.get((stream.party.name, stream.topic), [])
        once = list(dict.fromkeys(got))
        name = f"{stream.party.name} to {reader.name} by {stream.topic}"
        if once != sorted(once):
            self.faults.add("message", f"out of order: {name}: {[(a, b) for a, b in zip(once, once[1:]) if a > b][:5]}")
        if once and max(once) > stream.sent:
            self.faults.add("message", f"never sent: {name}: {max(once)}")
        self.summary["delivered"] += len(got)
        twice = len(got) - len(once)
        if stream.qos == 0:
            self.summary["at QoS 0 not delivered"] += stream.sent - len(once)
            return
        lost = stream.acknowledged - set(once)
        if lost:
            self.faults.add("message", f"lost: {name}: {len(lost)} of {len(stream.acknowledged)}, as {sorted(lost)[:5]}")
        if twice and (stream.qos == 2 or not (stream.party.cuts or reader.cuts)):
            self.faults.add("message", f"twice: {name}, QoS {stream.qos}: {twice}")
        self.summary["at QoS 1 twice, behind a cut"] += twice

    def check_shared(self, stream):
        got = [number for recorder in self.recorders for number in recorder.got.get((stream.party.name, stream.topic), [])]
        lost = stream.acknowledged - set(got)
        self.summary["delivered by the shared subscription"] += len(got)
        if lost:
            self.faults.add("message", f"lost to all recorders: {stream.topic}: {sorted(lost)[:5]}")
        if len(got) != len(set(got)) and not stream.party.cuts and not any(recorder.cuts for recorder in self.recorders):
            self.faults.add("message", f"two recorders got the same: {stream.topic}")

    def check_windows(self, stream):
        got = set(self.tablet.got.get((stream.party.name, stream.topic), []))
        for window in self.windows:
            if f"/{window['room']}/" not in stream.topic:
                continue
            until = (window["to"] or time.monotonic()) - 2
            due = {number for number in stream.acknowledged if window["from"] < stream.times[number] < until}
            self.summary["delivered by changing subscriptions"] += len(due)
            if due - got:
                self.faults.add("message", f"lost while subscribed: {stream.topic}: {sorted(due - got)[:5]}")

    def check_answers(self):
        waiting = self.questions.waiting()
        if waiting:
            self.faults.add("answer", f"{len(waiting)} did not come to their end, as {waiting[:5]}")
        untold = self.questions.understood - self.intents
        if untold:
            self.faults.add("intent", f"{len(untold)} commands were understood and not told to the wall, as {sorted(untold)[:5]}")
        commands = sum(asked["kind"] == "command" and asked["prompt"] in self.known for asked in self.questions.open.values())
        understood = sum(self.questions.open[each]["prompt"] in self.known for each in self.questions.understood)
        self.counts["commands understood"], self.counts["commands"] = understood, commands
        # On a machine that is busy some find it too late (model.commands_within_ms).
        if understood < 0.9 * commands:
            self.faults.add("answer", f"of {commands} commands the assistant took {understood}")

    def check_accounts(self):
        """The sums of tests/support/conservation.rs."""
        metrics = self.hub.metrics()
        of = lambda name: metrics.get(f"clawdbot_mqtt_{name}", 0)
        dropped = {name[len("clawdbot_mqtt_messages_dropped_"):-len("_total")]: value for name, value in metrics.items()
                   if name.startswith("clawdbot_mqtt_messages_dropped_") and value}
        self.dropped, self.last_metrics = dropped, metrics
        made, completed, waiting = of("deliveries_total"), of("deliveries_completed_total"), of("deliveries_waiting")
        of_sessions = sum(value for name, value in dropped.items() if name not in ("mailbox_full", "malformed", "owner_gone"))
        if made != completed + of_sessions + waiting:
            self.faults.add("accounts", f"{made} copies made, {completed} completed, {dropped} dropped, {waiting} wait")
        for reason in ("outbox_full", "queue_full", "refused", "too_large", "mailbox_full", "owner_gone", "malformed"):
            if dropped.get(reason):
                self.faults.add("accounts", f"{dropped[reason]:.0f} messages were dropped: {reason}")
        fates = [of(f"messages_{fate}_total") for fate in ("routed", "without_receiver", "rejected")]
        if of("messages_accepted_total") != sum(fates):
            self.faults.add("accounts", f"{of('messages_accepted_total')} publishes accepted, {fates} accounted for")
        requests = collections.Counter()
        for name, value in metrics.items():
            if found := re.match(r"clawdbot_requests_account\{(.*)\}", name):
                labels = dict(re.findall(r'(\w+)="(\w*)"', found[1]))
                requests[labels["state"]] += value
                requests[(labels["priority"], labels["state"] == "accepted")] += value
        for priority in ("urgent", "interactive", "background"):
            if requests[(priority, True)] != requests[(priority, False)]:
                self.faults.add("accounts", f"{priority}: {requests[(priority, True)]} accepted, {requests[(priority, False)]} accounted for")
        self.requests = {state: int(count) for state, count in requests.items() if isinstance(state, str) and count}
        if metrics.get("clawdbot_mqtt_sessions_expired_total") != self.expiring:
            self.faults.add("accounts", f"{self.expiring} sessions were to expire, {metrics.get('clawdbot_mqtt_sessions_expired_total')} did")
        for name, count in (("clawdbot_worker_lost_total", self.counts["worker killed"]),
                            ("clawdbot_commands_lost_total", self.counts["assistant killed"]),
                            ("clawdbot_store_failures_total", 0), ("clawdbot_store_damaged_total", 0),
                            ("clawdbot_disk_probe_failures_total", 0)):
            if metrics.get(name, 0) != count:
                self.faults.add("accounts", f"{name} is {metrics.get(name)}, {count} was to be expected")

    def goodbye(self, rest):
        self.agenda.over = True
        for party in list(self.parties.values()):
            party.go()
        with contextlib.suppress(TimeoutError):
            wait_for("everybody to be gone", lambda: self.hub.value("clawdbot_mqtt_connections") == 0, 30)
        after = self.at_rest()
        self.rest = (rest, after)
        for what in ("fds", "threads"):
            if after[what] > rest[what] + (MORE_THREADS if what == "threads" else 0):
                self.faults.add(what, f"{rest[what]} before the first client, {after[what]} after the last")
        self.check_accounts()
        lasting = sum(party.lasting for party in self.everybody())
        if self.last_metrics["clawdbot_mqtt_sessions"] != lasting:
            self.faults.add("accounts", f"{self.last_metrics['clawdbot_mqtt_sessions']} sessions are left, {lasting} were to last")
        if self.last_metrics["clawdbot_mqtt_sessions_revoked_total"] != self.counts["guests"]:
            self.faults.add("accounts", f"{self.last_metrics['clawdbot_mqtt_sessions_revoked_total']} sessions were revoked of "
                            f"{self.counts['guests']}")
        if self.last_metrics["clawdbot_mqtt_connections"]:
            self.faults.add("accounts", f"{self.last_metrics['clawdbot_mqtt_connections']} connections are left")
        if self.last_metrics.get("clawdbot_store_checks_total", 0) < 1:
            self.faults.add("store", "it was never checked")
        self.owner_examines()
        self.hub.process.send_signal(signal.SIGTERM)
        code = self.hub.process.wait(30)
        if code != 0:
            self.faults.add("stop", f"the daemon ended with {code}")
        self.hub.reader.join(10)
        verified = json.loads(self.hub.run("store", "verify", "--json"))
        if not verified["sound"]:
            self.faults.add("store", f"stopped, `store verify` finds {verified}")
        self.kept = verified["values"]

    # --- What is told ---

    def judge(self):
        rows = [row for row in self.samples if row["hour"] >= WARM_HOURS]
        judged = self.arguments.minutes >= JUDGED_FROM_MINUTES
        born = collections.defaultdict(list)
        for at, which in self.hub.lives:
            born[which].append((at - self.start) / self.hour_s)
        print("\n| | at 4 | at 12 | at 24 | most | 20 hours of slope | last quarter to third |\n|---|---|---|---|---|---|---|")
        for name in ("daemon", "worker", "assistant"):
            for what in ("held", "rss", "anonymous", "pss"):
                column = f"{name}_{what}"
                grown = [row for row in rows if column in row and not any(
                    0 <= row["hour"] - birth < YOUNG_HOURS for birth in born[name] if birth > 0)]
                points = [(row["hour"], row[column]) for row in grown]
                if len(points) < 8:
                    continue
                median = statistics.median(value for _, value in points)
                share = 20 * theil_sen(points) / median
                third = quarter(points, 12, 18)
                quarters = quarter(points, 18, 24) / third - 1 if points[-1][0] > 20 else 0
                print(f"| {name}, {what} | {mib(nearest(self.samples, column, 4))} | {mib(nearest(rows, column, 12))} | "
                      f"{mib(nearest(rows, column, 24))} | {mib(max(row.get(column, 0) for row in self.samples))} | {share:+.1%} | "
                      f"{quarters:+.1%} |")
                # What is resident is judged, or what is held where that is counted, by another allocator: the proportional share
                # moves with every command line that maps the same program, and what is anonymous tells where growth comes from.
                if judged and what == ("held" if self.arguments.held else "rss"):
                    if share >= MAX_SLOPE and share * median >= MIN_GROWTH_BYTES:
                        self.faults.add("memory", f"{name}, {what}: grows by {share:.1%} in 20 hours")
                    if quarters > MAX_QUARTERS and quarters * third >= MIN_GROWTH_BYTES:
                        self.faults.add("memory", f"{name}, {what}: the last quarter is {quarters:.1%} above the third")
        for column, unit in (("disk", mib), ("disk_blocks", mib), ("store", mib), ("daemon_fds", str), ("daemon_threads", str),
                             ("series", str), ("mqtt_sessions", str), ("mqtt_retained", str)):
            values = [nearest(self.samples, column, hour) for hour in (4, 12, 24)]
            print(f"| {column} | {' | '.join(unit(value) for value in values)} | "
                  f"{unit(max(row.get(column) or 0 for row in self.samples))} | | |")
        for column in ("disk", "disk_blocks"):
            noon, night = nearest(rows, column, 12), nearest(rows, column, 24)
            if judged and night - noon > max(MAX_DISK_SHARE * noon, MAX_DISK_BYTES):
                self.faults.add("disk", f"{column}: {mib(noon)} at noon, {mib(night)} at the end")
        for name in self.last_metrics:
            for label, value in re.findall(r'(\w+)="([^"]*)"', name):
                if label not in LABELS or LABELS[label] is not None and value not in LABELS[label]:
                    self.faults.add("series", f"a label that config/METRICS.md does not name: {label}={value}")
        if len(self.last_metrics) > MAX_SERIES:
            self.faults.add("series", f"{len(self.last_metrics)} at the end")

    def report(self):
        sent = ", ".join(f"{what} {count}" for what, count in sorted(self.summary.items()))
        print(f"\nmessages: {sent}")
        if self.delays:
            print(f"publisher to wall, QoS 1 and 2: {centile(self.delays, 50)} ms in the median, {centile(self.delays, 99)} P99, "
                  f"{max(self.delays) * 1000:.0f} at most (the load's own Python in it)")
        print(f"dropped, as counted: {self.dropped}")
        print("answers: " + ", ".join(f"{kind} {end} {count}" for (kind, end), count in sorted(self.questions.ends.items())))
        print("to the last item: " + ", ".join(f"{kind} {centile(times, 50)} ms, P99 {centile(times, 99)}"
                                               for kind, times in sorted(self.questions.times.items())))
        print(f"attempts: {dict(self.questions.attempts)}; requests, as counted: {self.requests}")
        print("also: " + ", ".join(f"{what} {count}" for what, count in sorted(self.counts.items())))
        print(f"collector: {dict(self.collector.taken)}")
        print(f"kept at the end: {self.kept}")
        print(f"at rest before the first client and after the last: {self.rest}")
        print(f"scrapes {self.scrapes}; the load was late by {self.agenda.latest_s:.2f} s at most, {self.agenda.late} times by "
              f"more than 1 s; log {os.path.getsize(self.hub.log_path) / 2**20:.2f} MiB")
        first, last = self.samples[0], self.samples[-1]
        used = last["daemon_processor_s"] - first["daemon_processor_s"]
        print(f"the daemon used {used:.1f} s of processor time in {(last['hour'] - first['hour']) * self.hour_s:.0f} s")
        for (level, message), count in sorted(self.hub.lines.items()):
            if level in ("WARN", "ERROR"):
                print(f"log, {count} times: {level} {message[:150]}")


def process_of(pid, held):
    found = {}
    if held:
        # Not there yet, or half written.
        with contextlib.suppress(OSError, ValueError), open(os.path.join(held, str(pid))) as file:
            found["held"] = int(file.read())
    with open(f"/proc/{pid}/status") as file:
        for line in file:
            name, _, value = line.partition(":")
            if name in ("VmRSS", "RssAnon"):
                found["rss" if name == "VmRSS" else "anonymous"] = int(value.split()[0]) * 1024
            if name == "Threads":
                found["threads"] = int(value)
    with contextlib.suppress(OSError), open(f"/proc/{pid}/smaps_rollup") as file:
        found["pss"] = next(int(line.split()[1]) * 1024 for line in file if line.startswith("Pss:"))
    found["fds"] = len(os.listdir(f"/proc/{pid}/fd"))
    with open(f"/proc/{pid}/stat") as file:
        user, system = file.read().rpartition(")")[2].split()[11:13]
    found["processor_s"] = (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
    return found


def disk_of(folder):
    sizes, blocks = 0, 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                told = os.lstat(os.path.join(place, name))
                sizes, blocks = sizes + told.st_size, blocks + told.st_blocks * 512
    return sizes, blocks


def theil_sen(points):
    """The median of all slopes: a few odd samples do not move it."""
    slopes = [(b - a) / (at_b - at_a) for (at_a, a), (at_b, b) in itertools.combinations(points, 2) if at_b > at_a]
    return statistics.median(slopes)


def quarter(points, begin, end):
    return statistics.median([value for hour, value in points if begin <= hour <= end] or [value for _, value in points])


def nearest(rows, column, hour):
    rows = [row for row in rows if row.get(column) is not None]
    return min(rows, key=lambda row: abs(row["hour"] - hour))[column] if rows else 0


def mib(count):
    return f"{count / 2**20:.2f} MiB"


def centile(times, of_100):
    return f"{sorted(times)[min(len(times) - 1, len(times) * of_100 // 100)] * 1000:.1f}"


# --- Rude clients: each way of theirs, and what must become of it ---


def text(value):
    return struct.pack(">H", len(value.encode())) + value.encode()


def connect_packet(client_id, username, password):
    body = text("MQTT") + bytes([4, 0b1100_0010, 0, 60]) + text(client_id) + text(username) + text(password)
    return b"\x10" + bytes([len(body)]) + body if len(body) < 128 else \
        b"\x10" + bytes([len(body) % 128 | 128, len(body) // 128]) + body


def must_close(day, client, what, patience_s=12):
    """The hub ends it, and keeps nothing of it."""
    client.settimeout(patience_s)
    try:
        while client.recv(4096):
            pass
    except TimeoutError:
        day.faults.add("rude", f"{what}: still open after {patience_s} s")
    except OSError:
        pass
    day.counts[f"rude: {what}"] += 1


def rude_garbage(day):
    for door in ("tcp", "tls", "websocket", "secure_websocket"):
        with day.dial(door) as client:
            client.sendall(os.urandom(200))
            must_close(day, client, f"garbage at {door}")


def rude_wrong_token(day):
    with day.dial() as client:
        client.sendall(connect_packet("rude-client", "phone-0", "A" * 43))
        if client.recv(4)[3:] not in (b"\4", b"\5"):
            day.faults.add("rude", "a wrong secret was taken")
        must_close(day, client, "wrong secret")


def rude_silence(day):
    for door in ("tcp", "tls", "secure_websocket"):
        with day.dial(door) as client:
            must_close(day, client, f"no CONNECT at {door}")


def rude_half_connect(day):
    with day.dial() as client:
        client.sendall(connect_packet("rude-client", "rude", day.rude_secret)[:20])
        must_close(day, client, "half a CONNECT")


def rude_malformed(day):
    for packet in (b"\xf0\0", b"\x30\xff\xff\xff\xff\x01", b"\x82\x02\0\1", b"\x36\x05\0\1abc"):
        with day.dial() as client:
            client.sendall(connect_packet(f"rude-{os.urandom(2).hex()}", "rude", day.rude_secret))
            if client.recv(4)[3:] != b"\0":
                day.faults.add("rude", "its secret was not taken")
            client.sendall(packet)
            must_close(day, client, "malformed packet")


def rude_too_large(day):
    with day.dial() as client:
        client.sendall(connect_packet("rude-large", "rude", day.rude_secret))
        client.recv(4)
        with contextlib.suppress(OSError):
            client.sendall(b"\x30\x80\x80\x80\x01" + text("house/hall/rude/x") + bytes(2 << 20))
        must_close(day, client, "packet too large")


def rude_publish(day):
    with day.dial() as client:
        client.sendall(connect_packet("rude-topic", "rude", day.rude_secret))
        client.recv(4)
        client.sendall(b"\x30" + bytes([len(text("house/door/lock")) + 4]) + text("house/door/lock") + b"open" + b"\xe0\0")
        must_close(day, client, "topic that is denied")


def rude_half_open(day):
    """It subscribes to everything that it may, then reads nothing and says nothing until its keep-alive is over."""
    with day.dial() as client:
        packet = bytearray(connect_packet("rude-half", "rude", day.rude_secret))
        at = packet.index(b"MQTT") + 6
        packet[at:at + 2] = struct.pack(">H", 2)
        client.sendall(packet)
        client.recv(4)
        client.sendall(b"\x82" + bytes([2 + len(text("clawdbot/rude/#")) + 1]) + b"\0\1" + text("clawdbot/rude/#") + b"\1")
        time.sleep(4.5)
        must_close(day, client, "half open", 5)


def rude_http(day):
    with day.dial("metrics") as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n")
        must_close(day, client, "half a scrape")
    with day.dial("websocket") as client:
        client.sendall(b"GET /etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n")
        must_close(day, client, "another page")


RUDE = [rude_garbage, rude_wrong_token, rude_silence, rude_half_connect, rude_malformed, rude_too_large, rude_publish,
        rude_half_open, rude_http]


def keep(day, folder, to):
    os.makedirs(to, exist_ok=True)
    names = sorted({name for row in day.samples for name in row}, key=lambda name: (name != "hour", name))
    with open(os.path.join(to, "samples.csv"), "w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(day.samples)
    with open(os.path.join(to, "ledger.json"), "w") as file:
        json.dump(day.ledger, file)
    with open(os.path.join(to, "metrics.json"), "w") as file:
        json.dump(day.last_metrics, file, indent=1)
    with open(os.path.join(to, "faults.json"), "w") as file:
        json.dump(day.faults.found, file, indent=1, ensure_ascii=False)
    if os.path.exists(day.hub.log_path):
        shutil.copy(day.hub.log_path, to)
    print(f"samples, metrics, faults and the log: {to}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clawdbot")
    parser.add_argument("--held", metavar="DIR", help="where benches/counted_daemon.rs writes what its processes hold")
    parser.add_argument("model")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--devices", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", help="a folder for samples, metrics and the log")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = tempfile.mkdtemp(prefix="clawdbot-day-")
    atexit.register(shutil.rmtree, folder, True)
    day = Day(arguments, folder)
    try:
        day.live()
    except Exception as error:
        day.faults.add("load", f"the day ended early: {error!r}")
        raise
    finally:
        if day.faults.found or arguments.keep:
            keep(day, folder, arguments.keep or tempfile.mkdtemp(prefix="clawdbot-day-kept-"))
    day.judge()
    day.report()
    for kind, found in day.faults.found.items():
        print(f"OFF: {kind}, {len(found)} times, as {found[0][:400]}")
    print("the day was " + ("not in order" if day.faults.found else "in order"))
    sys.stdout.flush()
    # Threads of clients may still wait for their sockets, and would keep this from ending.
    day.hub.process.kill()
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1 if day.faults.found else 0)


if __name__ == "__main__":
    main()
