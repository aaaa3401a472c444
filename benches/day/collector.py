"""Where telemetry goes, with the faults that a collector may have. It does not look into what it gets, it counts it."""

import collections
import contextlib
import http.server
import threading
import time


class Collector:
    """Where telemetry goes. It takes what comes, or hangs, or is away, or refuses."""

    def __init__(self, port):
        self.mode, self.taken, self.server = "is away", collections.Counter(), None
        self.port = port

    def become(self, mode):
        if self.server and mode == "is away":
            self.server.shutdown()
            self.server.server_close()
            self.server = None
        self.mode = mode
        if self.server is None and mode != "is away":
            collector = self

            class Handler(http.server.BaseHTTPRequestHandler):
                def do_POST(self):
                    self.rfile.read(int(self.headers["Content-Length"]))
                    collector.taken[f"{self.path}, {collector.mode}"] += 1
                    if collector.mode == "hangs":
                        time.sleep(8)  # longer than the daemon waits
                    with contextlib.suppress(OSError):
                        self.send_response(503 if collector.mode == "refuses" else 200)
                        self.send_header("Content-Length", "0")
                        self.end_headers()

                def log_message(self, *_):
                    pass

            class Server(http.server.ThreadingHTTPServer):
                allow_reuse_address, daemon_threads, block_on_close = True, True, False

            self.server = Server(("127.0.0.1", self.port), Handler)
            threading.Thread(target=self.server.serve_forever, daemon=True).start()
