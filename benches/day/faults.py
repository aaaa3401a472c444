"""What was off. It does not know what is to be in order: whoever looks says so."""

import collections
import sys
import threading
import time


class Faults:
    """What was off, each kind counted and a few told in full."""

    def __init__(self):
        self.found, self.lock = collections.defaultdict(list), threading.Lock()

    def add(self, kind, text):
        with self.lock:
            self.found[kind].append(text)
            if len(self.found[kind]) <= 3:
                say(f"FAULT {kind}: {text}")


def say(text):
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)
