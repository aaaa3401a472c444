"""Who lives there and what each of them does when its turn comes: sensors, phones, lamps, recorders, the tablet, the dashboard on
the wall, the camera, guests and visitors.

It does not know when anybody's turn is (the day does), nor whether the messages arrived (the accounts do). Who is rude has a module
of its own.
"""

import collections
import hashlib
import json
import re
import time

from party import Party
from questions import Questions
from table import GUEST_RETAINED, KEEP_ALIVE_S, PICTURE_BYTES, PROMPTS, ROOMS, SENTENCES


class Household:
    """The parties, and what the house itself has to remember of them for the accounts."""

    def __init__(self, hub, agenda, faults, chance):
        self.hub, self.agenda, self.faults, self.chance = hub, agenda, faults, chance
        self.parties, self.delays, self.counts = {}, [], collections.Counter()
        self.questions = Questions(faults)
        self.wills, self.intents, self.windows, self.expiring = set(), set(), [], 0

    # --- Who lives there ---

    def people(self, devices):
        sensors = max(4, devices * 40 // 60)
        phones = max(2, devices * 10 // 60)
        lamps = max(2, devices - sensors - phones - 6)
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
            if told["state"] == "lost":
                self.wills.add((told["by"], told["n"]))
            return True
        return False

    def lost(self, party, why):
        """A connection ended that nobody wanted to end. A token that was renewed too late is no fault, if it is rare."""
        by_token = party.by_token and ("connect time" in why.lower() or party.version == 4)
        self.counts["ended by its token" if by_token else "lost unasked"] += 1
        if not by_token:
            self.faults.add("connection", f"{party.name} was disconnected: {why}")
        self.agenda.at(time.monotonic() + 0.3, party.come, waits=True)

    def streams(self):
        return [stream for party in list(self.parties.values()) for stream in list(party.streams.values())]

    # --- What they do ---

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
        time.sleep(max(1, 0.3 * self.agenda.hour_s))
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
        time.sleep(0.5 * self.agenda.hour_s)
        recorder.come()
