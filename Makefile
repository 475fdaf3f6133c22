# Needs Python 3.11 or newer with its headers and venv module, a C compiler and make; all else
# goes into .venv/: demo holds a plain install, dev an editable one with the tests' needs, lint
# the linters.

PYTHON ?= python3
MODEL := smollm2-135m
DEMO := .venv/demo
DEV := .venv/dev
LINT := .venv/lint

ROOMS := $(wildcard runtime targets kernels_* tests tools)
# What a build depends on; the C files beside a .pyx are Cython's output.
SOURCES := setup.py pyproject.toml $(shell find runtime $(wildcard targets kernels_*) -type f \
	\( -name '*.h' -o -name '*.def' -o -name '*.py*' -o -name '*.c' -o -name '*.toml' \) \
	-not -path 'runtime/nybble/_core/*.c' -not -path '*/__pycache__/*')
C_FILES := $(shell find $(ROOMS) -type f \( -name '*.c' -o -name '*.h' -o -name '*.def' \) \
	-not -path 'runtime/nybble/_core/*.c')
CYTHON_FILES := $(wildcard runtime/nybble/_core/*.pyx runtime/nybble/_core/*.pxd)
BUILD := setup.py -q build_clib build_ext --inplace

.PHONY: help demo test test-long test-sanitized test-boards fuzz lint format bench bench-peers \
	count-boards debug clean

help:
	@echo "make demo     install nybble in $(DEMO), pull $(MODEL) (98 MB), ask it a question"
	@echo "make test     build for development in $(DEV) and run the tests"
	@echo "make test-long  the long form of some tests: more kills, 20 minutes of mixed use"
	@echo "make test-sanitized  the tests of what reads files, with the Cython modules under sanitizers"
	@echo "make test-boards  a wheel for ARM, tried on the emulated CPUs of BOARDS, and the instructions"
	@echo "              of its kernel rows: seven minutes; needs Debian's qemu-user and mmdebstrap"
	@echo "make fuzz     the fuzz targets for FUZZ_SECONDS each (20), FUZZ_JOBS at a time: needs clang"
	@echo "make lint     ruff, mypy, cython-lint, clang-format, codespell"
	@echo "make format   let ruff and clang-format rewrite what they would complain about"
	@echo "make bench    the benchmarks"
	@echo "make bench-peers  beside llama.cpp and ik_llama.cpp, which it downloads (120 MB) and builds"
	@echo "              once: needs a network, a C++ compiler and, the first time, ten to thirty minutes"
	@echo "make count-boards  instructions a token on emulated boards, beside llama.cpp: the first time,"
	@echo "              with its download and build, half an hour"
	@echo "make debug    rebuild $(DEV) with -O1 -g, for debuggers (the next test build is plain)"
	@echo "make clean    remove what was built; models stay"

demo: $(DEMO)/.installed
	$(DEMO)/bin/nybble pull $(MODEL)
	$(DEMO)/bin/nybble run $(MODEL) --system "Answer in one sentence." "What is the capital of France?"

test: $(DEV)/.built
	$(DEV)/bin/python -m pytest

# Tests of faults in their long form; half an hour.
test-long: $(DEV)/.built
	NYBBLE_LONG_TESTS=1 $(DEV)/bin/python -m pytest tests/faults

# Cython's modules with AddressSanitizer and UBSan, in a build of their own; Python itself has
# none, so the libraries are loaded before it, and what it keeps to its end is no leak.
SANITIZED := build/sanitized
SANITIZED_TESTS := tests/formats tests/archs tests/tokenizer/test_pieces.py tests/tokenizer/test_load.py \
	tests/engine/test_damaged.py tests/model/test_families.py tests/fuzz/test_fuzz.py \
	tests/hostile
# The fuzz targets in C have sanitizers of their own; and memory and stacks are not measured with
# theirs in them.
UNSANITIZED := $(addprefix --deselect=tests/,fuzz/test_fuzz.py::test_seeds_and_what_once_crashed \
	fuzz/test_fuzz.py::test_random_changes hostile/test_changing.py::test_load_takes_no_second_copy \
	fuzz/test_fuzz.py::test_any_template fuzz/test_fuzz.py::test_many_templates \
	fuzz/test_fuzz.py::test_what_a_template \
	hostile/test_files.py::test_the_limits_hold_and_are_enough \
	hostile/test_templates.py::test_nesting_ends_before_a_small_stack_does)
SANITIZED_ENV = LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
	PYTHONPATH=$(SANITIZED)/lib PYTHONMALLOC=malloc ASAN_OPTIONS=detect_leaks=0
test-sanitized: $(DEV)/.built
	NYBBLE_SANITIZE=1 $(DEV)/bin/python setup.py -q build --build-base $(SANITIZED) \
		--build-lib $(SANITIZED)/lib
	$(SANITIZED_ENV) $(DEV)/bin/python -c 'import nybble; assert "/sanitized/" in nybble.__file__'
	$(SANITIZED_ENV) $(DEV)/bin/python -m pytest -p no:cacheprovider $(SANITIZED_TESTS) $(UNSANITIZED)

# One board for each kind of core: A53, A72, A76, and one that has all that nybble has rows for.
BOARDS ?= rpi-zero-2w rpi4 rpi5 android-i8mm
test-boards: $(DEV)/.built
	$(PYTHON) -m tools.cross test $(BOARDS)
	$(DEV)/bin/python -m tools.count baseline --compiler zig

FUZZ_SECONDS ?= 20
FUZZ_JOBS ?= 1
fuzz: $(DEV)/.fuzz
	$(DEV)/bin/python -m tests.fuzz --seconds $(FUZZ_SECONDS) --jobs $(FUZZ_JOBS) $(FUZZ_TARGETS)

$(DEV)/.fuzz: $(DEV)/.built
	$(DEV)/bin/python -m pip install -q --disable-pip-version-check 'atheris>=3'
	touch $@

bench: $(DEV)/.built
	$(DEV)/bin/python -m pytest tests -rs -o python_files='bench_*.py' \
		--benchmark-enable --benchmark-only

bench-peers: $(DEV)/.built
	$(DEV)/bin/python -m tools.peers

# K-quants have blocks of 256 columns, which SmolLM2's 576 are no multiple of: the random model's are.
count-boards: $(DEV)/.built
	$(DEV)/bin/python -m tools.count --peer --form file --form Q4_0
	$(DEV)/bin/python -m tools.count --peer --model random-768 --form "Q4_0 pure" --form "Q4_1 pure" \
		--form "Q4_K pure" --form "Q6_K pure"

lint: $(LINT)/.installed
	$(LINT)/bin/ruff check .
	$(LINT)/bin/ruff format --check .
	$(LINT)/bin/mypy
	PATH="$(abspath $(LINT))/bin:$$PATH" cython-lint $(CYTHON_FILES)
	$(LINT)/bin/clang-format --dry-run --Werror $(C_FILES)
	$(LINT)/bin/codespell

format: $(LINT)/.installed
	$(LINT)/bin/ruff check --fix .
	$(LINT)/bin/ruff format .
	$(LINT)/bin/clang-format -i $(C_FILES)

debug: $(DEV)/.installed
	touch $(DEV)/.debug
	rm -f $(DEV)/.built
	NYBBLE_DEBUG=1 $(DEV)/bin/python $(BUILD) --force

clean:
	rm -rf .venv build dist runtime/*.egg-info
	rm -f runtime/nybble/_core/*.c runtime/nybble/_core/*.so

COMPILING = @echo "compiling nybble in $(1): about three minutes on two CPUs"

$(DEMO)/.installed: $(SOURCES)
	$(call COMPILING,$(DEMO))
	test -x $(DEMO)/bin/python || $(PYTHON) -m venv $(DEMO)
	$(DEMO)/bin/python -m pip install -q --disable-pip-version-check --force-reinstall .
	touch $@

# The build's own needs are installed too, so that a changed source is compiled by itself.
$(DEV)/.installed: setup.py pyproject.toml
	$(call COMPILING,$(DEV))
	test -x $(DEV)/bin/python || $(PYTHON) -m venv $(DEV)
	$(DEV)/bin/python -m pip install -q --disable-pip-version-check 'setuptools>=77' 'cython>=3.3.1,<3.4'
	$(DEV)/bin/python -m pip install -q --disable-pip-version-check --no-build-isolation -e '.[test]'
	touch $@

# After `make debug` everything is compiled anew.
$(DEV)/.built: $(DEV)/.installed $(SOURCES)
	$(DEV)/bin/python $(BUILD) $(if $(wildcard $(DEV)/.debug),--force)
	rm -f $(DEV)/.debug
	touch $@

# What pyproject.toml lists for linting, and what nybble imports; nothing is compiled.
LISTED := import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	print(*p["dependencies"], *p["optional-dependencies"]["lint"], sep="\n")

$(LINT)/.installed: pyproject.toml
	test -x $(LINT)/bin/python || $(PYTHON) -m venv $(LINT)
	$(LINT)/bin/python -c '$(LISTED)' > $(LINT)/needs.txt
	$(LINT)/bin/python -m pip install -q --disable-pip-version-check -r $(LINT)/needs.txt
	touch $@
