"""Scenarios of a client written with paho-mqtt: paho_client.py SCENARIO VERSION PORT TOKENS
[TRANSPORT].

Exits with 0 if the broker did everything right, and says on the standard error what it did wrong.
"""

import json
import queue
import socket
import sys
import time

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

# A guard against hanging for good, not a measure: the machine may be busy.
PATIENCE_S = 45

SCENARIO, VERSION, PORT, TOKENS = sys.argv[1:5]
# A token is the client identifier's that showed it first.
UNUSED, TOKEN_OF = TOKENS.split(","), {}
# "tcp" or "websockets"; then the path is /mqtt, which is paho's own default.
TRANSPORT = sys.argv[5] if len(sys.argv) > 5 else "tcp"
IS_V5 = VERSION == "5"


class Client:
    """A paho client whose every step is awaited."""

    def __init__(self, client_id, keepalive=30, will=None, will_properties=None, keeps=False):
        self.messages = queue.Queue()
        self.events = queue.Queue()
        protocol = mqtt.MQTTv5 if IS_V5 else mqtt.MQTTv311
        # Before MQTT 5 what to keep is said when a client is made, since then when it connects.
        clean = {} if IS_V5 else {"clean_session": not keeps}
        self.paho = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=client_id, protocol=protocol,
                                transport=TRANSPORT, **clean)
        if client_id not in TOKEN_OF:
            TOKEN_OF[client_id] = UNUSED.pop()
        self.paho.username_pw_set("phone", TOKEN_OF[client_id])
        if will:
            self.paho.will_set(*will, properties=will_properties)
        self.paho.on_connect = lambda _c, _u, flags, code, _p: self.connected(flags, code)
        self.paho.on_disconnect = lambda _c, _u, _f, code, _p: self.events.put(("disconnect", code))
        self.paho.on_subscribe = lambda _c, _u, _m, codes, _p: self.events.put(("subscribe", codes))
        self.paho.on_unsubscribe = lambda _c, _u, _m, codes, _p: self.events.put(("unsubscribe", codes))
        self.paho.on_message = lambda _c, _u, message: self.messages.put(message)
        how = {}
        if IS_V5 and keeps:
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = 600
            how = {"clean_start": False, "properties": properties}
        self.paho.connect("127.0.0.1", int(PORT), keepalive, **how)
        self.paho.loop_start()
        code = self.wait("connect")
        assert not code.is_failure, f"refused: {code}"

    def connected(self, flags, code):
        self.session_present = flags.session_present
        self.events.put(("connect", code))

    def wait(self, kind):
        event, value = self.events.get(timeout=PATIENCE_S)
        assert event == kind, f"{event} {value} instead of {kind}"
        return value

    def subscribe(self, topic, qos):
        self.paho.subscribe(topic, qos)
        (code,) = self.wait("subscribe")
        assert code.value == qos, f"{topic} at QoS {qos}: {code}"

    def publish(self, topic, payload, qos, retain=False, properties=None):
        info = self.paho.publish(topic, payload, qos, retain, properties)
        info.wait_for_publish(PATIENCE_S)
        assert info.is_published(), f"{topic} was not acknowledged"

    def message(self):
        return self.messages.get(timeout=PATIENCE_S)

    def expect(self, topic, payload, qos, retain=False):
        message = self.message()
        got = (message.topic, message.payload, message.qos, message.retain)
        assert got == (topic, payload, qos, retain), f"{got} instead of {(topic, payload, qos, retain)}"

    def leave(self):
        self.paho.disconnect()
        self.wait("disconnect")
        self.paho.loop_stop()

    def break_off(self):
        """Loses the connection, as a client does that falls off the network."""
        # Without its thread paho does not notice and does not connect again.
        self.paho.loop_stop()
        self.paho.socket().shutdown(socket.SHUT_RDWR)


def qos2():
    client = Client("two")
    client.subscribe("clawdbot/phone/two", 2)
    for number in range(50):
        client.publish("clawdbot/phone/two", str(number), 2)
    for number in range(50):
        client.expect("clawdbot/phone/two", str(number).encode(), 2)
    client.publish("clawdbot/phone/two", "last", 2)
    client.expect("clawdbot/phone/two", b"last", 2)
    assert client.messages.empty(), "a message came twice"
    client.leave()


