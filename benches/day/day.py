"""The day itself: who is there, what happens when, and how it begins and ends.

It brings the others together and does nothing that one of them could do; it does not know how any of it is done.
"""

import contextlib
import itertools
import json
import random
import signal
import sys
import threading
import time

from accounts import Accounts
from agenda import Agenda, wait_for
from collector import Collector
from faults import Faults, say
from household import Household
from hub import Hub, free_ports
from owner import Owner
from rude import RUDE, flap
from samples import Samples
from table import (COLLECTOR, COMMANDS_A_DAY, DOCTOR_AT, EVENT_EVERY_S, EXPORT_AT, FLAPPING_HOURS, GUEST_HOURS,
                   INBOX_EVERY_S, KILL_ASSISTANT_AT, KILL_MODEL_AT, MORE_THREADS, OWNER_HOURS, PHONE_AWAY_HOURS,
                   PHONE_LEAVES, PHONE_NIGHT_HOURS, PHONE_THERE_HOURS, PICTURE_HOURS, PROMPTS, QUESTIONS_A_DAY, RENEW_AT,
                   ROOM_CHANGE_HOURS, ROTATE_AT, RUDE_HOURS, SAMPLE_S, SCRAPE_S, SENSOR_CUTS_A_DAY, SENTENCES,
                   STATE_EVERY_S, SWITCH_EVERY_S, VISITOR_HOURS)


