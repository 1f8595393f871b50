# Everything a person does with this repository. `make help` lists it.
SHELL := /bin/bash
PY := .venv/bin/python
FAST := not (postgresql or brokers or browser or gunicorn or faults or slow)
.DEFAULT_GOAL := help
# the tests start hundreds of Python processes: without its cache each would compile everything again
unexport PYTHONDONTWRITEBYTECODE
.PHONY: help setup setup-dev run check fast-tests test soak bench lint docs audit format wheel release translations screenshots lock

help: ## this list
	@grep -hE '^[a-z-]+:.*?## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

setup: ## .venv from the hashed lock (done by the others when needed)
	@tools/setup requirements.lock

setup-dev:
	@tools/setup requirements-dev.lock

run: setup ## the vessel app with a broker and demo data: http://127.0.0.1:8000
	@exec $(PY) -m tools.run --parent $$PPID

check: setup-dev ## lint, types and the fast tests, both at once: the loop while one works
	@tools/install_test_servers mosquitto
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target --keep-going lint fast-tests

# what starts nothing but Mosquitto, and takes little time
fast-tests: setup-dev
	@$(PY) -m pytest -n $$(($$(nproc) + 1)) -q -m "$(FAST)" $(ARGS) tests/unit tests/integration

test: setup-dev ## all tests, on real servers, several at once; ARGS="-k name" for some of them
	@tools/install_test_servers
	@tools/run_tests $(ARGS)

soak: setup-dev ## faults at random: MINUTES=60 SEED=7 DATABASE=sqlite|postgresql BROKER=shipped; or a fleet through all of them: FLEET=150 PROCESSES=3
	@tools/install_test_servers
ifdef FLEET
	@exec $(PY) -m tests.fleet.soak --vessels $(FLEET) $(if $(PROCESSES),--processes $(PROCESSES)) $(ARGS)
else
	@exec $(PY) -m tests.faults --minutes $(or $(MINUTES),60) $(if $(SEED),--seed $(SEED)) $(if $(DATABASE),--database $(DATABASE)) $(if $(BROKER),--broker $(BROKER))
endif

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

docs: setup-dev ## the documentation site, in build/docs/site: with the reference generated, warnings are errors
	@$(PY) -m tools.build_docs

audit: setup ## compares the locked packages with the database of known vulnerabilities (needs the internet)
	@$(PY) -m tools.audit

format: setup-dev ## let ruff fix what it can
	@$(PY) -m ruff check --fix --quiet .
	@$(PY) -m ruff format --quiet .

wheel: setup ## the package for other applications, in dist/; PROJECT_URL=https://... names its home in it
	@PROJECT_URL=$(PROJECT_URL) $(PY) -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .

release: setup-dev ## wheel and sources of this version in dist/, checked and installed in an empty environment; ARGS=--rehearse before all is ready
	@$(PY) -m tools.release $(ARGS)

translations: setup-dev ## collect the pages' texts into blueprints/ui/translations and compile them; says what is not translated yet
	@$(PY) -m tools.translations

screenshots: setup-dev ## pictures of every page, light, dark and on a phone, in build/screenshots/
	@$(PY) -m tools.screenshots $(ARGS)

lock: setup-dev ## rewrite the locks after a change of requirements*.in; ARGS=--upgrade for newer versions
	@tools/lock $(ARGS)
