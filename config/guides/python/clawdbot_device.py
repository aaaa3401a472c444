#!/usr/bin/env python3
"""A device of Clawdbot, in Python. It pairs once, asks, says how it is, and hears what is to be done.

    python3 -m pip install "paho-mqtt>=2.1"

    # once, with the code that `clawdbot device pair kitchen` shows on the hub:
    python3 clawdbot_device.py --hub hub.local --ca ca.pem --name kitchen --code ABCD-2345
    # a question, with the answer as it comes:
    python3 clawdbot_device.py --hub hub.local --ca ca.pem --name kitchen "turn off the lights in the kitchen"
    # without a question it stays connected, says how it is, and prints what the hub understood:
    python3 clawdbot_device.py --hub hub.local --ca ca.pem --name kitchen

`ca.pem` is the hub's authority (`clawdbot certs show` says where it is). The secret that the device is given lies in
`NAME.secret` beside this program, or where --secret says.
"""

import argparse
import json
import os
import queue
import random
import signal
import sys
import threading
import uuid

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

KEEP_ALIVE_S = 30
# How long the hub keeps our subscriptions, and what comes for us, while we are away.
SESSION_EXPIRY_S = 300
# Bad User Name or Password, Not Authorized, Banned, Session Taken Over: trying again would not help.
REFUSED_FOR_GOOD = (0x86, 0x87, 0x8A, 0x8E)


def client_of(options, client_id):
    """A client that speaks MQTT 5 by TLS and trusts the hub's own authority, and no other."""
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=client_id, protocol=mqtt.MQTTv5)
    client.tls_set(ca_certs=options.ca)
    return client


def pair(options):
    """Exchanges the code for this device's secret."""
    answers = queue.Queue()
    client = client_of(options, client_id="")
    # This name is let in without a password while a code waits, and may do nothing but this.
    client.username_pw_set("pairing")

    def on_connect(client, _data, _flags, reason, _properties):
        if reason.is_failure:
            answers.put({"status": "error", "error": f"{reason}: no code waits; run `clawdbot device pair` on the hub"})
        else:
            # The answer comes to this connection alone, without a subscription.
            client.publish("clawdbot/bridge/request/pair", options.code, qos=1)

    client.on_connect = on_connect
    client.on_message = lambda _client, _data, message: answers.put(json.loads(message.payload))
    client.connect(options.hub, options.port, KEEP_ALIVE_S)
    client.loop_start()
    try:
        answer = answers.get(timeout=30)
    except queue.Empty:
        sys.exit("the hub did not answer within 30 seconds")
    client.disconnect()
    client.loop_stop()
    if answer["status"] != "ok":
        sys.exit(f"not paired: {answer['error']}")
    return answer["data"]["secret"]


