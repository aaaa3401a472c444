"""Takes the place of the helper of Mosquitto's broker tests, `mosq_test.py`, and makes them try our daemon.

The scripts are Mosquitto's own (`test/broker` of its source) and run unchanged, each against a broker that
it starts itself. Their helper, renamed to `mosquittos_mosq_test.py`, does the rest; what stands here starts
the daemon named in CLAWDBOT_BINARY instead of Mosquitto, and compares without what the specification leaves
to each broker. A script about an option of Mosquitto's that we do not have ends with 77, and with that
option as its last line.
"""

import os
import socket
import struct
import subprocess
import tempfile
import time

import mosquittos_mosq_test
from mosquittos_mosq_test import *

NOT_OURS = 77

# Options of Mosquitto that are settings of ours.
SETTINGS = {
    "max_connections": "MQTT__MAX_CONNECTIONS",
    "max_keepalive": "MQTT__MAX_KEEP_ALIVE_S",
    "max_inflight_messages": "MQTT__RECEIVE_MAXIMUM",
    "max_queued_bytes": "MQTT__MAX_QUEUED_BYTES",
    "max_queued_messages": "MQTT__MAX_QUEUED_MESSAGES",
}

# Options that say what we do anyway, or change nothing that a client sees.
NEEDLESS = {
    ("allow_anonymous", "true"),
    ("log_type", "debug"),
    ("per_listener_settings", "false"),
}
NEEDLESS_OPTIONS = {"autosave_interval"}

# What tells a limit or a choice of the broker's own, with its length: Session Expiry Interval, Receive Maximum,
# Topic Alias Maximum, Maximum QoS, Retain Available, Maximum Packet Size, and whether wildcards, subscription
# identifiers and shared subscriptions exist.
CHOICES = {0x11: 4, 0x21: 2, 0x22: 2, 0x24: 1, 0x25: 1, 0x27: 4, 0x28: 1, 0x29: 1, 0x2A: 1}

# The lengths of the other properties with one; those not named here begin with it, and 0x26 is a pair.
LENGTHS = CHOICES | {0x01: 1, 0x02: 4, 0x13: 2, 0x17: 1, 0x18: 4, 0x19: 1, 0x23: 2}

# One home for all lives of the daemon in a script: those that start it again are about what it remembers.
HOME = tempfile.TemporaryDirectory(prefix="clawdbot-")


def not_ours(why):
    """Ends the script, whatever it would catch."""
    print(why, flush=True)
    HOME.cleanup()
    os._exit(NOT_OURS)


def begin_store(path):
    """Where the script has taken Mosquitto's file away, ours goes, too."""
    if not os.path.exists(path):
        with open(path, "wb"):
            pass
        ours = os.path.join(HOME.name, "data", "store.redb")
        if os.path.exists(ours):
            os.remove(ours)


def settings(path):
    """What a configuration of Mosquitto's means to us."""
    found, ports, words_of = {}, 0, []
    with open(path, encoding="utf-8") as lines:
        words_of = [line.split() for line in lines if line.strip() and not line.startswith("#")]
    for option, *values in words_of:
        value = " ".join(values)
        if (option, value) == ("persistence", "true"):
            found["STORE__MODE"] = "embedded"
        elif option == "persistence_file":
            begin_store(value)
        elif option in SETTINGS:
            found[SETTINGS[option]] = value
        elif option in ("listener", "port"):
            ports += 1
        elif (option, value) not in NEEDLESS and option not in NEEDLESS_OPTIONS:
            not_ours(f"{option} {value}")
    if ports > 1:
        not_ours("a second listener")
    if ["allow_anonymous", "true"] not in words_of:
        not_ours("allow_anonymous false, which is the default")
    return found


