# make demo                    caption a drawn picture and lay each word's map over it
# make demo IMAGE=photo.jpg    the same with a picture of yours
# make test                    linters, types and tests
# make test-matrix             the tests on the oldest and on the newest versions of what the package needs (slow)
# make notebooks               run the notebooks and keep what they show
# make graphs                  the ONNX graphs of the shipped models again, after their files changed
# make web                     the page that captions in the browser, into web/; needs npm
# make docs                    build the documentation into site/
# make venv                    only the environment that both set up

PYTHON ?= python3
BIN := .venv/bin

.PHONY: venv demo test test-matrix lint notebooks graphs web docs clean
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
	rm -f demo/scene.png
	$(BIN)/captioner scenes demo/scene.png --example
	$(BIN)/captioner caption demo/scene.png --figure demo/words.png
endif
	@echo "the maps are in demo/words.png"

LINT = $(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

lint: venv
	$(LINT)

# The linters run beside the tests, which keep every core busy; what they say stands at the end. Bytecode is kept, even
# where the environment says otherwise: each of the many processes of the tests would compile the package again.
test: export PYTHONDONTWRITEBYTECODE =
test: venv
	@said=$$(mktemp); ( $(LINT) ) >$$said 2>&1 & linters=$$!; \
	$(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder; tests=$$?; \
	wait $$linters; lint=$$?; cat $$said; rm $$said; \
	[ $$lint = 0 ] || echo "the linters failed: make lint"; [ $$tests = 0 ] || echo "tests failed: see above"; \
	[ $$tests$$lint = 00 ]

notebooks: venv
	$(BIN)/python tests/execute_notebooks.py

graphs: venv
	for model in checkpoints/*.safetensors checkpoints/answering/*.safetensors; do $(BIN)/captioner export $$model --graphs || exit 1; done

web: venv node_modules/installed
	$(BIN)/captioner export default --web web/

node_modules/installed: package-lock.json
	npm ci
	touch $@

test-matrix: .venv-oldest/installed .venv-newest/installed
	for age in oldest newest; do \
	    echo "== $$age: $$(.venv-$$age/bin/pip freeze | grep -iE '^(torch|numpy|pillow)==' | tr '\n' ' ')"; \
	    .venv-$$age/bin/pytest --numprocesses auto --maxprocesses 2 --dist loadfile --no-loadscope-reorder -m 'not slow' || exit 1; \
	done

.venv-%/installed: setup.cfg requirements/%.txt
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/pip install --quiet --constraint requirements/$*.txt --editable '.[serve,export,test]'
	touch $@

docs: venv
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --clean

clean:
	rm -rf .venv .venv-oldest .venv-newest node_modules web demo site build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
