"""A device of the house: how it comes and goes, what it publishes, and what it notes of all that it gets.

It does not know what a device does, nor when, nor whether what it got is what it should have: that is for the household, the day
and the accounts. Of the house it wants `hub`, `faults`, `parties`, `questions`, `delays`, and `lost`, which is told of a
connection that nobody wanted to end.
"""

import collections
import hashlib
import json
import threading
import time

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from agenda import wait_for


class Party:
    """A device: its client, what it has sent and got. It keeps its client over connections, as MQTT's promises want it."""

    def __init__(self, house, name, door="tcp", version=4, lasting=False, by_token=False, secret=None, expiry_s=3600, will=None,
                 keep_alive_s=60):
        self.house, self.name, self.door, self.version, self.lasting = house, name, door, version, lasting
        self.by_token, self.expiry_s, self.will, self.keep_alive_s = by_token, expiry_s, will, keep_alive_s
        self.secret = secret or house.hub.pair(name)
        self.filters, self.streams = [], {}
        self.got = collections.defaultdict(list)
        self.visits, self.cuts, self.busy = 0, 0, threading.Lock()
        self.there = False
        transport = "websockets" if "websocket" in door else "tcp"
        kind = mqtt.MQTTv5 if version == 5 else mqtt.MQTTv311
        clean = {} if version == 5 else {"clean_session": not lasting}
        self.client = client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=f"{name}-client", protocol=kind,
                                           transport=transport, reconnect_on_failure=False, **clean)
        if transport == "websockets":
            client.ws_set_options(path="/mqtt")
        if door in ("tls", "secure_websocket"):
            client.tls_set(ca_certs=house.hub.authority)
        client.on_connect, client.on_disconnect = self.on_connect, self.on_disconnect
        client.on_message, client.on_subscribe, client.on_publish = self.on_message, self.on_subscribe, self.on_publish
        self.connack, self.granted = threading.Event(), {}
        self.leaving, self.hears = True, None
        house.parties[name] = self

    def come(self):
        """Waits until it is let in, and finds what it left if its session lasts."""
        with self.busy:
            if self.there:
                return
            self.client.loop_stop()
            password = self.house.hub.post("/token", {"device": self.name, "secret": self.secret})["token"] \
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
                self.client.connect("localhost", self.house.hub.ports[self.door], self.keep_alive_s, **more)
            else:
                self.client.reconnect()
            self.client.loop_start()
            if not self.connack.wait(20):
                raise TimeoutError(f"{self.name} got no CONNACK")
            if self.refused:
                raise OSError(f"{self.name} is refused: {self.refused}")
            if self.lasting and self.found != (self.visits > 1):
                self.house.faults.add("session", f"{self.name} comes for the {self.visits}. time; a session is there: {self.found}")
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
            return
        stream = self.streams.get(topic) or self.streams.setdefault(topic, Stream(self, topic, qos))
        stream.sent += 1
        text = self.payload(stream.sent, **fields).encode()
        stream.times[stream.sent] = time.monotonic()
        info = self.client.publish(topic, text + b"\n" + body if body else text, qos, retain)
        if qos:
            stream.pending.append((stream.sent, info))
            if len(stream.pending) > 20:
                stream.settle()

    def on_connect(self, _client, _data, flags, code, _properties):
        self.refused = str(code) if code.is_failure else None
        self.found = flags.session_present
        self.connack.set()

    def on_disconnect(self, _client, _data, _flags, code, _properties):
        if not self.leaving and self.there:
            self.there = False
            self.cuts += 1
            self.house.lost(self, str(code))

    def on_subscribe(self, _client, _data, number, codes, _properties):
        self.granted[number] = codes

    def on_publish(self, _client, _data, number, code, _properties):
        if code.is_failure:
            self.house.faults.add("publish", f"{self.name} is answered {code}")

    def on_message(self, _client, _data, message):
        try:
            self.take(message)
        except Exception as error:  # A thread of paho's would die of it, and nobody would know why.
            self.house.faults.add("load", f"{self.name}, {message.topic}: {error!r}")

    def take(self, message):
        topic = message.topic
        if self.hears and self.hears(message):
            return
        if topic.endswith("/reply"):
            return self.house.questions.answered(self, json.loads(message.payload))
        if not message.payload or not topic.startswith(("house/", f"clawdbot/{self.name}/inbox")):
            return
        head, _, body = message.payload.partition(b"\n")
        fields = json.loads(head)
        if "sha256" in fields and hashlib.sha256(body).hexdigest() != fields["sha256"]:
            self.house.faults.add("picture", f"{self.name} got one that is not whole: {topic} {fields['n']}")
        if message.retain:
            return
        self.got[(fields["by"], topic)].append(fields["n"])
        if self.name == "wall" and message.qos and not body:
            self.house.delays.append(time.monotonic() - fields["t"])


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
