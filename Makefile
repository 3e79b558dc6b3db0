# Two commands matter to a newcomer: `make demo` and `make test`.
# Everything else needed is installed here, into .dev/ (and, as root, through apt-get).
PYTHON ?= python3
DEV := .dev
BIN := $(DEV)/bin
STAMP := $(DEV)/.ready

.PHONY: demo test lint bench faults clean system
.DEFAULT_GOAL := test

$(STAMP): pyproject.toml tests/bootstrap.sh
	@PYTHON="$(PYTHON)" sh tests/bootstrap.sh venv $(DEV)
	@touch $(STAMP)

system:
	@sh tests/bootstrap.sh system

demo: $(STAMP)
	@$(BIN)/wain demo --yes

test: system $(STAMP)
	@$(BIN)/python -m pytest -n 2 --dist loadgroup -rs -m "not faults" $(ARGS)

lint: $(STAMP)
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports --no-cache

bench: system $(STAMP)
	@$(BIN)/python -m bench $(ARGS)

faults: system $(STAMP)
	@$(BIN)/python -m pytest --full -m faults -n 2 --dist loadgroup -p no:cacheprovider $(ARGS)

clean:
	rm -rf $(DEV) demo .wain build dist *.egg-info
