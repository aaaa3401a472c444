"""What is measured while the day goes by: processes, disk and metrics, a row every few seconds.

It does not know how much is too much: the verdict does.
"""

import contextlib
import os
import re
import time


COUNT_IS_OLD_S = 5  # it is written every second


class Samples:
    def __init__(self, hub, agenda, held):
        self.hub, self.agenda, self.held = hub, agenda, held
        self.rows, self.last_metrics, self.scrapes = [], {}, 0

    def scrape(self):
        self.last_metrics = self.hub.metrics()
        self.scrapes += 1

    def sample(self):
        row = {"hour": round(self.agenda.hour(), 3)}
        for name, pid in (("daemon", self.hub.process.pid), *self.hub.workers.items()):
            with contextlib.suppress(OSError, ProcessLookupError):
                row.update({f"{name}_{what}": value for what, value in process_of(pid, self.held).items()})
        row["disk"], row["disk_blocks"] = disk_of(self.hub.data)
        with contextlib.suppress(OSError):
            row["store"] = os.path.getsize(os.path.join(self.hub.data, "store.redb"))
        row["series"] = len(self.last_metrics)
        for name, value in self.last_metrics.items():
            if name.startswith("clawdbot_memory_used_bytes"):
                row["owner_" + re.search(r'owner="(\w+)"', name)[1]] = value
        for name in ("mqtt_connections", "mqtt_sessions", "mqtt_subscriptions", "mqtt_retained", "mqtt_deliveries_waiting"):
            row[name] = self.last_metrics.get(f"clawdbot_{name}")
        self.rows.append(row)

    def at_rest(self):
        """What the daemon has open when nobody is there, once threads that had work for a moment are gone."""
        found = []
        for _ in range(25):
            time.sleep(1)
            found.append(process_of(self.hub.process.pid, self.held))
        return {what: min(each[what] for each in found[-5:]) for what in ("fds", "threads", "rss")}


def process_of(pid, held):
    found = {}
    if held:
        # Not there yet, or half written; and one who counts no more must not be taken for one who grows no more.
        with contextlib.suppress(OSError, ValueError), open(os.path.join(held, str(pid))) as file:
            if time.time() - os.fstat(file.fileno()).st_mtime < COUNT_IS_OLD_S:
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
