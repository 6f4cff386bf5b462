# make demo                    caption a drawn picture and lay each word's map over it
# make demo IMAGE=photo.jpg    the same with a picture of yours
# make test                    linters, types and tests
# make notebooks               run the notebooks and keep what they show
# make graphs                  the ONNX graphs of the shipped models again, after their files changed
# make venv                    only the environment that both set up

PYTHON ?= python3
BIN := .venv/bin

.PHONY: venv demo test lint notebooks graphs clean
.DELETE_ON_ERROR:

venv: .venv/installed

.venv/installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: venv
	mkdir -p demo
ifdef IMAGE
	$(BIN)/captioner caption "$(IMAGE)" --figure demo/words.png
else
	$(BIN)/python -m captioner.data.scenes demo/scene.png --example
	$(BIN)/captioner caption demo/scene.png --figure demo/words.png
endif
	@echo "the maps are in demo/words.png"

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist loadfile

notebooks: venv
	$(BIN)/python tests/execute_notebooks.py

graphs: venv
	$(BIN)/python -m captioner.export.graphs

clean:
	rm -rf .venv demo build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
