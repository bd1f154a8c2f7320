# The few commands of this repository. Everything runs from .venv, which `make setup` makes.
.DEFAULT_GOAL := help
.PHONY: help docs setup bundle release-check demo test unit some fuzz lint style types format console console-check screenshots openapi requirements sequences rows matrix docker-matrix under-load conformance some-rows up down clean bench

BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest
# A test waits for something half of its time: one worker more than processors keeps them busy. More than 6 wait for the
# longest lane only.
WORKERS ?= $(shell n=$$(nproc); echo $$((n < 6 ? n + 1 : 6)))
TYPES := .types.log
# Tests start hundreds of programs of ours. What Python compiled for one is kept for the next, whatever the shell
# (or a container's image) says.
unexport PYTHONDONTWRITEBYTECODE
TABLE := docs/compatibility.json
COMPILE := uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes \
	--no-header --no-emit-index-url --no-emit-find-links

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 22

setup: ## Install what is missing: Debian packages, .venv, CRIU (as root; seconds when nothing is)
	@bash scripts/setup.sh

demo: setup ## Run two real jobs through reclaims, in one zone and across zones, and compare their output
	@$(BIN)/perdure demo

test: setup ## Lint and run every test, on one worker more than there are processors (tests/lanes.py)
	@$(MAKE) --no-print-directory style
	@echo "== mypy, import direction and the console's own tests run beside the tests"
	@echo "== all tests, $(WORKERS) at a time"
	@$(MAKE) --no-print-directory types console-check >$(TYPES) 2>&1 & types=$$!; failed=0; \
		$(PYTEST) -n $(WORKERS) -m "not matrix" --durations 25 --durations-min 1 tests \
			|| scripts/again.sh $$? $(PYTEST) -m "not matrix" || failed=1; \
		wait $$types || { failed=1; cat $(TYPES); }; exit $$failed

unit: ## Run the fast tests alone: no root, no containers
	@$(PYTEST) -n $(WORKERS) tests/unit tests/workflows

some: ## Run what you name: make some TESTS="tests/unit/test_ledger.py -k name"
	@$(PYTEST) -p no:xdist $(or $(TESTS),$(error say which: make some TESTS="tests/unit/test_ledger.py -k name"))

fuzz: ## Change stores at random for a minute and read them; draw other examples; call each operation of the API a hundred times (9 minutes)
	@$(BIN)/python -m tests.stores.fuzz 60
	@PERDURE_EXAMPLES=50 $(PYTEST) -n $(WORKERS) -m hypothesis tests/unit tests/stores
	@PERDURE_EXAMPLES=50 $(PYTEST) -p no:xdist -o timeout=1800 tests/integration/test_openapi.py

lint: style types ## Check style, types and import direction

style:
	@echo "== ruff" && $(BIN)/ruff check . && $(BIN)/ruff format --check .

types:
	@echo "== mypy" && scripts/types.sh
	@echo "== import direction" && $(BIN)/lint-imports --no-cache

format: ## Sort imports and format the code
	@$(BIN)/ruff check --select I --fix . && $(BIN)/ruff format .

console: ## Build the console (console/) into api/static, if its sources changed
	@nice scripts/console.sh

console-check: ## Check the console's types and run its own tests
	@echo "== console"
	@scripts/console.sh npm run --silent check
	@scripts/console.sh npm test --silent

screenshots: setup ## Write a picture of every page of the console, light and dark, to docs/console
	@$(BIN)/python -m scripts.screenshots

openapi: ## Write console/openapi.json, of which the console's types are generated, from the API as it is
	@$(BIN)/python -m scripts.openapi

requirements: ## Compile requirements*.txt from pyproject.toml: pins and hashes, no index addresses
	@$(BIN)/$(COMPILE) --extra local --output-file requirements.txt
	@$(BIN)/$(COMPILE) --extra server --constraint requirements.txt --output-file requirements-server.txt
	@$(BIN)/$(COMPILE) --extra agent --constraint requirements.txt --output-file requirements-agent.txt
	@$(BIN)/$(COMPILE) --all-extras --constraint requirements.txt --output-file requirements-dev.txt
	@! grep -n '://' requirements*.txt

docs: ## Build the documentation as a site into build/site; a dead link fails it
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet && echo "build/site/index.html"

sequences: ## Play 200 seeded lives of a job volume, with faults, on the local EBS; a record at the end
	@$(BIN)/python -m tests.integration.volume_sequences 200

rows: ## Enter new tests with a `row` marker into docs/compatibility.md, as not run
	@PERDURE_COMPATIBILITY=$(TABLE) $(PYTEST) --collect-only -qq tests >/dev/null
	@$(BIN)/python scripts/compatibility.py

matrix: setup ## Run every row of docs/compatibility.md and all long tests, and write what happened (an hour)
	@$(MAKE) --no-print-directory some-rows ROWS="row or matrix"

docker-matrix: setup ## Fill the Docker columns alone: Debian 12's Docker, trixie's and sid's
	@$(MAKE) --no-print-directory some-rows ROWS="row and docker"

under-load: setup ## Ten kinds of job on one busy node: notice, other zone, power loss, three times (15 minutes)
	@$(MAKE) --no-print-directory some-rows ROWS="row and matrix and stack" TESTS=tests/e2e/test_ten_kinds.py

conformance: setup ## Run CRIU's and runc's own tests through the product and write docs/conformance.md (an hour)
	@$(BIN)/python -m tests.conformance $(CONFORMANCE)

bench: setup ## Measure what checkpoints cost, on a quiet machine (40 minutes), and print the tables of docs/performance.md
	@$(BIN)/python -m bench.dataplane --all && $(BIN)/python -m bench.dataplane --report
	@$(BIN)/python -m bench.outage

some-rows:
	@echo "== rows of docs/compatibility.md: $(ROWS)"
	@PERDURE_COMPATIBILITY=$(TABLE) $(PYTEST) -p no:xdist -m "$(ROWS)" $(or $(TESTS),tests); status=$$?; \
		$(BIN)/python scripts/compatibility.py; exit $$status

bundle: setup ## Build the release for instances into build/release: archive, installer, signed manifest (BUNDLE=--architecture …)
	@nice $(BIN)/python -m scripts.bundle $(BUNDLE)

release-check: bundle ## Try the release alone: in a chroot, and in a VM with systemd and Docker (15 minutes); writes the record
	@PERDURE_RELEASE_RECORD=$(CURDIR)/docs/install-record.json $(PYTEST) -p no:xdist -s tests/release

up: setup ## Start a local stack in the background
	@$(BIN)/perdure local up --detach

down: ## Stop the local stack
	@$(BIN)/perdure local down

clean: ## Remove .venv, caches and build results; a running stack is stopped with `make down` first
	@rm -rf --one-file-system .venv .setup.log $(TYPES) build api/static console/node_modules dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find . -xdev -name __pycache__ -type d -prune -exec rm -rf --one-file-system {} +