def qos2_over_breaking_connections():
    receiver = Client("receiver")
    receiver.subscribe("clawdbot/phone/two", 2)
    sender = Client("sender", keeps=True)
    sender.paho.reconnect_delay_set(1, 1)
    sent = []
    for number in range(30):
        sent.append(sender.paho.publish("clawdbot/phone/two", str(number), 2))
        if number % 10 == 5:
            # Some of it is under way, at any point of its handshake. What is not through goes out again.
            sender.paho.socket().shutdown(socket.SHUT_RDWR)
            sender.wait("disconnect")
            sender.wait("connect")
            assert sender.session_present, "its session was forgotten"
    for info in sent:
        info.wait_for_publish(PATIENCE_S)
    sender.publish("clawdbot/phone/two", "last", 2)
    got = [receiver.message().payload for _ in range(31)]
    assert got == [str(number).encode() for number in range(30)] + [b"last"], got
    sender.leave()
    receiver.leave()


def session():
    first = Client("keeper", keeps=True)
    assert not first.session_present, "nothing was kept yet"
    first.subscribe("clawdbot/phone/kept/#", 2)
    first.break_off()
    other = Client("other")
    for number in range(20):
        # A topic for each QoS: order is kept among the same of both.
        other.publish(f"clawdbot/phone/kept/{number % 2}", str(number), 1 + number % 2)
    back = Client("keeper", keeps=True)
    assert back.session_present, "its session was forgotten"
    came = {}
    for _ in range(20):
        message = back.message()
        assert message.qos == 1 + int(message.payload) % 2, message.payload
        came.setdefault(message.topic, []).append(int(message.payload))
    assert came == {f"clawdbot/phone/kept/{k}": list(range(k, 20, 2)) for k in range(2)}, came
    back.leave()
    fresh = Client("keeper")
    assert not fresh.session_present, "a clean start begins anew"
    other.publish("clawdbot/phone/kept/0", "unheard", 1)
    fresh.subscribe("clawdbot/phone/barrier", 1)
    fresh.publish("clawdbot/phone/barrier", "barrier", 1)
    fresh.expect("clawdbot/phone/barrier", b"barrier", 1)
    fresh.leave()
    other.leave()


def properties():
    """MQTT 5 only: what may be said with a message, a subscription and a will."""
    receiver = Client("receiver")
    identifier = Properties(PacketTypes.SUBSCRIBE)
    identifier.SubscriptionIdentifier = 7
    options = SubscribeOptions(qos=2, noLocal=True, retainAsPublished=True)
    receiver.paho.subscribe("clawdbot/phone/said/#", options=options, properties=identifier)
    receiver.wait("subscribe")
    said = Properties(PacketTypes.PUBLISH)
    said.PayloadFormatIndicator = 1
    said.MessageExpiryInterval = 600
    said.ContentType = "text/plain"
    said.ResponseTopic = "clawdbot/phone/answers"
    said.CorrelationData = b"\x00\xff"
    said.UserProperty = [("b", "1"), ("a", "2"), ("b", "3")]

    def expect(client, retain, identifiers):
        message = client.message()
        assert (message.payload, message.retain) == (b"hello", retain), message.payload
        got = message.properties
        assert 0 < got.MessageExpiryInterval <= 600, got
        for name in ("PayloadFormatIndicator", "ContentType", "ResponseTopic", "CorrelationData", "UserProperty"):
            assert getattr(got, name) == getattr(said, name), got
        assert getattr(got, "SubscriptionIdentifier", []) == identifiers, got

    sender = Client("sender")
    sender.publish("clawdbot/phone/said/hello", "hello", 1, retain=True, properties=said)
    expect(receiver, True, [7])
    # Its own it does not hear.
    receiver.publish("clawdbot/phone/said/own", "own", 1)
    sender.publish("clawdbot/phone/said/other", "other", 1)
    receiver.expect("clawdbot/phone/said/other", b"other", 1)
    # The retained one, and by the subscription's choice not.
    late = Client("late")
    late.paho.subscribe("clawdbot/phone/said/+", options=SubscribeOptions(qos=1, retainHandling=2))
    late.wait("subscribe")
    late.paho.subscribe("clawdbot/phone/said/#", options=SubscribeOptions(qos=1))
    late.wait("subscribe")
    expect(late, True, [])
    late.publish("clawdbot/phone/said/barrier", "barrier", 1)
    late.expect("clawdbot/phone/said/barrier", b"barrier", 1)
    receiver.expect("clawdbot/phone/said/barrier", b"barrier", 1)
    # A will says as much.
    will_says = Properties(PacketTypes.WILLMESSAGE)
    will_says.UserProperty = [("why", "lost")]
    will_says.ContentType = "text/plain"
    lost = Client("lost", will=("clawdbot/phone/said/will", "gone", 2, False), will_properties=will_says)
    lost.break_off()
    message = receiver.message()
    assert (message.payload, message.qos) == (b"gone", 2), message.payload
    assert message.properties.UserProperty == [("why", "lost")], message.properties
    assert message.properties.ContentType == "text/plain", message.properties
    for client in (receiver, sender, late):
        client.leave()