def keep(path, secret):
    """Only this user may read it: whoever has the secret is this device."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(secret)


class Device:
    """A connection that lasts: what breaks is mended. One that stays says how it is, and hears intents."""

    def __init__(self, options, secret, stays):
        self.name, self.stays = options.name, stays
        # Of two clients with the same id the newer one throws the other out. So what stays has an id of its own, by
        # which the hub finds its session again, and what only asks a new one each time.
        self.client_id = f"{self.name}-{'python' if stays else uuid.uuid4().hex[:8]}"
        # Where our answers shall go. Another client of this device has another place.
        self.answers_topic = f"clawdbot/{self.name}/reply/{self.client_id}"
        self.answers = {}
        self.intents = queue.Queue()
        self.known_intents = []
        self.hears, self.refused = threading.Event(), threading.Event()
        self.client = client = client_of(options, self.client_id)
        client.username_pw_set(self.name, secret)
        if stays:
            # When the connection breaks, the hub says this for us.
            client.will_set(f"clawdbot/{self.name}/state", json.dumps({"online": False}), qos=1, retain=True)
        client.on_connect = self.on_connect
        client.on_subscribe = self.on_subscribe
        client.on_disconnect = self.on_disconnect
        client.on_connect_fail = lambda _client, _data: print("the hub is not reached; trying again", file=sys.stderr)
        client.on_message = self.on_message
        # paho connects again by itself: after a second or two, then twice as long each time, a minute at most.
        # The chance in it keeps a whole house from coming back in the same moment.
        client.reconnect_delay_set(min_delay=random.uniform(1, 2), max_delay=60)
        kept = Properties(PacketTypes.CONNECT)
        kept.SessionExpiryInterval = SESSION_EXPIRY_S
        client.connect_async(options.hub, options.port, KEEP_ALIVE_S, clean_start=False, properties=kept)
        client.loop_start()

    def on_connect(self, client, _data, _flags, reason, _properties):
        if reason.is_failure:
            self.failed(reason)
            return
        # Each time, since the hub may have forgotten the session.
        topics = [self.answers_topic] + ([f"clawdbot/{self.name}/intent"] if self.stays else [])
        client.subscribe([(topic, 1) for topic in topics])
        if self.stays:
            self.publish_state({"online": True})

    def on_subscribe(self, _client, _data, _id, _reasons, _properties):
        self.hears.set()
        if self.stays:
            print("connected", file=sys.stderr, flush=True)

    def on_disconnect(self, _client, _data, _flags, reason, _properties):
        self.hears.clear()
        if reason.is_failure and not self.refused.is_set():
            self.failed(reason)

    def failed(self, reason):
        print(f"no connection ({reason})", file=sys.stderr)
        if reason.value in REFUSED_FOR_GOOD:
            print(
                f"is {self.name} running twice? or was it revoked? "
                f"`clawdbot device pair {self.name} --again` on the hub pairs it again",
                file=sys.stderr,
            )
            self.refused.set()

    def publish_state(self, state):
        """Retained, so that whoever subscribes later knows it, too."""
        return self.client.publish(f"clawdbot/{self.name}/state", json.dumps(state), qos=1, retain=True)

    def on_message(self, _client, _data, message):
        content = json.loads(message.payload)
        if message.topic == self.answers_topic:
            waiting = self.answers.get(getattr(message.properties, "CorrelationData", None))
            if waiting:
                waiting.put(content)
        # A retained intent is old, and after a fault one may come twice.
        elif not message.retain and content["id"] not in self.known_intents:
            self.known_intents = self.known_intents[-99:] + [content["id"]]
            # Done elsewhere: what takes long here would keep paho from its pings.
            self.intents.put(content)

    def ask(self, prompt):
        """Yields the parts of the answer as they come."""
        # An answer may come within milliseconds: who asks before the subscription is there may miss it.
        while not self.hears.wait(1):
            if self.refused.is_set():
                raise RuntimeError("the hub does not let this device in")
        # Ours, so that it is known again should the hub begin it anew.
        request_id = uuid.uuid4().hex
        correlation = request_id.encode()
        items = self.answers[correlation] = queue.Queue()
        properties = Properties(PacketTypes.PUBLISH)
        properties.ResponseTopic = self.answers_topic
        properties.CorrelationData = correlation
        request = json.dumps({"id": request_id, "prompt": prompt})
        # Should the connection break now, paho sends it again.
        self.client.publish(f"clawdbot/{self.name}/command", request, qos=1, properties=properties)
        attempt, expected, is_done = 1, 0, False
        while not is_done:
            try:
                item = items.get(timeout=1)
            except queue.Empty:
                if self.refused.is_set():
                    raise RuntimeError("the hub does not let this device in") from None
                continue
            if item["seq"] == 0 and item.get("attempt", 1) > attempt:
                # The hub was restarted in the middle, and begins the answer anew.
                yield "\n"
                expected = 0
            attempt = item.get("attempt", 1)
            if item["seq"] != expected:
                # At QoS 1 a message may come twice.
                continue
            expected += 1
            yield item["delta"]
            is_done = item.get("done", False)
        del self.answers[correlation]
        if "error" in item:
            raise RuntimeError(f"{item['error']['code']}: {item['error']['message']}")

    def leave(self):
        """A goodbye is no broken connection: the hub says no will, so we say it ourselves."""
        if self.stays and self.client.is_connected() and not self.refused.is_set():
            self.publish_state({"online": False}).wait_for_publish(5)
        goodbye = Properties(PacketTypes.DISCONNECT)
        # Nobody comes back to the session of one that only asked.
        goodbye.SessionExpiryInterval = SESSION_EXPIRY_S if self.stays else 0
        self.client.disconnect(properties=goodbye)
        self.client.loop_stop()


def act(intent):
    """Here a device does something: switches a lamp, closes a blind."""
    for action in intent["actions"]:
        print(f"intent: {action['intent']} {json.dumps(action['slots'], ensure_ascii=False)}", flush=True)


def main():
    parser = argparse.ArgumentParser(description="A device of Clawdbot: pairs, asks, and hears what is to be done.")
    parser.add_argument("--hub", required=True, help="the hub's name or address, as its certificate has it")
    parser.add_argument("--port", type=int, default=8883, help="MQTT over TLS [default: 8883]")
    parser.add_argument("--ca", required=True, help="the hub's authority: its ca.pem")
    parser.add_argument("--name", required=True, help="the device's name, as in `clawdbot device pair NAME`")
    parser.add_argument("--secret", help="the file of its secret [default: NAME.secret beside this program]")
    parser.add_argument("--code", help="the code that `clawdbot device pair NAME` shows: pair first")
    parser.add_argument("question", nargs="?", help="asked, and answered here; without one the device stays")
    options = parser.parse_args()
    path = options.secret or os.path.join(os.path.dirname(os.path.abspath(__file__)), f"{options.name}.secret")

    if options.code:
        keep(path, pair(options))
        print(f"paired; the secret is in {path}", flush=True)
        if not options.question:
            return
    try:
        with open(path) as file:
            secret = file.read().strip()
    except FileNotFoundError:
        sys.exit(f"there is no secret in {path}: pair first, with --code")

    device = Device(options, secret, stays=not options.question)
    # As a service is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        if options.question:
            for part in device.ask(options.question):
                print(part, end="", flush=True)
            print()
        else:
            while not device.refused.is_set():
                try:
                    act(device.intents.get(timeout=1))
                except queue.Empty:
                    pass
            sys.exit(1)
    except RuntimeError as error:
        sys.exit(f"\nno answer: {error}")
    except KeyboardInterrupt:
        pass
    finally:
        device.leave()


if __name__ == "__main__":
    main()
