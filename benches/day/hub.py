"""The daemon under load: its settings, its doors, its log, its metrics, and the commands of its owner.

Whoever comes to its doors and whatever is asked there is none of its business. What its log may say stands in the table.
"""

import atexit
import collections
import http.client
import json
import os
import re
import socket
import ssl
import subprocess
import threading
import time

from agenda import wait_for
from table import ACCESS, EXPECTED, SETTINGS


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

    def dial(self, door="tcp"):
        return socket.create_connection(("127.0.0.1", self.ports[door]), timeout=15)


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
