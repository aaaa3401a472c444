"""The accounts of the day: whether what was published arrived, in order and as often as was promised, whether what was asked was
answered, and whether the hub's own sums come to the same.

They look at what the parties noted and at the hub's metrics when the day is over. They do not know how any of it was done, nor
when, but for what the tablet looked at.
"""

import collections
import re
import time


class Accounts:
    def __init__(self, house):
        self.house, self.faults, self.counts, self.questions = house, house.faults, house.counts, house.questions
        self.summary, self.dropped, self.requests = collections.Counter(), {}, {}

    def check_messages(self):
        for stream in self.house.streams():
            if stream.pending:
                self.faults.add("message", f"{len(stream.pending)} of {stream.party.name} to {stream.topic} are not acknowledged")
            self.summary[f"sent at QoS {stream.qos}"] += stream.sent
            if stream.topic.startswith("house/"):
                self.check(self.house.wall, stream)
            if stream.topic.endswith("/event"):
                for phone in self.house.phones:
                    self.check(phone, stream)
                self.check_shared(stream)
            for reader in (*self.house.lamps, *self.house.phones):
                if stream.topic.endswith((f"/{reader.name}/set", f"clawdbot/{reader.name}/inbox")):
                    self.check(reader, stream)
            if stream.topic.endswith("/state") and stream.qos == 1:
                self.check_windows(stream)
        cuts = {(phone.name, visit) for phone in self.house.phones for visit in range(1, phone.visits + 1)}
        left = self.counts["a phone is cut"] + self.counts["a phone out of range"] + self.counts["ended by its token"]
        if len(self.house.wills) != left or not self.house.wills <= cuts:
            self.faults.add("will", f"{left} phones were cut off, {len(self.house.wills)} wills were told")

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
        got = [number for recorder in self.house.recorders for number in recorder.got.get((stream.party.name, stream.topic), [])]
        lost = stream.acknowledged - set(got)
        self.summary["delivered by the shared subscription"] += len(got)
        if lost:
            self.faults.add("message", f"lost to all recorders: {stream.topic}: {sorted(lost)[:5]}")
        if len(got) != len(set(got)) and not stream.party.cuts and not any(recorder.cuts for recorder in self.house.recorders):
            self.faults.add("message", f"two recorders got the same: {stream.topic}")

    def check_windows(self, stream):
        got = set(self.house.tablet.got.get((stream.party.name, stream.topic), []))
        for window in self.house.windows:
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
        untold = self.questions.understood - self.house.intents
        if untold:
            self.faults.add("intent", f"{len(untold)} commands were understood and not told to the wall, as {sorted(untold)[:5]}")
        asked, known = self.questions.open, self.questions.known
        commands = sum(each["kind"] == "command" and each["prompt"] in known for each in asked.values())
        understood = sum(asked[each]["prompt"] in known for each in self.questions.understood)
        self.counts["commands understood"], self.counts["commands"] = understood, commands
        # On a machine that is busy some find it too late (model.commands_within_ms).
        if understood < 0.9 * commands:
            self.faults.add("answer", f"of {commands} commands the assistant took {understood}")

    def check_sums(self, metrics):
        """The sums of tests/support/conservation.rs."""
        of = lambda name: metrics.get(f"clawdbot_mqtt_{name}", 0)
        self.dropped = dropped = {
            name[len("clawdbot_mqtt_messages_dropped_"):-len("_total")]: value for name, value in metrics.items()
            if name.startswith("clawdbot_mqtt_messages_dropped_") and value}
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
                self.faults.add("accounts", f"{priority}: {requests[(priority, True)]} accepted, "
                                f"{requests[(priority, False)]} accounted for")
        self.requests = {state: int(count) for state, count in requests.items() if isinstance(state, str) and count}
        if metrics.get("clawdbot_mqtt_sessions_expired_total") != self.house.expiring:
            self.faults.add("accounts", f"{self.house.expiring} sessions were to expire, "
                            f"{metrics.get('clawdbot_mqtt_sessions_expired_total')} did")
        for name, count in (("clawdbot_worker_lost_total", self.counts["worker killed"]),
                            ("clawdbot_commands_lost_total", self.counts["assistant killed"]),
                            ("clawdbot_store_failures_total", 0), ("clawdbot_store_damaged_total", 0),
                            ("clawdbot_disk_probe_failures_total", 0)):
            if metrics.get(name, 0) != count:
                self.faults.add("accounts", f"{name} is {metrics.get(name)}, {count} was to be expected")

    def check_left(self, metrics):
        """What the hub must have kept, and no more, when everybody is gone."""
        lasting = sum(party.lasting for party in self.house.everybody())
        if metrics["clawdbot_mqtt_sessions"] != lasting:
            self.faults.add("accounts", f"{metrics['clawdbot_mqtt_sessions']} sessions are left, {lasting} were to last")
        if metrics["clawdbot_mqtt_sessions_revoked_total"] != self.counts["guests"]:
            self.faults.add("accounts", f"{metrics['clawdbot_mqtt_sessions_revoked_total']} sessions were revoked of "
                            f"{self.counts['guests']}")
        if metrics["clawdbot_mqtt_connections"]:
            self.faults.add("accounts", f"{metrics['clawdbot_mqtt_connections']} connections are left")
        if metrics.get("clawdbot_store_checks_total", 0) < 1:
            self.faults.add("store", "it was never checked")
