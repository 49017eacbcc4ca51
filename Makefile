# demo   the whole loop on this machine
# test   everything: check, then all tests
#        (installs mosquitto and node where they are missing and you are root: scripts/system-packages)
# check  linter, format, types, import contracts
# soak   four minutes of random faults under load, and 10,000 messages through each broker
# bench  the benchmarks
#
# A virtual environment is made in .venv once, and brought up to date when pyproject.toml changes.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# One more than CI's two cores: many tests wait for a timer or a server. Each process has servers of its own.
SIDE_BY_SIDE ?= -n 3 --dist worksteal

.PHONY: demo test check soak bench clean
.DEFAULT_GOAL := test

demo: $(INSTALLED)
	$(BIN)/syncd demo

# With STATUS_FILE set (see .ci/run) the result of pytest goes there instead of to make, whose own complaint would
# otherwise be printed below pytest's closing line.
test: check
	@scripts/system-packages
ifdef STATUS_FILE
	@$(BIN)/pytest $(SIDE_BY_SIDE) $(PYTEST_ARGS); echo $$? > '$(STATUS_FILE)'
else
	@$(BIN)/pytest $(SIDE_BY_SIDE) $(PYTEST_ARGS)
endif

check: $(INSTALLED)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

soak: $(INSTALLED)
	$(BIN)/pytest -m soak tests/faults

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo 'syncd needs Python 3.11 or newer as $(PYTHON); name another one: make PYTHON=python3.12' >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' || \
	    { echo '$(PYTHON) cannot make virtual environments; on Debian: apt-get install python3-venv' >&2; exit 1; }
	@$(BIN)/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input -e '.[dev,demo]'
	@touch $@
