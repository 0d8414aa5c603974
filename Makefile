# make study | test | chaos | check | clean        PYTHON=python3.12 chooses the Python that the environment is made with
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
export OMP_NUM_THREADS ?= 1

.PHONY: study test chaos check format lint types layers clean

study: $(VENV)/.runtime
	$(BIN)/widestep study run poster-digits

test: $(VENV)/.dev
	$(BIN)/python -m pytest -q -n 3 --dist loadgroup

chaos: $(VENV)/.dev
	WIDESTEP_CHAOS=long WIDESTEP_CHAOS_FIGURES=$(CURDIR)/chaos.json $(BIN)/python -m pytest -q tests/faults

check: format lint types layers test

format: $(VENV)/.dev
	$(BIN)/ruff format --check .

lint: $(VENV)/.dev
	$(BIN)/ruff check .

types: $(VENV)/.dev
	$(BIN)/mypy

layers: $(VENV)/.dev
	$(BIN)/lint-imports

$(VENV)/.runtime: pyproject.toml constraints.txt scripts/environment.py
	$(PYTHON) scripts/environment.py $(VENV)
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt scripts/environment.py
	$(PYTHON) scripts/environment.py $(VENV) --extra dev
	touch $@ $(VENV)/.runtime

clean:
	rm -rf $(VENV) build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