def start_broker(filename, cmd=None, port=0, use_conf=False, expect_fail=False, nolog=False):
    """As theirs, but what it starts is our daemon."""
    if cmd and "-c" in cmd:
        found = settings(cmd[cmd.index("-c") + 1])
    elif use_conf or port == 0:
        found = settings(filename.replace(".py", ".conf"))
    else:
        found = {}
    port = port or 1888
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CLAWDBOT__")}
    environment |= {f"CLAWDBOT__{name}": value for name, value in found.items()}
    environment |= {
        "HOME": HOME.name,
        "CLAWDBOT__DATA_DIR": os.path.join(HOME.name, "data"),
        "CLAWDBOT__MQTT__TCP": f"127.0.0.1:{port}",
        "CLAWDBOT__MQTT__WEBSOCKET": "127.0.0.1:0",
        "CLAWDBOT__METRICS__LISTEN": "127.0.0.1:0",
        "CLAWDBOT__AUTH__MODE": "none",
        "CLAWDBOT__LOG__LEVEL": "warn",
        "CLAWDBOT__MODEL__PATH": "",
        # Mosquitto keeps nothing unless it is told to.
        "CLAWDBOT__STORE__MODE": found.get("STORE__MODE", "none"),
    }
    log_path = os.path.join(HOME.name, "log")

    def said():
        with open(log_path, "rb") as log:
            return log.read()

    with open(log_path, "ab") as log:
        broker = subprocess.Popen(
            [os.environ["CLAWDBOT_BINARY"], "serve"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    # The scripts print what the broker said, and ours said it to a file.
    broker.communicate = lambda *_, **__: (b"", said())
    while broker.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            time.sleep(0.02)
            continue
        # As theirs: the broker should have forgotten the connection that was only to look.
        time.sleep(0.1)
        return broker
    if expect_fail:
        return broker
    raise OSError(f"the daemon did not start: {said()}")


def whole(sock, count):
    """So many bytes, or as many as come before the end."""
    received = b""
    while len(received) < count:
        part = sock.recv(count - len(received))
        if not part:
            break
        received += part
    return received


def read_packet(sock):
    packet = whole(sock, 2)
    while packet and packet[-1] & 0x80:
        packet += whole(sock, 1)
    length = sum((byte & 0x7F) << 7 * place for place, byte in enumerate(packet[1:]))
    return packet + whole(sock, length)


def variable(packet, at):
    """A variable byte integer, and where it ends."""
    value, shift = 0, 0
    while True:
        byte, at = packet[at], at + 1
        value, shift = value | (byte & 0x7F) << shift, shift + 7
        if not byte & 0x80:
            return value, at


def properties(packet, at):
    """The properties in the order of their identifiers, those with the same one in their own, and what follows.
    The order of different ones has no meaning [MQTT 5 2.2.2.2]."""
    length, at = variable(packet, at)
    end, found = at + length, []
    while at < end:
        identifier, start = packet[at], at
        at += 1
        if identifier == 0x0B:
            _, at = variable(packet, at)
        elif identifier in LENGTHS:
            at += LENGTHS[identifier]
        else:
            for _ in range(2 if identifier == 0x26 else 1):
                at += 2 + struct.unpack("!H", packet[at : at + 2])[0]
        found.append(packet[start:at])
    if at != end:
        raise ValueError
    return sorted(found, key=lambda one: one[0]), packet[end:]


def meaning(packet):
    """What two packets of MQTT 5 must have in common."""
    _, at = variable(packet, 1)
    if packet[0] == 0x20:
        found, rest = properties(packet, at + 2)
        return packet[at : at + 2], [one for one in found if one[0] not in CHOICES], rest
    topic_end = at + 2 + struct.unpack("!H", packet[at : at + 2])[0]
    head_end = topic_end + (2 if packet[0] & 0x06 else 0)
    return packet[0], packet[at:head_end], properties(packet, head_end)


def packet_matches(name, recvd, expected):
    """As theirs, but for what has no meaning or is the broker's own choice."""
    if recvd != expected and recvd and expected and recvd[0] == expected[0] and recvd[0] >> 4 in (2, 3):
        try:
            if meaning(recvd) == meaning(expected):
                return True
        except (IndexError, ValueError, struct.error):
            # Not of MQTT 5, and so these bytes are all there is to be compared.
            pass
    return mosquittos_mosq_test_packet_matches(name, recvd, expected)


def expect_packet(sock, name, expected):
    """As theirs, but bytes that come in pieces are waited for, and a CONNACK may have another length."""
    if expected and expected[0] == 0x20:
        received = read_packet(sock)
    elif expected:
        received = whole(sock, len(expected))
    else:
        received = sock.recv(1)
    if packet_matches(name, received, expected):
        return True
    raise TestError


mosquittos_mosq_test_packet_matches = mosquittos_mosq_test.packet_matches
mosquittos_mosq_test.start_broker = start_broker
mosquittos_mosq_test.packet_matches = packet_matches
mosquittos_mosq_test.expect_packet = expect_packet
