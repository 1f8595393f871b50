# Everything a person does with this repository. `make help` lists it.
SHELL := /bin/bash
PY := .venv/bin/python
.DEFAULT_GOAL := help
.PHONY: help setup setup-dev run test soak bench lint format translations screenshots lock

help: ## this list
	@grep -hE '^[a-z-]+:.*?## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup: ## .venv from the hashed lock (done by the others when needed)
	@tools/setup requirements.lock

setup-dev:
	@tools/setup requirements-dev.lock

run: setup ## the vessel app with a broker and demo data: http://127.0.0.1:8000
	@exec $(PY) -m tools.run --parent $$PPID

test: setup-dev ## all tests, on real servers; ARGS="-k name" for some of them
	@tools/install_test_servers
	@$(PY) -m pytest $(ARGS)

soak: setup-dev ## faults without end, at random: MINUTES=60 SEED=7 DATABASE=sqlite|postgresql BROKER=shipped
	@tools/install_test_servers
	@exec $(PY) -m tests.faults --minutes $(or $(MINUTES),60) $(if $(SEED),--seed $(SEED)) $(if $(DATABASE),--database $(DATABASE)) $(if $(BROKER),--broker $(BROKER))

bench: setup-dev ## the benchmarks: a table of ratios, kept in bench/results/
	@tools/install_test_servers
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-input --require-hashes \
		--only-binary :all: -r bench/requirements.lock || echo 'bench: without matplotlib no pictures'
	@$(PY) -m bench $(ARGS)

lint: setup-dev ## ruff, mypy, import-linter, docs checks
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy
	@.venv/bin/lint-imports
	@$(PY) -m tools.check_docs

format: setup-dev ## let ruff fix what it can
	@$(PY) -m ruff check --fix --quiet .
	@$(PY) -m ruff format --quiet .

translations: setup-dev ## collect the pages' texts into blueprints/ui/translations; says what is not translated yet
	@$(PY) -m tools.translations

screenshots: setup-dev ## pictures of every page, light, dark and on a phone, in build/screenshots/
	@$(PY) -m tools.screenshots $(ARGS)

lock: setup-dev ## rewrite the locks after a change of requirements*.in; ARGS=--upgrade for newer versions
	@tools/lock $(ARGS)
