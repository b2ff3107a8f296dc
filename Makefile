# `make demo`, `make test`, `make bench`: each sets up .venv by itself, once.
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV ?= .venv
# Processes of `make test`; each grows to about 5 GB, emulator and compiled code included.
WORKERS ?= 2
BIN := $(VENV)/bin
SOURCES := $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')

.PHONY: demo test test-slow test-cuda-build bench lint clean

demo: $(VENV)/built
	$(BIN)/gankernels demo --out runs/demo

test: $(VENV)/built
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests -m "not slow" -n $(WORKERS) --dist loadfile

test-slow: $(VENV)/built
	$(BIN)/python -m pip install --quiet --no-build-isolation -e ".[metrics]" "$(TORCH)"
	$(BIN)/python -m pytest tests -m slow

bench: $(VENV)/built
	$(BIN)/python benchmarks/table.py --write docs/cpu-benchmarks.md $(BENCH)

lint: $(VENV)/built
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	git ls-files 'csrc/*' | grep -E '\.(cpp|h|cu|cuh)$$' | xargs $(BIN)/clang-format --dry-run --Werror

# The CUDA extension against a CUDA build of torch, in a venv of its own; needs nvcc, no GPU.
test-cuda-build:
	$(PYTHON) -m venv .venv-cuda
	.venv-cuda/bin/python -m pip install --quiet torch==2.14.1 numpy setuptools wheel ninja
	GANKERNELS_CUDA=1 TORCH_CUDA_ARCH_LIST="8.0;9.0;10.0+PTX" \
		.venv-cuda/bin/python -m pip install --quiet --no-build-isolation --no-deps .
	cd .venv-cuda && bin/python -c "from gankernels import _C; assert _C.build_info()['cuda'], _C.build_info(); print(_C.build_info())"

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "setuptools>=65" wheel numpy ninja "$(TORCH)"
	touch $@

$(VENV)/built: $(VENV)/installed setup.py $(SOURCES)
	$(BIN)/python -m pip install --quiet --no-build-isolation -e ".[train,triton,test,dev,metrics,lab]" "$(TORCH)"
	touch $@

clean:
	rm -rf $(VENV) .venv-cuda build dist runs *.egg-info gankernels/*.so
