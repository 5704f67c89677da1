# Everything runs in two virtual environments that this file builds: .venv has the newest Synapse, and
# the tests, the linters and the demo run in it; .venv-oldest has the oldest Synapse that is supported,
# and only servers run in it.

PYTHON ?= python3
OLDEST_SYNAPSE := 1.151.0
VENV := .venv
VENV_OLDEST := .venv-oldest
# Files in tests/ are given to one worker each, since servers are shared within a file.
PYTEST_ARGS ?= -n 2 --dist loadfile

.PHONY: venv lint format test slow demo bench fuzz faults clean

venv: $(VENV)/.stamp $(VENV_OLDEST)/.stamp

$(VENV)/.stamp: setup.cfg
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip setuptools
	$(VENV)/bin/python -m pip install --quiet --upgrade matrix-synapse --editable '.[test,lint]'
	touch $@

# After the other one: two builds of one source tree at a time get into each other's way. The oldest Synapse
# allows a txredisapi with which it cannot connect.
$(VENV_OLDEST)/.stamp: setup.cfg $(VENV)/.stamp
	$(PYTHON) -m venv $(VENV_OLDEST)
	$(VENV_OLDEST)/bin/python -m pip install --quiet --upgrade pip setuptools
	$(VENV_OLDEST)/bin/python -m pip install --quiet 'matrix-synapse[redis]==$(OLDEST_SYNAPSE)' 'txredisapi<1.6' psycopg2-binary --editable .
	touch $@

lint: $(VENV)/.stamp
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

format: $(VENV)/.stamp
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

test: venv lint
	$(VENV)/bin/python -m pytest $(PYTEST_ARGS) -m "not slow" tests

# Deployments of many processes, full disks, large tables: what would make `test` too long.
slow: venv
	$(VENV)/bin/python -m pytest $(PYTEST_ARGS) -m slow tests

# As the test of the same name, with many more requests, other ones each time.
FUZZ_EXAMPLES ?= 500
fuzz: $(VENV)/.stamp
	FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) $(VENV)/bin/python -m pytest --timeout 3600 tests/test_fuzz.py

# Kills servers that often, at random, in repairs and imports; SEED=… repeats a run.
KILLS ?= 100
faults: $(VENV)/.stamp
	KILLS=$(KILLS) $(VENV)/bin/python -m pytest -s --timeout 5400 tests/campaigns

# Keeps two servers up until Ctrl-C; with ONCE=1 it ends after the proofs.
demo: $(VENV)/.stamp
	$(VENV)/bin/python -m demo

clean:
	rm -rf $(VENV) $(VENV_OLDEST) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

# Print what they measure, from one run; docs/performance.md says what it was on one machine.
bench: $(VENV)/.stamp
	$(VENV)/bin/python -m bench.repair
	$(VENV)/bin/python -m bench.repair --database postgres
	$(VENV)/bin/python -m bench.diagnosis
	$(VENV)/bin/python -m bench.soft_failures
	$(VENV)/bin/python -m bench.watch
	$(VENV)/bin/python -m bench.imports --latency
	$(VENV)/bin/python -m bench.import_ways
	$(VENV)/bin/python -m bench.import_growth
	$(VENV)/bin/python -m bench.large --events 1000000 --rooms 200 --room-events 100000 --rejections 10000
