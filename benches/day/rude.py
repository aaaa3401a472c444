"""Rude clients: each way of theirs, and what must become of it.

Bytes on sockets, without a client library, which would be too polite. They do not know each other, and of the house only its hub,
the secrets of those who are rude, the counts and the faults.
"""

import contextlib
import os
import struct
import time


def rude_garbage(house):
    for door in ("tcp", "tls", "websocket", "secure_websocket"):
        with house.hub.dial(door) as client:
            client.sendall(os.urandom(200))
            must_close(house, client, f"garbage at {door}")


def rude_wrong_token(house):
    with house.hub.dial() as client:
        client.sendall(connect_packet("rude-client", "phone-0", "A" * 43))
        if client.recv(4)[3:] not in (b"\4", b"\5"):
            house.faults.add("rude", "a wrong secret was taken")
        must_close(house, client, "wrong secret")


def rude_silence(house):
    for door in ("tcp", "tls", "secure_websocket"):
        with house.hub.dial(door) as client:
            must_close(house, client, f"no CONNECT at {door}")


def rude_half_connect(house):
    with house.hub.dial() as client:
        client.sendall(connect_packet("rude-client", "rude", house.rude_secret)[:20])
        must_close(house, client, "half a CONNECT")


def rude_malformed(house):
    for packet in (b"\xf0\0", b"\x30\xff\xff\xff\xff\x01", b"\x82\x02\0\1", b"\x36\x05\0\1abc"):
        with house.hub.dial() as client:
            client.sendall(connect_packet(f"rude-{os.urandom(2).hex()}", "rude", house.rude_secret))
            if client.recv(4)[3:] != b"\0":
                house.faults.add("rude", "its secret was not taken")
            client.sendall(packet)
            must_close(house, client, "malformed packet")


def rude_too_large(house):
    with house.hub.dial() as client:
        client.sendall(connect_packet("rude-large", "rude", house.rude_secret))
        client.recv(4)
        with contextlib.suppress(OSError):
            client.sendall(b"\x30\x80\x80\x80\x01" + text("house/hall/rude/x") + bytes(2 << 20))
        must_close(house, client, "packet too large")


def rude_publish(house):
    with house.hub.dial() as client:
        client.sendall(connect_packet("rude-topic", "rude", house.rude_secret))
        client.recv(4)
        client.sendall(b"\x30" + bytes([len(text("house/door/lock")) + 4]) + text("house/door/lock") + b"open" + b"\xe0\0")
        must_close(house, client, "topic that is denied")


def rude_half_open(house):
    """It subscribes to everything that it may, then reads nothing and says nothing until its keep-alive is over."""
    with house.hub.dial() as client:
        packet = bytearray(connect_packet("rude-half", "rude", house.rude_secret))
        at = packet.index(b"MQTT") + 6
        packet[at:at + 2] = struct.pack(">H", 2)
        client.sendall(packet)
        client.recv(4)
        client.sendall(b"\x82" + bytes([2 + len(text("clawdbot/rude/#")) + 1]) + b"\0\1" + text("clawdbot/rude/#") + b"\1")
        time.sleep(4.5)
        must_close(house, client, "half open", 5)


def rude_http(house):
    with house.hub.dial("metrics") as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n")
        must_close(house, client, "half a scrape")
    with house.hub.dial("websocket") as client:
        client.sendall(b"GET /etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n")
        must_close(house, client, "another page")


RUDE = [rude_garbage, rude_wrong_token, rude_silence, rude_half_connect, rude_malformed, rude_too_large, rude_publish,
        rude_half_open, rude_http]


def flap(house):
    """It comes and goes until it is banned."""
    for _ in range(20):
        with contextlib.suppress(OSError), house.hub.dial() as client:
            client.sendall(connect_packet("flapping-client", "flapping", house.flapping_secret))
            if client.recv(4)[3:] != b"\0":
                house.counts["refused while banned"] += 1
            client.sendall(b"\xe0\0")


def text(value):
    return struct.pack(">H", len(value.encode())) + value.encode()


def connect_packet(client_id, username, password):
    body = text("MQTT") + bytes([4, 0b1100_0010, 0, 60]) + text(client_id) + text(username) + text(password)
    return b"\x10" + bytes([len(body)]) + body if len(body) < 128 else \
        b"\x10" + bytes([len(body) % 128 | 128, len(body) // 128]) + body


def must_close(house, client, what, patience_s=12):
    """The hub ends it, and keeps nothing of it."""
    client.settimeout(patience_s)
    try:
        while client.recv(4096):
            pass
    except TimeoutError:
        house.faults.add("rude", f"{what}: still open after {patience_s} s")
    except OSError:
        pass
    house.counts[f"rude: {what}"] += 1
