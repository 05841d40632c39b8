# The two commands to know: `make demo` and `make test`. Both install what they need into .venv first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ATTAR := $(BIN)/attar
DEMO := demo/digits.attar.safetensors

# Idle OpenMP threads sleep instead of spinning: several processes share the cores without fighting for them.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: demo test slow lint format check bench clean

demo: $(VENV)/.installed
	@mkdir -p demo
	$(ATTAR) distill digits --recipe latent-dm --budget 1ipc --set optimizer.learning_rate=3 --out $(DEMO) --overwrite
	$(ATTAR) evaluate $(DEMO) --data digits --protocol quick --seeds 3
	$(ATTAR) show $(DEMO) --data digits --out demo/digits.png --overwrite
	@echo "The distilled file is $(DEMO); its picture is demo/digits.png"

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist worksteal

slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist worksteal -m slow

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: lint test

bench: $(VENV)/.installed-dev
	$(BIN)/python bench/run.py

# Leaves .venv alone; remove it by hand to install afresh.
clean:
	rm -rf demo build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find src tests bench examples -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.installed
