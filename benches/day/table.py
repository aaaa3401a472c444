"""The day: what happens in it and how often, by whose settings and rules, what is said, and what is expected of all that.

Numbers, words and patterns only. It does not know who does any of it, nor how it is looked at.
"""

# The day of 60 devices. A number of hours is of the simulated day: 50 s of this clock when it takes twenty minutes.
COMPRESSION = 72  # 24 hours to 20 minutes: what these periods are divided by
STATE_EVERY_S = 30 / COMPRESSION  # each sensor, retained, half of the sensors at QoS 1
EVENT_EVERY_S = 360 / COMPRESSION  # a quarter of the sensors (motion, doors), QoS 1, to phones (away, too) and recorders
SWITCH_EVERY_S = 600 / COMPRESSION  # each phone that is there switches a lamp, QoS 2
INBOX_EVERY_S = 1200 / COMPRESSION  # and writes to another phone, there or away, QoS 2
COMMANDS_A_DAY = 1500  # sentences for the assistant
QUESTIONS_A_DAY = 400  # for the model: of a hundred 10 urgent, 20 in the background, 10 cancelled, 10 with a deadline
PHONE_THERE_HOURS = (0.3, 2.0)  # then it is away:
PHONE_AWAY_HOURS = (0.2, 4.0)
PHONE_NIGHT_HOURS = (5.0, 6.5)  # from the first hour on
PHONE_LEAVES = ("says goodbye", "says goodbye", "is cut", "out of range")  # out of range: the socket stays, nothing comes
SENSOR_CUTS_A_DAY = 2  # for six minutes
ROOM_CHANGE_HOURS = 1 / 3  # the tablet subscribes to another room
PICTURE_HOURS = 1.0  # the camera, retained, QoS 1:
PICTURE_BYTES = 256 * 1024
GUEST_HOURS = 1.0  # a new device: paired, leaves 20 retained messages, which are cleared, and is revoked
GUEST_RETAINED = 20
VISITOR_HOURS = 1.0  # a session that expires with messages in it
RUDE_HOURS = 1 / 3  # each way of being rude once
FLAPPING_HOURS = (3, 11, 19)  # a client comes and goes until it is banned
OWNER_HOURS = 1.0  # `status`, `topics`, `device list`
DOCTOR_AT = (4, 10, 16, 22)  # `doctor --json` and `store verify --json`
EXPORT_AT = 21  # `store export`, to elsewhere
RENEW_AT = 12  # `certs renew`, which a running daemon takes up: there is no other change of settings while it runs
ROTATE_AT = 15  # `keys rotate`
KILL_MODEL_AT = (7, 17)  # SIGKILL to the process of the model, in the middle of three long answers
KILL_ASSISTANT_AT = 13  # and to the assistant's
COLLECTOR = ("takes", "takes", "takes", "hangs", "is away", "refuses")  # telemetry's, an hour each
SCRAPE_S, SAMPLE_S = 2, 5  # of this clock
KEEP_ALIVE_S = 5  # of this clock; 30 s of the day would be less than MQTT can say

# What an owner's daemon does at intervals, divided by 72 where the settings allow it. Not to be shortened: a pairing code
# (10 minutes), the sweep of conversations and what is noted of devices (an hour), the metrics to a collector (15 s).
SETTINGS = {
    "mqtt.connect_timeout_s": 5,  # 10 would be 0.1
    "mqtt.max_session_expiry_s": 8400,
    "mqtt.sys_interval_s": 1,  # 0.1
    "mqtt.tls_check_interval_s": 1,
    "flapping.window_s": 1,
    "flapping.ban_s": 4,
    "auth.token_lifetime_s": 12,
    "conversation.idle_s": 4,
    "conversation.undeliverable_grace_s": 1,
    "scheduler.background_after_s": 2,
    "scheduler.oldest_first_after_s": 1,
    "supervisor.reset_backoff_after_s": 1,
    "supervisor.period_s": 1,
    "supervisor.step_up_after_s": 4,
    "supervisor.heartbeat_interval_s": 1,
    "memory.dwell_s": 1,
    "memory.interval_s": 1,
    "store.check_interval_s": 300,  # four times a day; once would be when it is over
    "metrics.disk_probe_interval_s": 1,
    # Full within two hours, so that it is seen whether it stays within its bound.
    "model.cache_mib": 4,
}
ACCESS = """
[[access]]
permission = "deny"
action = "publish"
topics = ["house/door/lock"]
[[access]]
devices = ["sensor-*", "camera", "guest-*", "visitor", "rude"]
permission = "allow"
action = "publish"
topics = ["house/+/${device_id}/#"]
[[access]]
devices = ["phone-*", "tablet"]
permission = "allow"
action = "publish"
topics = ["house/+/+/set", "house/presence/${device_id}", "clawdbot/+/inbox"]
[[access]]
devices = ["phone-*", "tablet", "lamp-*", "recorder-*", "guest-*", "visitor"]
permission = "allow"
action = "subscribe"
topics = ["house/#"]
[[access]]
devices = ["wall"]
permission = "allow"
topics = ["house/#", "clawdbot/#", "$SYS/#"]
"""

