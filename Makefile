# make setup   both Python environments and what vLLM needs from the system
# make demo    the whole story: releases on a local Hub become served models, or are refused (Ctrl-C ends it)
#              make demo FAMILY=qwen3 plays it with the other family
# make test    everything that runs without a GPU
# make year     a simulated year of the Hub with faults, compared with an oracle (make year ARGS="--days 60 --families 2")
# make crash-matrix  kills every task, ledger write and process, and checks the one right end (ARGS="--sample 8" for a few)
# make soak     requests without a pause while versions are switched, refused, killed and taken back: nothing may be lost
#               (make soak ARGS="--instances fake --quick" without vLLM)
# make calibration  how often the gate passes what it should not, by resampled outcomes
# make must-block   models that must be refused, each for its own reason, judged on a real server (ARGS="--sample 4" for a few)
# make compare-gates  what other gates decide on the same stored results; needs uv, a package index and Python 3.12
# make curve   what merges of the demo's family keep of both parents, by the language's weight
# make bench   the merge engine against a copy (make bench ARGS="--quick"; --mergekit PYTHON: against mergekit too)
# make bench-gateway  what the gateway adds to asking an instance directly, and HAProxy beside it
# make bench-packing  how small tuned bases become as differences to their parent, and how fast
.PHONY: setup demo test lint bench bench-gateway bench-packing year crash-matrix soak calibration must-block \
        compare-gates curve demo-family clean
SHELL := /bin/bash

setup:
	@infra/setup.sh

demo: setup
	@.venv/bin/empelt demo $(if $(FAMILY),--family $(FAMILY)) $(ARGS)

test:
	@infra/setup.sh --tests
	@$(MAKE) --no-print-directory lint
	.venv/bin/pytest -n 4 --dist loadfile

lint:
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

bench: setup
	@.venv/bin/python tests/bench/engine.py $(ARGS)

bench-gateway: setup
	@.venv/bin/python tests/bench/gateway.py $(ARGS)

bench-packing: setup
	@.venv/bin/python tests/bench/packing.py $(ARGS)

year: setup
	@.venv/bin/python -m tests.year $(ARGS)

crash-matrix: setup
	@.venv/bin/python -m tests.crash $(ARGS)

soak: setup
	@.venv/bin/python -m tests.soak $(ARGS)

calibration: setup
	@.venv/bin/python -m tests.calibration $(ARGS)

must-block: setup
	@.venv/bin/python -m tests.must_block $(ARGS)

compare-gates: setup
	@.venv/bin/python -m tests.bench.other_gates $(ARGS)

curve: setup
	@.venv/bin/python tests/bench/curve.py $(ARGS)

demo-family: setup
	.venv/bin/python -m infra.demo_family

clean:
	rm -rf .venv .venv-serving .venv-tools .empelt
