"""When things happen: the clock of the day with what is to be done by it, and the wait for what somebody else does.

It does not know what it runs. Times are those of this clock; only `hour` is of the day.
"""

import heapq
import itertools
import time
from concurrent.futures import ThreadPoolExecutor


class Agenda:
    """What happens when. What may wait runs on threads of its own; what does not get its turn in time is told."""

    def __init__(self, faults, hour_s):
        self.heap, self.order, self.faults = [], itertools.count(), faults
        self.hour_s, self.start = hour_s, None
        self.pool, self.latest_s, self.late, self.over = ThreadPoolExecutor(32), 0.0, 0, False

    def hour(self):
        return (time.monotonic() - self.start) / self.hour_s

    def at(self, when, what, waits=False):
        heapq.heappush(self.heap, (when, next(self.order), what, waits))

    def every(self, period_s, first, what, waits=False, until=float("inf")):
        def turn(when=first):
            what()
            if when + period_s < until:
                self.at(when + period_s, lambda: turn(when + period_s), False)

        if waits:
            def begin(when=first):
                self.pool.submit(self.safely, what)
                if when + period_s < until:
                    self.at(when + period_s, lambda: begin(when + period_s), False)
            self.at(first, begin)
        else:
            self.at(first, turn)

    def safely(self, what):
        try:
            what()
        except Exception as error:
            self.faults.add("load", f"{getattr(what, '__qualname__', what)}: {error!r}")

    def run(self, until):
        while time.monotonic() < until and not self.over:
            if not self.heap or self.heap[0][0] > time.monotonic():
                left = min(until, self.heap[0][0] if self.heap else until) - time.monotonic()
                time.sleep(max(0, min(left, 0.2)))
                continue
            when, _, what, waits = heapq.heappop(self.heap)
            late = time.monotonic() - when
            self.latest_s = max(self.latest_s, late)
            self.late += late > 1
            if waits:
                self.pool.submit(self.safely, what)
            else:
                self.safely(what)


def wait_for(what, done, patience_s=60):
    until = time.monotonic() + patience_s
    while time.monotonic() < until:
        if done():
            return
        time.sleep(0.05)
    raise TimeoutError(f"waited {patience_s} s for {what}")
