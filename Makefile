# Everything a newcomer needs: `make run` starts three nodes, `make test` and `make lint` check the project.
# A virtual environment is made on first use; python3 (3.11 or newer) with pip is all that must be there. Where there
# is a clearly faster build of the same version, the environment is made with that: deploy/choose_python.py. PYTHON=...
# names the one to take.

PYTHON ?=
export PYTHON
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: run test lint docker-test bench bench-cases bench-locks overload loadtest convergence campaign clean

run: $(VENV)/.runs
	@exec $(BIN)/kvstore dev

test: $(VENV)/.develops
	@$(BIN)/python -m pytest -n 2

lint: $(VENV)/.develops
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Builds the images and runs the containers, with each Compose that is installed; skipped where no engine answers.
docker-test: $(VENV)/.develops
	@$(BIN)/python -m pytest -rs tests/docker/up_and_down.py

bench: $(VENV)/.develops
	$(BIN)/python -m loadtests.side_by_side

# The cases behind the headline, beside etcd where it is installed: about twenty minutes, or CASES=--quick; docs/cases.md
# and its plots are made of what was measured. CASES=--replot makes them again from the kept figures.
CASES ?=
bench-cases: $(VENV)/.develops
	@$(BIN)/python -m loadtests.cases $(CASES)

# Beside etcd's, where etcd is installed.
bench-locks: $(VENV)/.develops
	$(BIN)/python -m loadtests.locks_versus_etcd

# Twice and four times what a fresh cluster can carry, ten seconds each: what is done in time, what is refused, and when.
OVERLOAD ?= put
overload: $(VENV)/.develops
	$(BIN)/python -m loadtests.overload --cases $(OVERLOAD)

# A fresh cluster under Locust's users for two minutes: PROFILE is steps, spike, soak or chaos; prints where the report is.
PROFILE ?= steps
TIME ?= 2m
USERS ?= 60
loadtest: $(VENV)/.develops
	@$(BIN)/python -m loadtests --profile $(PROFILE) --time $(TIME) --users $(USERS)

# A node away, and a partition, with 100,000 keys: equal databases within a minute.
convergence: $(VENV)/.develops
	$(BIN)/python -m tests.cluster.convergence

# About an hour: simulated seeds, the proof that the simulator can fail, and every workload under every fault on real
# processes; one table at the end. MINUTES bounds all of it. A short one: make campaign SEEDS=40 FAULTS=kill SECONDS=5
SEEDS ?= 10000
JOBS ?= 2
FAULTS ?= all
SECONDS ?= 20
MINUTES ?= 240
campaign: $(VENV)/.develops
	@$(BIN)/python -m tests.verify.whole_campaign --seeds $(SEEDS) --jobs $(JOBS) --faults $(FAULTS) \
	  --seconds $(SECONDS) --minutes $(MINUTES)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Some systems split venv's own pip off into another package; then a pip that is there fills the environment.
$(VENV)/.made:
	@"$${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "kvstore needs Python 3.11 or newer: make PYTHON=/path/to/python3.11"; exit 1; }
	@python="$${PYTHON:-$$(python3 deploy/choose_python.py)}" && echo "making $(VENV) with $$python" \
	  && { "$$python" -m venv $(VENV) 2>/dev/null \
	    || { "$$python" -m venv --clear --without-pip $(VENV) \
	      && { "$$python" -m pip --python $(BIN)/python install --quiet pip \
	        || python3 -m pip --python $(BIN)/python install --quiet pip; }; }; }
	@touch $@

# What a node needs, and no more: the first start is quick.
$(VENV)/.runs: $(VENV)/.made pyproject.toml constraints.txt
	$(PIP) install --quiet -c constraints.txt -e .
	@touch $@

# `--group` came with pip 25.1.
$(VENV)/.develops: $(VENV)/.runs
	$(PIP) install --quiet --upgrade 'pip>=25.1'
	$(PIP) install --quiet -c constraints.txt -e . --group dev
	@touch $@
