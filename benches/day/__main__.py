"""A day of a busy household, with a day's coming and going in twenty minutes: is memory flat, the disk bounded, and nothing
lost, doubled, out of order or said in the log that is an error?

    python benches/day CLAWDBOT MODEL [--minutes 20] [--devices 60] [--seed N] [--keep DIR] [--held]

The table (table.py) is the day. Times of the day (an hour, a period) are shortened by 24 hours to --minutes; what happens in a
second of this clock is the same however many minutes there are, so that fewer minutes have less of everything, not
everything faster. Every device has a secret of its own, got by pairing; tokens, flapping, expiry and the periodic checks are on.
Exit code 1, with the reasons, if anything is off. Needs paho-mqtt from PyPI.
"""

# Who knows whom: table, faults, agenda and collector nobody; hub and party no more than those. The household brings parties and
# questions together; samples are given the hub, and rude, owner and accounts the house. The day has all of them, and verdict and
# report are given the day when it is over.

import argparse
import atexit
import os
import shutil
import signal
import sys
import tempfile

from day import Day
from report import keep, report
from verdict import judge


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clawdbot")
    parser.add_argument("--held", action="store_true", help="CLAWDBOT is benches/counted_daemon.rs: judge what it holds")
    parser.add_argument("model")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--devices", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", help="a folder for samples, metrics and the log")
    arguments = parser.parse_args()
    if arguments.minutes < 2:
        # An hour's acts would come within two seconds, and wait for threads.
        parser.error("--minutes must be 2 at least")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = tempfile.mkdtemp(prefix="clawdbot-day-")
    atexit.register(shutil.rmtree, folder, True)
    if arguments.held:
        arguments.held = os.path.join(folder, "held")
        os.mkdir(arguments.held)
    day = Day(arguments, folder)
    try:
        day.live()
    except Exception as error:
        day.faults.add("load", f"the day ended early: {error!r}")
        raise
    finally:
        if day.faults.found or arguments.keep:
            keep(day, arguments.keep or tempfile.mkdtemp(prefix="clawdbot-day-kept-"))
    judge(day)
    report(day)
    for kind, found in day.faults.found.items():
        print(f"OFF: {kind}, {len(found)} times, as {found[0][:400]}")
    print("the day was " + ("not in order" if day.faults.found else "in order"))
    sys.stdout.flush()
    # Threads of clients may still wait for their sockets, and would keep this from ending.
    day.hub.process.kill()
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1 if day.faults.found else 0)


if __name__ == "__main__":
    main()
