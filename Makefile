# Everything starts from a fresh machine with Python 3.11 or newer: each target makes .venv if there is none.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
# One torch thread per process: processes with two threads each on two cores are many times slower.
export OMP_NUM_THREADS ?= 1

.PHONY: demo test test-all test-page lint docs interop bench coverage mutants package clean

demo: $(STAMP)
	$(BIN)/python -m benchmarks.leaderboard run --suite quick --jobs 2 --out runs/demo

test: $(STAMP)
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal -m "not slow"

test-all: $(STAMP)
	$(BIN)/python -m pytest --numprocesses 2

# Is the leaderboard's page quick, right and open to everybody? Needs a Chromium: CHROMIUM=FILE, one
# on the path, or, as root on Debian, the package.
test-page: $(STAMP)
	$(BIN)/python -m pip install --quiet --editable ".[dev,page]"
	test -n "$$CHROMIUM" || command -v chromium > /dev/null || command -v google-chrome > /dev/null \
		|| (apt-get update --quiet=2 && apt-get install --quiet=2 --yes --no-install-recommends chromium)
	$(BIN)/python -m pytest tests/benchmarks/report/test_browser.py

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site, in site/; a dead link or a warning is an error.
docs: $(STAMP) .venv/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

.venv/.docs: setup.cfg $(STAMP)
	$(BIN)/python -m pip install --quiet --editable ".[docs]"
	touch .venv/.docs

bench: $(STAMP)
	$(BIN)/python -m benchmarks.costs.throughput --json runs/throughput.json

# Which lines do the fast tests run? Fails below the share that pyproject.toml names.
coverage: $(STAMP)
	$(BIN)/python -m pip install --quiet --editable ".[dev,coverage]"
	$(BIN)/python -m pytest --numprocesses 2 -m "not slow" --cov --cov-report=term-missing:skip-covered

# Do the tests notice small faults? About an hour on two cores; the same command goes on.
SEED ?= 0
mutants: $(STAMP)
	$(BIN)/python -m pip install --quiet --editable ".[dev,mutants]"
	$(BIN)/python tests/mutation/run.py --seed $(SEED) --sample 400 --jobs 2

# Does what is published work in an empty environment? Wheel and source archive, with any gymnasium.
GYMNASIUM ?= gymnasium
package: $(STAMP)
	rm -rf build dist .package
	$(BIN)/python -m pip install --quiet build
	$(BIN)/python -m build --outdir dist .
	$(PYTHON) -m venv .package
	.package/bin/python -m pip install --quiet dist/*.whl "$(GYMNASIUM)"
	cd .package && bin/python ../tests/packaging/check.py
	.package/bin/python -m pip install --quiet --no-deps --force-reinstall dist/*.tar.gz
	cd .package && bin/python ../tests/packaging/check.py

# Does every client library learn here? A virtual environment for each, and the scripts of examples/.
interop: $(STAMP)
	-$(BIN)/python tests/interop/venvs.py
	$(BIN)/python -m pytest tests/interop

clean:
	rm -rf .venv .interop .package build dist site *.egg-info runs .coverage*

$(STAMP): setup.cfg pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $(STAMP)
