"""What the owner does with the hub while it is in use, and how its processes are killed: the commands and signals of a shell.

It does not know what the house does meanwhile, but that some of those who are there wait for an answer when a process dies.
"""

import json
import os
import signal

from agenda import wait_for
from faults import say


class Owner:
    def __init__(self, house, folder):
        self.house, self.hub, self.faults, self.counts = house, house.hub, house.faults, house.counts
        self.questions, self.folder, self.ledger = house.questions, folder, []

    def looks(self):
        status = json.loads(self.hub.run("status", "--json"))
        self.ledger.append((self.house.agenda.hour(), status["memory"]["ledger"]))
        self.hub.run("topics", "--json")
        self.hub.run("device", "list", "--json")

    def examines(self):
        verified = json.loads(self.hub.run("store", "verify", "--json"))
        if not verified["sound"]:
            self.faults.add("store", f"`store verify` finds {verified}")
        examined = json.loads(self.hub.run("doctor", "--json"))
        if not examined["ok"]:
            self.faults.add("doctor", json.dumps(examined["findings"], ensure_ascii=False))
        for finding in examined["findings"]:
            self.counts[f"doctor: {finding['severity']}, {finding['message']}"[:160]] += 1

    def exports(self):
        archive = os.path.join(self.folder, "archive")
        self.hub.run("store", "export", archive)
        self.counts["bytes of the archive"] = os.path.getsize(archive)

    def kill(self, which):
        """In the middle of long answers, if it is the model's process; each of them must come whole all the same."""
        asked = []
        if which == "worker":
            others = [self.house.tablet, *[phone for phone in self.house.phones if phone.there][:2]]
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
