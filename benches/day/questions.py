"""What is asked of the model and of the assistant, and what comes back, item by item.

It does not know who asks, but for the party that an answer must come to, nor why: a kind is a name that says how it may end.
"""

import collections
import itertools
import json
import threading
import time


class Questions:
    """What was asked, and whether each answer came whole and ended as it may."""

    MAY_END = {
        "cancelled": {"stop", "length", "cancelled"},
        "deadline": {"stop", "length", "expired", "deadline_unreachable"},
    }

    def __init__(self, faults):
        self.faults, self.open, self.number, self.lock = faults, {}, itertools.count(1), threading.Lock()
        self.ends, self.times = collections.Counter(), collections.defaultdict(list)
        self.understood, self.known, self.attempts = set(), set(), collections.Counter()

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
                return self.faults.add("answer", f"{party.name} got what it did not ask for: {item}")
            if item["seq"] < asked["next"] and party.cuts:
                return  # at least once: it was on its way when the connection ended
            if item["seq"] != asked["next"] or asked["done"]:
                return self.faults.add("answer", f"{item} where {asked['next']} was next, done: {asked['done']}")
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
                self.faults.add("answer", f"{item['id']} ended with {end}: {item}")
            if item.get("actions"):
                self.understood.add(item["id"])

    def note_known(self):
        """What the assistant is not sure of goes to the model, and that is in order; what it knew once it must know all day."""
        self.known = {self.open[each]["prompt"] for each in self.understood}

    def waiting(self):
        with self.lock:
            return [identity for identity, asked in self.open.items() if not asked["done"]]
