"""How flat is flat: the table of the day's samples, and what in it is too much.

It judges what is resident and what is on the disk, not what was said: messages and answers are the accounts'.
"""

import collections
import itertools
import re
import statistics

from table import (JUDGED_FROM_MINUTES, LABELS, MAX_DISK_BYTES, MAX_DISK_SHARE, MAX_QUARTERS, MAX_SERIES, MAX_SLOPE,
                   MIN_GROWTH_BYTES, WARM_HOURS, YOUNG_HOURS)


def judge(day):
    rows = [row for row in day.samples.rows if row["hour"] >= WARM_HOURS]
    judged = day.arguments.minutes >= JUDGED_FROM_MINUTES
    print("\n| | at 4 | at 12 | at 24 | most | 20 hours of slope | last quarter to third |\n|---|---|---|---|---|---|---|")
    judge_memory(day, rows, judged)
    judge_disk(day, rows, judged)
    judge_series(day)


def judge_memory(day, rows, judged):
    born = collections.defaultdict(list)
    for at, which in day.hub.lives:
        born[which].append((at - day.agenda.start) / day.agenda.hour_s)
    of_interest = "held" if day.arguments.held else "rss"
    for name in ("daemon", "worker", "assistant"):
        for what in ("held", "rss", "anonymous", "pss"):
            column = f"{name}_{what}"
            grown = [row for row in rows if column in row and not any(
                0 <= row["hour"] - birth < YOUNG_HOURS for birth in born[name] if birth > 0)]
            points = [(row["hour"], row[column]) for row in grown]
            if len(points) < 8:
                if judged and what == of_interest:
                    day.faults.add("memory", f"{name}, {what}: it was measured {len(points)} times, which is too few")
                continue
            median = statistics.median(value for _, value in points)
            share = 20 * theil_sen(points) / median
            third = quarter(points, 12, 18)
            quarters = quarter(points, 18, 24) / third - 1 if points[-1][0] > 20 else 0
            print(f"| {name}, {what} | {mib(nearest(day.samples.rows, column, 4))} | {mib(nearest(rows, column, 12))} | "
                  f"{mib(nearest(rows, column, 24))} | {mib(max(row.get(column, 0) for row in day.samples.rows))} | {share:+.1%} | "
                  f"{quarters:+.1%} |")
            # What is resident is judged, or what is held where that is counted, by another allocator: the proportional share
            # moves with every command line that maps the same program, and what is anonymous tells where growth comes from.
            if judged and what == of_interest:
                if share >= MAX_SLOPE and share * median >= MIN_GROWTH_BYTES[what]:
                    day.faults.add("memory", f"{name}, {what}: grows by {share:.1%} in 20 hours")
                if quarters > MAX_QUARTERS and quarters * third >= MIN_GROWTH_BYTES[what]:
                    day.faults.add("memory", f"{name}, {what}: the last quarter is {quarters:.1%} above the third")


def judge_disk(day, rows, judged):
    for column, unit in (("disk", mib), ("disk_blocks", mib), ("store", mib), ("daemon_fds", str), ("daemon_threads", str),
                         ("series", str), ("mqtt_sessions", str), ("mqtt_retained", str)):
        values = [nearest(day.samples.rows, column, hour) for hour in (4, 12, 24)]
        print(f"| {column} | {' | '.join(unit(value) for value in values)} | "
              f"{unit(max(row.get(column) or 0 for row in day.samples.rows))} | | |")
    for column in ("disk", "disk_blocks"):
        noon, night = nearest(rows, column, 12), nearest(rows, column, 24)
        if judged and night - noon > max(MAX_DISK_SHARE * noon, MAX_DISK_BYTES):
            day.faults.add("disk", f"{column}: {mib(noon)} at noon, {mib(night)} at the end")


def judge_series(day):
    for name in day.samples.last_metrics:
        for label, value in re.findall(r'(\w+)="([^"]*)"', name):
            if label not in LABELS or LABELS[label] is not None and value not in LABELS[label]:
                day.faults.add("series", f"a label that config/METRICS.md does not name: {label}={value}")
    if len(day.samples.last_metrics) > MAX_SERIES:
        day.faults.add("series", f"{len(day.samples.last_metrics)} at the end")


def theil_sen(points):
    """The median of all slopes: a few odd samples do not move it."""
    slopes = [(b - a) / (at_b - at_a) for (at_a, a), (at_b, b) in itertools.combinations(points, 2) if at_b > at_a]
    return statistics.median(slopes)


def quarter(points, begin, end):
    return statistics.median([value for hour, value in points if begin <= hour <= end] or [value for _, value in points])


def nearest(rows, column, hour):
    rows = [row for row in rows if row.get(column) is not None]
    return min(rows, key=lambda row: abs(row["hour"] - hour))[column] if rows else 0


def mib(count):
    return f"{count / 2**20:.2f} MiB"
