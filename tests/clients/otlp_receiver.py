"""Takes OTLP by HTTP as a collector does, with OpenTelemetry's own protobuf messages, and prints what came: the port first, then a
line of JSON for each span and each log record, and one with the names of all metrics."""

import gzip
import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers["Content-Encoding"] == "gzip":
            body = gzip.decompress(body)
        if self.headers["Content-Type"] != "application/x-protobuf":
            return self.answer(415, b"")
        if self.path == "/v1/metrics":
            request = metrics_service_pb2.ExportMetricsServiceRequest.FromString(body)
            for resource in request.resource_metrics:
                for scope in resource.scope_metrics:
                    names = sorted(metric.name for metric in scope.metrics)
                    print(json.dumps({"name": "metrics", "names": names}), flush=True)
            return self.answer(200, metrics_service_pb2.ExportMetricsServiceResponse().SerializeToString())
        if self.path == "/v1/logs":
            request = logs_service_pb2.ExportLogsServiceRequest.FromString(body)
            for resource in request.resource_logs:
                for scope in resource.scope_logs:
                    for record in scope.log_records:
                        line = MessageToDict(record, preserving_proto_field_name=True)
                        line["trace_id"], line["span_id"] = record.trace_id.hex(), record.span_id.hex()
                        print(json.dumps({"name": "log", "record": line}), flush=True)
            return self.answer(200, logs_service_pb2.ExportLogsServiceResponse().SerializeToString())
        if self.path != "/v1/traces":
            return self.answer(404, b"")
        request = trace_service_pb2.ExportTraceServiceRequest.FromString(body)
        for resource in request.resource_spans:
            told = MessageToDict(resource.resource)
            for scope in resource.scope_spans:
                for span in scope.spans:
                    line = MessageToDict(span, preserving_proto_field_name=True)
                    line["trace_id"] = span.trace_id.hex()
                    line["span_id"] = span.span_id.hex()
                    line["parent_span_id"] = span.parent_span_id.hex()
                    line["resource"] = told
                    print(json.dumps(line), flush=True)
        return self.answer(200, trace_service_pb2.ExportTraceServiceResponse().SerializeToString())

    def answer(self, status, answer):
        self.send_response(status)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


server = HTTPServer(("127.0.0.1", 0), Receiver)
print(server.server_address[1], flush=True)
sys.stdout.flush()
server.serve_forever()
