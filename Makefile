# Two commands matter: `make demo` and `make test`. Both need nothing but Python >= 3.11 and make.
PYTHON ?= python3
DEV    := .venv
DEMO   := .venv-demo
EXAMPLE := .venv-example
SAMPLE := sample_models
OUT    := demo-output

.PHONY: help demo example test test-slow browser lint types mutants sweep fuzz wheel lower-bounds sample clean

help:
	@echo "make demo          analyze, slim and validate the sample model (own virtual environment)"
	@echo "make example       from a training in PyTorch to a gate that fails on a planted fault (installs PyTorch)"
	@echo "make test          ruff, mypy and the fast tests (own virtual environment)"
	@echo "make test-slow     the tests that take longer"
	@echo "make browser       Debian's Chromium, in which the tests look at pages (as root)"
	@echo "make mutants       plant bugs; the tests must find each of them"
	@echo "make sweep         send every test case of the onnx package through analyze and slim (20 minutes)"
	@echo "make fuzz          damage 20,000 model files; each must be taken, or declined in one line (half an hour)"
	@echo "make wheel         build the wheel and try it outside of the checkout"
	@echo "make lower-bounds  test with the oldest dependencies that are allowed"
	@echo "make sample        train the sample model again (installs PyTorch, takes minutes)"
	@echo "make clean         remove everything that the other targets made"

$(DEMO)/.done: pyproject.toml
	$(PYTHON) -m venv $(DEMO)
	$(DEMO)/bin/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

$(DEV)/.done: pyproject.toml
	$(PYTHON) -m venv $(DEV)
	$(DEV)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

demo: $(DEMO)/.done
	@mkdir -p $(OUT)
	$(DEMO)/bin/onnxslim1x1 analyze $(SAMPLE)/digits_googlenet.onnx --threads 1
	$(DEMO)/bin/onnxslim1x1 slim $(SAMPLE)/digits_googlenet.onnx -o $(OUT)/slim.onnx --threads 1 --target-macs 0.35 \
	    --calibration $(SAMPLE)/digits_calibration.npz --preprocess unit --time 2
	$(DEMO)/bin/onnxslim1x1 validate $(SAMPLE)/digits_googlenet.onnx $(OUT)/slim.onnx --threads 1 --preprocess unit \
	    --data $(SAMPLE)/digits_evaluation.npz --max-drop 0.01 --time 3

$(EXAMPLE)/.done: pyproject.toml
	$(PYTHON) -m venv $(EXAMPLE)
	$(EXAMPLE)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[train]' pytest
	touch $@

example: $(EXAMPLE)/.done
	$(EXAMPLE)/bin/python -m pytest tests/integration/test_newcomer.py -k "example or lines"

test: lint types
	$(DEV)/bin/python -m pytest -m "not slow" -n 2 --dist worksteal

test-slow: $(DEV)/.done
	$(DEV)/bin/python -m pytest -m slow

browser:
	command -v chromium > /dev/null || \
	    { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core > /dev/null; } || \
	    echo "NO BROWSER: Chromium cannot be installed here, so the tests will not look at any page"

lint: $(DEV)/.done
	$(DEV)/bin/ruff check .

types: $(DEV)/.done
	$(DEV)/bin/mypy

mutants: $(DEV)/.done
	$(DEV)/bin/python scripts/mutants.py

sweep: $(DEV)/.done
	$(DEV)/bin/python scripts/sweep.py --validate

fuzz: $(DEV)/.done
	$(DEV)/bin/python scripts/fuzz.py --generated $(SAMPLE)

wheel: $(DEV)/.done
	rm -rf dist
	$(DEV)/bin/python -m build --quiet
	PYTHON=$(PYTHON) scripts/check_wheel.sh dist/*.whl

lower-bounds: $(DEV)/.done
	$(DEV)/bin/python scripts/check_lower_bounds.py

sample: $(DEV)/.done
	$(DEV)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev,train]'
	$(DEV)/bin/python scripts/train_sample_model.py

clean:
	rm -rf $(DEV) $(DEMO) $(EXAMPLE) $(OUT) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis
