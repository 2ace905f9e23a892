# Every target in a line: `make help`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo up test check format chaos streams crashes bench lock baseline build clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

install: $(STAMP) ## create .venv with everything in it

# A Python without venv or ensurepip is Debian's; without 3.11 the code would not even compile.
$(STAMP): pyproject.toml requirements.lock
	@command -v $(PYTHON) >/dev/null || { echo "make: no $(PYTHON) here: install Python 3.11 or later, or name yours: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: $$($(PYTHON) -V) is too old: Howdah needs Python 3.11 or later; name another: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "make: this Python has no venv or ensurepip: on Debian and Ubuntu, apt-get install python3-venv"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (half a minute, once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@mkdir -p $(VENV)/typed/howdah && for room in app jobs router sql migrations; do ln -sfn ../../../$$room $(VENV)/typed/howdah/$$room; done
	@touch $@

demo: $(STAMP) ## review the licences and READMEs of what was just installed, killing processes meanwhile
	@$(BIN)/howdah demo

up: $(STAMP) ## start database, API and worker, and leave them running until Ctrl-C
	@exec $(BIN)/howdah up

test: $(STAMP) ## run every test
	@$(BIN)/python -m pytest -q -n auto --maxprocesses 8 --dist worksteal

check: $(STAMP) ## formatting, lint, types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy -p howdah.app -p howdah.jobs -p howdah.router -p howdah.sql -p howdah.migrations

format: $(STAMP) ## format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

chaos: $(STAMP) ## kill workers, cut connections, crash the server under load: make chaos MINUTES=4
	@$(BIN)/python -m tests.chaos --minutes $(or $(MINUTES),4)

streams: $(STAMP) ## clients hop between processes that fall, and must miss nothing: make streams MINUTES=3
	@$(BIN)/python -m tests.chaos.streams --minutes $(or $(MINUTES),3)

crashes: $(STAMP) ## strike a workflow of everything at each of its points, and 300 random ones: 30 minutes
	@HOWDAH_CRASH_MATRIX=all HOWDAH_HUNT=300 $(BIN)/python -m pytest -q -s --timeout 3600 tests/jobs/test_crash_matrix.py tests/jobs/test_random_workflows.py

bench: $(STAMP) ## measure beside peers: make bench ONLY=drain_empty,drain_two_steps
	@$(BIN)/python -m tests.bench $(if $(ONLY),--only $(ONLY))

baseline: $(STAMP) ## regenerate the baseline migration from sql/ (until the first release)
	@$(BIN)/python -m howdah.migrations.freeze

lock: ## bring requirements.lock up to pyproject.toml
	@$(PYTHON) -m venv build/lock && build/lock/bin/pip install --quiet uv
	@build/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
		--extra dev --extra bench --upgrade pyproject.toml --output-file requirements.lock

build: $(STAMP) ## build the wheel into dist/
	@rm -rf build
	@$(BIN)/python -m build --wheel --no-isolation

clean: ## remove what was installed and the data of the embedded database
	@test ! -x $(BIN)/howdah || $(BIN)/howdah down
	@rm -rf $(VENV) .howdah build dist report *.egg-info