def will():
    watcher = Client("watcher")
    watcher.subscribe("clawdbot/phone/lwt", 2)
    lost = Client("lost", will=("clawdbot/phone/lwt", "lost", 2, False))
    lost.break_off()
    watcher.expect("clawdbot/phone/lwt", b"lost", 2)
    Client("polite", will=("clawdbot/phone/lwt", "never", 2, False)).leave()
    watcher.publish("clawdbot/phone/lwt", "barrier", 2)
    watcher.expect("clawdbot/phone/lwt", b"barrier", 2)
    watcher.leave()


def takeover():
    first = Client("twin")
    # It would fight for its place otherwise.
    first.paho.reconnect_delay_set(3600, 3600)
    second = Client("twin")
    code = first.wait("disconnect")
    if IS_V5:
        assert code.value == 0x8E, f"{code} instead of session taken over"
    second.subscribe("clawdbot/phone/x", 1)
    second.publish("clawdbot/phone/x", "works", 1)
    second.expect("clawdbot/phone/x", b"works", 1)
    second.leave()
    # Its thread sleeps until it may connect again, and ends with the program.


def keepalive():
    watcher = Client("watcher", keepalive=0)
    watcher.subscribe("clawdbot/phone/lwt", 1)
    # Longer than one and a half times the keep-alive, so that only its pings keep it.
    pinging = Client("pinging", keepalive=1, will=("clawdbot/phone/lwt", "pinging", 1, False))
    silent = Client("silent", keepalive=1, will=("clawdbot/phone/lwt", "silent", 1, False))
    silent.paho.loop_stop()
    watcher.expect("clawdbot/phone/lwt", b"silent", 1)
    time.sleep(1)
    assert pinging.paho.is_connected(), "closed although it pings"
    pinging.leave()
    # A keep-alive of 0 never ends, and the one who pinged left no will.
    watcher.publish("clawdbot/phone/lwt", "barrier", 1)
    watcher.expect("clawdbot/phone/lwt", b"barrier", 1)
    watcher.leave()


def retained():
    client = Client("keeper")
    topic = f"clawdbot/phone/kept/{VERSION}"
    client.publish(topic, "old", 1, retain=True)
    client.publish(topic, "new", 2, retain=True)
    client.subscribe(topic, 1)
    client.expect(topic, b"new", 1, retain=True)
    # To those who are subscribed already it is a message like any other.
    client.publish(topic, "newer", 1, retain=True)
    client.expect(topic, b"newer", 1, retain=False)
    client.publish(topic, "", 1, retain=True)
    client.expect(topic, b"", 1, retain=False)
    late = Client("late")
    late.subscribe(topic, 1)
    late.publish(topic, "barrier", 1)
    late.expect(topic, b"barrier", 1)
    late.leave()
    client.leave()


def unsubscribe():
    client = Client("fickle")
    client.subscribe("clawdbot/phone/#", 1)
    client.publish("clawdbot/phone/a", "heard", 1)
    # Presence and whatever else the device has comes too.
    while client.message().payload != b"heard":
        pass
    client.paho.unsubscribe("clawdbot/phone/#")
    client.wait("unsubscribe")
    client.publish("clawdbot/phone/a", "unheard", 1)
    client.subscribe("clawdbot/phone/b", 1)
    client.publish("clawdbot/phone/b", "barrier", 1)
    client.expect("clawdbot/phone/b", b"barrier", 1)
    client.leave()


def ask():
    client = Client("mobile_123")
    client.subscribe("clawdbot/phone/reply/#", 1)
    request = json.dumps({"id": "paho", "prompt": "Once upon a time", "max_tokens": 20, "temperature": 0})
    properties = None
    if IS_V5:
        properties = Properties(PacketTypes.PUBLISH)
        properties.ResponseTopic = "clawdbot/phone/reply/paho"
        properties.CorrelationData = b"\x00\x01"
    client.publish("clawdbot/phone/command", request, 2, properties=properties)
    text, seq, done = "", 0, False
    while not done:
        message = client.message()
        item = json.loads(message.payload)
        assert (item["id"], item["seq"]) == ("paho", seq), item
        if IS_V5:
            assert message.topic == "clawdbot/phone/reply/paho", message.topic
            assert message.properties.CorrelationData == b"\x00\x01", message.properties
        seq, text, done = seq + 1, text + item["delta"], item.get("done", False)
    assert text.startswith(", there was a little girl"), text
    assert item["usage"]["completion_tokens"] == 20, item
    client.leave()


SCENARIOS = (
    qos2,
    qos2_over_breaking_connections,
    session,
    properties,
    will,
    takeover,
    keepalive,
    retained,
    unsubscribe,
    ask,
)
{scenario.__name__: scenario for scenario in SCENARIOS}[SCENARIO]()
