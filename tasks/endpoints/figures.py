"""What Prometheus is told of the gateway. Labels hold names that the routes know, never what a client wrote.

They are counted in the worker's memory; ``gathered.py`` says how they outlive it.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

REGISTRY = CollectorRegistry()
FIRST_BYTE_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
SWITCH_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)

requests = Counter(
    "empelt_gateway_requests",
    "Requests for a model, by the status that the client was answered with; 499: it hung up first",
    ["channel", "artifact", "code"],
    registry=REGISTRY,
)
lost = Counter(
    "empelt_gateway_lost",
    "Requests that got no whole answer: 'stream' broke off after its first byte, 'unanswered' ended in 502 to 504",
    ["channel", "artifact", "kind"],
    registry=REGISTRY,
)
retried = Counter(
    "empelt_gateway_retried",
    "Answers that were thrown away before the client had a byte; the request was asked again",
    ["channel", "artifact", "kind"],
    registry=REGISTRY,
)
held = Counter(
    "empelt_gateway_held", "Requests that waited for an instance or for other routes", ["channel"], registry=REGISTRY
)
holding = Gauge("empelt_gateway_holding", "Requests that wait now", registry=REGISTRY)
in_flight = Gauge("empelt_gateway_in_flight", "Requests that are under way now", registry=REGISTRY)
streams = Gauge(
    "empelt_gateway_streams", "Streams that are open now: begun, not ended", ["channel", "artifact"], registry=REGISTRY
)
refused = Counter(
    "empelt_gateway_refused",
    "Requests that were turned away at the door, before any model was looked for: no key, too large, too many",
    ["code"],
    registry=REGISTRY,
)
switch_seconds = Histogram(
    "empelt_gateway_switch_seconds",
    "From the moment when routes were written to the moment when this process routes by them",
    buckets=SWITCH_BUCKETS,
    registry=REGISTRY,
)
first_byte_seconds = Histogram(
    "empelt_gateway_first_byte_seconds",
    "From a request's last byte to its answer's first",
    ["channel"],
    buckets=FIRST_BYTE_BUCKETS,
    registry=REGISTRY,
)
