# make setup   both Python environments and what vLLM needs from the system
# make demo    the whole way once: a release on a local Hub becomes a served model (Ctrl-C ends it)
# make test    everything that runs without a GPU
.PHONY: setup demo test lint demo-family clean
SHELL := /bin/bash

setup:
	@infra/setup.sh

demo: setup
	@.venv/bin/empelt demo $(ARGS)

test:
	@infra/setup.sh --tests
	@$(MAKE) --no-print-directory lint
	.venv/bin/pytest -n 4 --dist loadfile

lint:
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

demo-family: setup
	.venv/bin/python -m infra.demo_family

clean:
	rm -rf .venv .venv-serving .venv-tools .empelt