# What the log may say at WARN and ERROR on such a day; any other such line is a fault.
EXPECTED = [
    ("WARN", r"^inference process lost$", "killed by us"),
    ("WARN", r"^the inference worker is started again after a wait$", "killed by us"),
    ("WARN", r"^client banned", "the flapping one"),
    ("WARN", r"^a device tried to be paired with a wrong code", "the rude one"),
    ("(WARN|ERROR)", r"^opentelemetry", "the collector hangs, is away or refuses"),
    ("WARN", r"^the last (traces|metrics) were not sent", "the same, at the end"),
]

# How flat is flat: of what a process has, from ten o'clock on. Until then the allocator gathers pages that it keeps when they are
# freed, up to the same height for three days' load in the same time. And how much the disk may take more at the end than at noon.
WARM_HOURS = 10
YOUNG_HOURS = 6  # a process that took another's place fills its caches first, as the one before it did
MAX_SLOPE, MAX_QUARTERS = 0.05, 0.03
# Less is where the allocator cuts its pages; what is counted is known to the byte, but for what is under way.
MIN_GROWTH_BYTES = {"rss": 1 << 20, "held": 64 << 10}
# Threads for what may block stay ten seconds; with looks at files every second, two that took turns never leave.
MORE_THREADS = 2
MAX_DISK_SHARE, MAX_DISK_BYTES = 0.05, 1 << 20
MAX_SERIES = 2000
# The labels of config/METRICS.md and what they may be: nothing that grows with devices or words.
LABELS = {
    "owner": None, "le": None, "gen_ai_operation_name": {"chat"}, "gen_ai_token_type": {"input", "output"},
    "gen_ai_response_model": {"", "stories260K", "clawdbot-assistant"}, "precision": {"", "f32", "f16", "int8", "int4"},
    "priority": {"urgent", "interactive", "background"}, "prompt": {"short", "long"}, "state": None, "actor": {"Bridge", "Conversation"},
    "finish_reason": {"stop", "length", "tool_calls", "cancelled"}, "error_type": None, "service_name": {"clawdbot"},
    "service_version": None, "telemetry_sdk_language": None, "telemetry_sdk_name": None, "telemetry_sdk_version": None,
}
JUDGED_FROM_MINUTES = 10  # a shorter look says nothing about slopes

ROOMS = ["kitchen", "bedroom", "hall", "office", "garden", "garage", "bathroom", "workshop"]
PROMPTS = ["Once upon a time", "There was a little cat", "Tom and his dog", "One day, Lily went", "The old robot",
           "In a small house by the sea", "Why is the sky blue", "Tell me about the garden"]
SENTENCES = ["turn off the lights in the kitchen", "turn on the lights in the bedroom", "set the bedroom to 21 degrees",
             "close the blinds in the office", "open the garage door", "turn on the light in the hall",
             "set the kitchen light to 30 percent", "turn off the bathroom light", "turn on the fan in the office",
             "set a timer for ten minutes", "turn off the lights in the kitchen and set the bedroom to 21 degrees",
             "把客厅的灯调到百分之三十", "打开厨房的灯", "关闭卧室的灯"]