class Day:
    def __init__(self, arguments, folder):
        self.arguments, self.faults = arguments, Faults()
        self.collector = Collector(free_ports(1)[0])
        self.hub = Hub(arguments.clawdbot, arguments.model, folder, self.collector.port, self.faults, arguments.held)
        self.agenda = Agenda(self.faults, arguments.minutes * 60 / 24)
        self.house = Household(self.hub, self.agenda, self.faults, random.Random(arguments.seed))
        self.owner, self.samples = Owner(self.house, folder), Samples(self.hub, self.agenda, arguments.held)
        self.accounts = Accounts(self.house)

    def live(self):
        say(f"pairing {self.arguments.devices} devices, seed {self.arguments.seed}")
        self.samples.last_metrics = self.hub.metrics()
        self.house.people(self.arguments.devices)
        self.use_everything_once()
        self.collector.become("takes")
        rest = self.samples.at_rest()
        say(f"at rest: {rest}")
        for party in self.house.everybody():
            (self.house.phone_comes if party in self.house.phones else lambda p: p.come())(party)
        start = self.agenda.start = time.monotonic()
        end = start + 24 * self.agenda.hour_s
        self.arrange(start)
        self.agenda.every(SCRAPE_S, start, self.samples.scrape, waits=True, until=end)
        self.agenda.every(SAMPLE_S, start + 1, self.samples.sample, waits=True, until=end)
        self.agenda.run(end)
        say("the day is over")
        self.drain()
        self.accounts.check_messages()
        self.accounts.check_answers()
        self.goodbye(rest)

    def use_everything_once(self):
        """Each door, and each kind of answer, so that what is made at first use is there before it is compared."""
        house, questions = self.house, self.house.questions
        of_each_door = (house.tablet, house.wall, house.camera, house.lamps[0], house.recorders[0])
        for party in of_each_door:
            party.come()
        questions.ask(house.tablet, "plain", PROMPTS[0], max_tokens=20)
        for sentence in SENTENCES:
            questions.ask(house.tablet, "command", sentence)
        wait_for("the first answers", lambda: not questions.waiting())
        questions.note_known()
        for sentence in set(SENTENCES) - questions.known:
            say(f"the assistant leaves this to the model: {sentence}")
        for party in of_each_door:
            party.go()

    def arrange(self, start):
        agenda, house, owner, hour, chance = self.agenda, self.house, self.owner, self.agenda.hour_s, self.house.chance
        end = start + 24 * hour
        quiet = end - 2  # so that what is on its way arrives within the day
        for number, sensor in enumerate(house.sensors):
            topic = f"house/{house.room_of(sensor)}/{sensor.name}"
            agenda.every(STATE_EVERY_S, start + chance.random() * STATE_EVERY_S, lambda s=sensor, t=topic, q=number // 2 % 2:
                         s.publish(f"{t}/state", q, retain=True, value=round(chance.gauss(21, 3), 1)), until=quiet)
            if number % 4 == 0:
                agenda.every(EVENT_EVERY_S, start + chance.random() * EVENT_EVERY_S, lambda s=sensor, t=topic:
                             s.publish(f"{t}/event", 1, kind="motion"), until=quiet)
            for _ in range(SENSOR_CUTS_A_DAY):
                at = start + chance.uniform(0.5, 23) * hour
                agenda.at(at, lambda s=sensor: s.go("is cut"), waits=True)
                agenda.at(at + 0.1 * hour + 1, sensor.come, waits=True)
        for phone in house.phones:
            self.arrange_phone(phone, start)
            agenda.every(SWITCH_EVERY_S, start + chance.random() * SWITCH_EVERY_S, lambda p=phone: house.switch(p), until=quiet)
            agenda.every(INBOX_EVERY_S, start + chance.random() * INBOX_EVERY_S, lambda p=phone: house.write(p), until=quiet)
            if phone.by_token:
                agenda.every(8, start + 4 + chance.random() * 4, lambda p=phone: house.renew(p), waits=True, until=end + 600)
        for _ in range(round(COMMANDS_A_DAY * self.arguments.minutes / 20)):
            agenda.at(chance.uniform(start, quiet), house.command)
        for _ in range(round(QUESTIONS_A_DAY * self.arguments.minutes / 20)):
            agenda.at(chance.uniform(start, quiet), house.question)
        agenda.every(ROOM_CHANGE_HOURS * hour, start + 1, house.change_room, waits=True, until=quiet - 2)
        agenda.every(PICTURE_HOURS * hour, start + 0.3 * hour, house.picture, until=quiet)
        agenda.every(GUEST_HOURS * hour, start + 0.1 * hour, house.guest, waits=True, until=quiet - 4)
        agenda.every(VISITOR_HOURS * hour, start + 0.6 * hour, house.visitor, waits=True, until=quiet - 4)
        agenda.every(hour * 5, start + hour * 2.5, house.recorder_is_away, waits=True, until=quiet - 4)
        for way in RUDE:
            agenda.every(RUDE_HOURS * hour, start + chance.random() * RUDE_HOURS * hour, lambda w=way: w(house), waits=True,
                         until=quiet)
        for at in FLAPPING_HOURS:
            agenda.at(start + at * hour, lambda: flap(house), waits=True)
        agenda.every(OWNER_HOURS * hour, start + 0.8 * hour, owner.looks, waits=True, until=end)
        for at in DOCTOR_AT:
            agenda.at(start + at * hour, owner.examines, waits=True)
        agenda.at(start + EXPORT_AT * hour, owner.exports, waits=True)
        agenda.at(start + RENEW_AT * hour, lambda: self.hub.run("certs", "renew"), waits=True)
        agenda.at(start + ROTATE_AT * hour, lambda: self.hub.run("keys", "rotate"), waits=True)
        for at in KILL_MODEL_AT:
            agenda.at(start + at * hour, lambda: owner.kill("worker"), waits=True)
        agenda.at(start + KILL_ASSISTANT_AT * hour, lambda: owner.kill("assistant"), waits=True)
        modes = itertools.cycle(COLLECTOR)
        agenda.every(hour, start, lambda: self.collector.become(next(modes)), waits=True, until=end)
        for at in range(24):
            agenda.at(start + at * hour, lambda at=at: self.tell_hour(at))

    def arrange_phone(self, phone, start):
        agenda, house, chance = self.agenda, self.house, self.house.chance
        at, night = chance.uniform(0.2, 1), True
        while at < 23:
            away = chance.uniform(*(PHONE_NIGHT_HOURS if night else PHONE_AWAY_HOURS))
            back = min(at + away, chance.uniform(23.2, 23.4))
            how = chance.choice(PHONE_LEAVES)
            agenda.at(start + at * agenda.hour_s, lambda h=how: house.phone_goes(phone, h), waits=True)
            agenda.at(start + back * agenda.hour_s, lambda: house.phone_comes(phone), waits=True)
            at, night = back + chance.uniform(*PHONE_THERE_HOURS), False

    def tell_hour(self, at):
        sample = self.samples.rows[-1] if self.samples.rows else {}
        print(f"\r{at:2} o'clock: daemon {sample.get('daemon_rss', 0) / 2**20:.1f} MiB, data {sample.get('disk', 0) / 2**20:.2f} MiB, "
              f"{sum(party.there for party in self.house.parties.values())} there, "
              f"{len(self.house.questions.waiting())} answers to come",
              file=sys.stderr, flush=True)

    def drain(self):
        """Those who were away or were cut at the last come, and what is on its way arrives."""
        # Tokens are renewed meanwhile, or their sessions would end before they were looked at.
        threading.Thread(target=self.agenda.run, args=(time.monotonic() + 600,), daemon=True).start()
        time.sleep(5)
        for party in self.house.everybody():
            self.agenda.safely(party.come)

        def arrived():
            for stream in self.house.streams():
                stream.settle()
            return not self.house.questions.waiting() and not any(stream.pending for stream in self.house.streams()) \
                and self.hub.value("clawdbot_mqtt_deliveries_waiting") == 0
        with contextlib.suppress(TimeoutError):
            wait_for("what is on its way", arrived, 60)
        time.sleep(1)

    def goodbye(self, rest):
        self.agenda.over = True
        for party in list(self.house.parties.values()):
            party.go()
        with contextlib.suppress(TimeoutError):
            wait_for("everybody to be gone", lambda: self.hub.value("clawdbot_mqtt_connections") == 0, 30)
        after = self.samples.at_rest()
        self.rest = (rest, after)
        for what in ("fds", "threads"):
            if after[what] > rest[what] + (MORE_THREADS if what == "threads" else 0):
                self.faults.add(what, f"{rest[what]} before the first client, {after[what]} after the last")
        metrics = self.samples.last_metrics = self.hub.metrics()
        self.accounts.check_sums(metrics)
        self.accounts.check_left(metrics)
        self.owner.examines()
        self.hub.process.send_signal(signal.SIGTERM)
        code = self.hub.process.wait(30)
        if code != 0:
            self.faults.add("stop", f"the daemon ended with {code}")
        self.hub.reader.join(10)
        verified = json.loads(self.hub.run("store", "verify", "--json"))
        if not verified["sound"]:
            self.faults.add("store", f"stopped, `store verify` finds {verified}")
        self.kept = verified["values"]
