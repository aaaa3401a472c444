"""What is told when the day is over, and what is kept of it. It does not judge: what was off is among the faults by then."""

import csv
import json
import os
import shutil


def report(day):
    delays, questions = day.house.delays, day.house.questions
    sent = ", ".join(f"{what} {count}" for what, count in sorted(day.accounts.summary.items()))
    print(f"\nmessages: {sent}")
    if delays:
        print(f"publisher to wall, QoS 1 and 2: {centile(delays, 50)} ms in the median, {centile(delays, 99)} P99, "
              f"{max(delays) * 1000:.0f} at most (the load's own Python in it)")
    print(f"dropped, as counted: {day.accounts.dropped}")
    print("answers: " + ", ".join(f"{kind} {end} {count}" for (kind, end), count in sorted(questions.ends.items())))
    print("to the last item: " + ", ".join(f"{kind} {centile(times, 50)} ms, P99 {centile(times, 99)}"
                                           for kind, times in sorted(questions.times.items())))
    print(f"attempts: {dict(questions.attempts)}; requests, as counted: {day.accounts.requests}")
    print("also: " + ", ".join(f"{what} {count}" for what, count in sorted(day.house.counts.items())))
    print(f"collector: {dict(day.collector.taken)}")
    print(f"kept at the end: {day.kept}")
    print(f"at rest before the first client and after the last: {day.rest}")
    print(f"scrapes {day.samples.scrapes}; the load was late by {day.agenda.latest_s:.2f} s at most, {day.agenda.late} times by "
          f"more than 1 s; log {os.path.getsize(day.hub.log_path) / 2**20:.2f} MiB")
    first, last = day.samples.rows[0], day.samples.rows[-1]
    used = last["daemon_processor_s"] - first["daemon_processor_s"]
    print(f"the daemon used {used:.1f} s of processor time in {(last['hour'] - first['hour']) * day.agenda.hour_s:.0f} s")
    for (level, message), count in sorted(day.hub.lines.items()):
        if level in ("WARN", "ERROR"):
            print(f"log, {count} times: {level} {message[:150]}")


def keep(day, to):
    os.makedirs(to, exist_ok=True)
    names = sorted({name for row in day.samples.rows for name in row}, key=lambda name: (name != "hour", name))
    with open(os.path.join(to, "samples.csv"), "w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(day.samples.rows)
    with open(os.path.join(to, "ledger.json"), "w") as file:
        json.dump(day.owner.ledger, file)
    with open(os.path.join(to, "metrics.json"), "w") as file:
        json.dump(day.samples.last_metrics, file, indent=1)
    with open(os.path.join(to, "faults.json"), "w") as file:
        json.dump(day.faults.found, file, indent=1, ensure_ascii=False)
    if os.path.exists(day.hub.log_path):
        shutil.copy(day.hub.log_path, to)
    print(f"samples, metrics, faults and the log: {to}")


def centile(times, of_100):
    return f"{sorted(times)[min(len(times) - 1, len(times) * of_100 // 100)] * 1000:.1f}"
