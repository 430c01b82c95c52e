"""What Prometheus is told of the gateway. Labels hold names that the routes know, never what a client wrote.

With PROMETHEUS_MULTIPROC_DIR set (``supervisor.py`` does it) the figures lie in files that outlive a process, so a
graceful restart takes none of them back.
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
holding = Gauge("empelt_gateway_holding", "Requests that wait now", registry=REGISTRY, multiprocess_mode="livesum")
in_flight = Gauge(
    "empelt_gateway_in_flight", "Requests that are under way now", registry=REGISTRY, multiprocess_mode="livesum"
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
