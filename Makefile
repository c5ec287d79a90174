# Everything on a fresh machine that has Python 3.11 or newer, make and nothing else.
#   make demo   sets up, generates a MovieLens-shaped data set, fits, evaluates and recommends
#   make test   sets up and runs the tests
#   make nightly  sets up, tries thousands of mutated files and long fields, interrupts fits, and kills fits with checkpoints; SEED=1 chooses other moments, PERCENT=1 tries fewer
#   make lint   sets up and runs the linters
#   make docs   sets up and builds the documentation into build/site; a broken link or anchor fails
#   make bench  sets up, runs the benchmark suite at MovieLens-20M's shape and writes its table and picture

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
DEMO := --users 6040 --items 3706 --interactions 1000000

SEED ?= $(shell date +%s)
PERCENT ?= 100
share = $(shell echo $$(( ($(1) * $(PERCENT) + 99) / 100 )))

.PHONY: demo test nightly lint docs bench clean

demo: .venv/installed
	@mkdir -p demo
	$(BIN)/fastncf generate demo/ratings.csv $(DEMO)
	$(BIN)/fastncf fit demo/ratings.csv --out demo/model
	$(BIN)/fastncf recommend demo/model --user 1

test: .venv/installed-dev
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

nightly: .venv/installed-dev
	$(BIN)/python -m tests.data.readers.mutations $(SEED) $(call share,10000)
	$(BIN)/python -m tests.data.readers.campaign $(SEED) $(call share,20000)
	$(BIN)/python -m tests.persistence.mutations $(SEED) $(call share,10000)
	$(BIN)/python -m tests.persistence.simulation $(SEED) $(call share,10000)
	$(BIN)/python -m tests.persistence.full_disk
	$(BIN)/python -m tests.interrupts --repeats $(call share,100) --seed $(SEED)
	$(BIN)/python -m tests.checkpoints.kills --kills $(call share,100) --seed $(SEED)
	$(BIN)/python -m tests.sums $(call share,100000000)
	$(BIN)/python -m tests.growth --fits $(if $(filter 100,$(PERCENT)),200,30)
	$(BIN)/python -m tests.data.readers.long_fields 100000 1
	$(BIN)/python -m tests.kernels.compile_cuda 100 > /dev/null
	$(BIN)/python -m tests.container

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/installed-docs
	rm -rf build/pages
	mkdir -p build/pages/docs build/pages/benchmarks build/pages/fastncf/kernels
	cp *.md LICENSE CITATION.cff build/pages
	cp -R docs/*.md docs/images build/pages/docs
	cp fastncf/kernels/README.md build/pages/fastncf/kernels
	cp -R benchmarks/*.md benchmarks/results build/pages/benchmarks
	$(BIN)/zensical build --strict --clean

bench: .venv/installed-dev
	$(BIN)/python -m pytest benchmarks --shape ml-20m --benchmark-json .venv/benchmarks.json
	$(BIN)/python -m benchmarks.report .venv/benchmarks.json

clean:
	rm -rf .venv .cache build demo

.venv/python:
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "fastncf needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	touch $@

.venv/installed: .venv/python pyproject.toml constraints.txt
	$(PIP) --editable .
	touch $@

.venv/installed-dev: .venv/python pyproject.toml constraints.txt
	$(PIP) --editable '.[dev]'
	touch .venv/installed $@

.venv/installed-docs: .venv/python pyproject.toml constraints.txt
	$(PIP) --editable '.[docs]'
	touch .venv/installed $@
