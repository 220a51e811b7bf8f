# `make demo` and `make test` do everything, from a fresh clone on.
PYTHON ?= python3
RUN := $(PYTHON) tools/bootstrap.py
BESIDE := -n 2 --dist loadfile

.PHONY: setup demo test test-all test-triton lint docs clean
setup:       ## only prepare the environment in .venv
	@$(RUN)
demo:        ## train CLIP and FILIP on the starter set and write runs/demo/index.html
	@$(RUN) diptych demo
test:        ## the quick tests: under ten minutes on two cores
	@$(RUN) python -m pytest $(BESIDE) -m "not slow and not gpu"
test-all:    ## every test
	@$(RUN) python -m pytest $(BESIDE)
lint:        ## format and fix what can be fixed
	@$(RUN) ruff format src tests tools benchmarks
	@$(RUN) ruff check --fix src tests tools benchmarks
docs:        ## build the documentation site: site/index.html
	@NO_MKDOCS_2_WARNING=1 $(RUN) python -m mkdocs build --strict
test-triton: ## the kernels for CUDA, through the interpreter of Triton where there is no GPU (installs 286 MB)
	@$(RUN) python -m pip install --quiet "triton>=3.2"
	@$(RUN) python -m pytest tests/objectives/test_late_interaction_triton.py
clean:       ## remove the environment and caches, keep runs
	rm -rf .venv .mypy_cache .ruff_cache .import_linter_cache build site
