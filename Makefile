# `make help` lists the targets.
PYTHON ?= python3
VENV ?= .venv
# arguments for pytest or the demo, as in: make test ARGS='-k arena'
ARGS ?=
# `make suites` and `make dist` take several interpreters
PYTHONS ?= $(PYTHON)

# builds use the compiler that was checked for, not the one that Python itself was built with
export CC

BIN := $(VENV)/bin
C_SOURCES := $(sort $(shell find csrc -name '*.c'))
CONFIG := build/config/1/nm_config.h
C_HEADERS := $(sort $(shell find csrc -name '*.h')) $(CONFIG)
PUBLIC_HEADERS := $(sort $(shell find csrc/include -name '*.h'))
INPUTS := pyproject.toml setup.py $(C_SOURCES) $(C_HEADERS) \
	$(shell find src scripts/backend -name '*.py' -o -name '*.h' -o -name py.typed -o -name '*.pth' -o -name '*.start')

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow check doctest bench lint format lint-c header-compile c-tests c-tests-asan coverage \
	differential mutants dist wheel-pure clean FORCE
.DELETE_ON_ERROR:

help: ## list the targets
	@awk -F ':.*## ' '/^##@ / {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z0-9-]+:.*## / {printf "  %-19s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# --- environment: made once, and again when PYTHON names another interpreter ---

$(VENV)/.python: FORCE
	@command -v $(PYTHON) >/dev/null || \
	  { echo "missing: $(PYTHON); on Debian or Ubuntu: apt-get install python3"; exit 1; }
	@$(PYTHON) scripts/check_prerequisites.py
	@id=$$($(PYTHON) -c 'import sys; print(sys.version, sys.base_prefix)') && \
	if [ "$$id" != "$$(cat $@ 2>/dev/null)" ]; then \
	  echo "making $(VENV)" && $(PYTHON) -m venv --clear $(VENV) && echo "$$id" >$@; \
	fi

# 0: an environment without the C core
CORE ?= 1

# A stale build/lib would put modules that were deleted since, or the C core before a change of
# flags, into the environment.
$(VENV)/.installed-%: $(VENV)/.python $(INPUTS)
	@echo "installing nativemem[$*] into $(VENV)"
	@rm -rf build/lib* build/bdist*
	@USE_NATIVE_MEM=$(CORE) $(BIN)/python -m pip install --quiet --disable-pip-version-check '.[$*]'
	@touch $@

##@ First

demo: $(VENV)/.installed-demo ## build, then run the examples with and without nativemem
	$(BIN)/python scripts/demo.py $(ARGS)

# as many at once as there are cores; the tests of a file one after the other, in one process
CORES := $(shell nproc 2>/dev/null || echo 2)
PYTEST = $(BIN)/python -m pytest -n $(CORES) --dist loadfile

test: $(VENV)/.installed-test ## build the C core and run the tests; some minutes
	@$(MAKE) --no-print-directory -j$(CORES) c-tests c-tests-asan
	@$(MAKE) --no-print-directory doctest
	$(PYTEST) -m 'not slow' $(ARGS)

test-slow: $(VENV)/.installed-test ## the tests that `make test` leaves out, those with the marker slow
	$(PYTEST) -m slow $(ARGS)

check: test-slow test ## all tests

TRIED_PAGES := README.md docs/allocators.md docs/c.md docs/collections.md docs/live.md docs/manager.md docs/memlib.md docs/observe.md \
  docs/report.md docs/structures.md

.PHONY: browser
# the package is there: pip adds what the extra asks for, and builds nothing
browser: $(VENV)/.installed-test ## the pages of reports in a browser (Debian: chromium), with the keyboard
	@command -v chromium || command -v chromium-browser || command -v google-chrome || \
	  { echo "missing: Chromium; on Debian: apt-get install chromium"; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check 'nativemem[browser]'
	$(BIN)/python -m pytest tests/observe/test_page_in_browser.py -m '' $(ARGS)

.PHONY: journal-cache
journal-cache: $(VENV)/.installed-test ## the journal cache's rebuild within its budget: exit code 1 above it
	$(BIN)/python examples/journal_cache --parallel 2 $(ARGS)

doctest: $(VENV)/.installed-test ## the examples in docstrings, README.md and docs/, on both backends
	for backend in native pure; do \
	  NATIVEMEM_BACKEND=$$backend $(BIN)/python -m pytest --doctest-modules --pyargs nativemem \
	    --ignore-glob='*/ffi_build.py' --ignore-glob='*/auto.py' && \
	  NATIVEMEM_BACKEND=$$backend $(BIN)/python -m pytest --doctest-glob="*.md" $(TRIED_PAGES) || exit; \
	done

##@ The site

.PHONY: docs docs-links
SITE := build/docs

docs: $(VENV)/.installed-docs ## the site, in build/docs; a warning is an error, and so is a link that leads nowhere
	@rm -rf $(SITE)
	$(BIN)/sphinx-build -b html -W -n --keep-going -q -c docs . $(SITE)
	@$(MAKE) --no-print-directory docs-links

docs-links: ## whether each link of the site leads somewhere; no network
	$(PYTHON) scripts/check_site.py $(SITE)

.PHONY: docstrings
docstrings: $(VENV)/.installed-test ## what the docstrings of public names lack (ARGS=--gaps: name by name)
	$(BIN)/python scripts/docstrings.py $(ARGS)

##@ Style and warnings

# the table of cffi's declarations is no C of ours to break
FORMATTED_C := $(shell git ls-files '*.c' '*.h' 2>/dev/null | grep -v cdef.h)

.PHONY: guardrails mypy
lint: $(VENV)/.installed-dev guardrails mypy ## ruff, mypy, the rules of guardrails, and whether `make format` would change something
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/clang-format --dry-run -Werror $(FORMATTED_C)

guardrails: ## no call of the C library's allocator but where it belongs; names of public headers that say whose memory it is
	scripts/check-no-raw-allocs.sh
	$(PYTHON) scripts/check-ownership.py

mypy: $(VENV)/.installed-dev ## the types of the package
	$(BIN)/mypy

format: $(VENV)/.installed-dev ## break the lines of Python and C as .clang-format and pyproject.toml say
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(FORMATTED_C)

# --- C: our own sources have to be free of warnings under each compiler at hand ---

WARNINGS := -Wall -Wextra -Wconversion -Werror
GCC ?= gcc
CLANG ?= $(firstword $(foreach name,clang clang-21 clang-20 clang-19 clang-18 clang-17 clang-16 \
	clang-15 clang-14,$(shell command -v $(name))))
CXX17 ?= $(firstword $(foreach name,g++ c++ clang++ $(CLANG),$(shell command -v $(name))))
C_FLAGS := -std=c11 -pthread -Icsrc/include -Icsrc -Ibuild/config/1
# as system headers: Python's are not ours to lint
PYTHON_INCLUDE = -isystem $(shell $(PYTHON) -c 'import sysconfig; print(sysconfig.get_path("include"))')
LINT := build/lint
LINTED := $(C_SOURCES:%.c=$(LINT)/gcc/%.o) $(if $(CLANG),$(C_SOURCES:%.c=$(LINT)/clang/%.o)) \
	$(PUBLIC_HEADERS:%.h=$(LINT)/header/%.ok)

lint-c: $(LINTED) ## every C file with gcc and clang, warnings as errors; each public header alone
	@echo "lint-c: $(words $(C_SOURCES)) sources with $(GCC)$(if $(CLANG), and $(notdir $(CLANG)))," \
	  "$(words $(PUBLIC_HEADERS)) headers in C11 and C++17"

header-compile: $(PUBLIC_HEADERS:%.h=$(LINT)/header/%.ok) ## each public header alone, in C11 and in C++17

# it is for a build without the core
$(LINT)/gcc/csrc/use/memlib_system.o $(LINT)/clang/csrc/use/memlib_system.o: C_FLAGS += -DUSE_NATIVE_MEM=0

# compiled with optimisation, not only parsed: some warnings come from data flow
$(LINT)/gcc/%.o: %.c $(C_HEADERS) Makefile
	@mkdir -p $(@D)
	$(GCC) -O2 $(C_FLAGS) $(PYTHON_INCLUDE) $(WARNINGS) -c $< -o $@

$(LINT)/clang/%.o: %.c $(C_HEADERS) Makefile
	@mkdir -p $(@D)
	$(CLANG) -O2 $(C_FLAGS) $(PYTHON_INCLUDE) $(WARNINGS) -c $< -o $@

$(LINT)/header/%.ok: %.h $(C_HEADERS) Makefile
	@mkdir -p $(@D)
	@[ -n "$(CXX17)" ] || { echo "missing: a C++ compiler; on Debian or Ubuntu: apt-get install g++"; exit 1; }
	$(GCC) -x c -std=c11 $(WARNINGS) -Icsrc/include -Ibuild/config/1 $(PYTHON_INCLUDE) -fsyntax-only -include $< /dev/null
	$(CXX17) -x c++ -std=c++17 $(WARNINGS) -Icsrc/include -Ibuild/config/1 $(PYTHON_INCLUDE) -fsyntax-only -include $< /dev/null
	@touch $@

# --- a deeper look: .clang-tidy and scripts/cppcheck-suppressed.txt say what is left out, and why ---

.PHONY: lint-c-deep clang-tidy cppcheck
CLANG_TIDY ?= $(firstword $(foreach name,clang-tidy clang-tidy-21 clang-tidy-20 clang-tidy-19,$(shell command -v $(name))))
CPPCHECK ?= cppcheck

lint-c-deep: clang-tidy cppcheck ## clang-tidy with clang's analyzer, and cppcheck, over each C file of ours; a minute

clang-tidy: $(C_SOURCES:%.c=$(LINT)/tidy/%.ok)
	@echo "clang-tidy: $(words $(C_SOURCES)) sources, nothing to say"

# with its asserts: they tell the analyzer what holds
$(LINT)/tidy/csrc/use/memlib_system.ok: C_FLAGS += -DUSE_NATIVE_MEM=0
$(LINT)/tidy/%.ok: %.c $(C_HEADERS) .clang-tidy Makefile
	@[ -n "$(CLANG_TIDY)" ] || { echo "missing: clang-tidy 19 or later; on Debian: apt-get install clang-tidy-19"; exit 1; }
	@mkdir -p $(@D)
	@$(CLANG_TIDY) --quiet $< -- -DNM_DEBUG $(C_FLAGS) $(PYTHON_INCLUDE) 2>$@.log || { cat $@.log; exit 1; }
	@touch $@

# its own description of Python's macros; headers of the system are not looked for
cppcheck: $(CONFIG)
	@command -v $(CPPCHECK) >/dev/null || { echo "missing: cppcheck; on Debian or Ubuntu: apt-get install cppcheck"; exit 1; }
	$(CPPCHECK) --quiet --std=c11 --enable=warning,performance,portability --library=python --force \
	  --suppressions-list=scripts/cppcheck-suppressed.txt --error-exitcode=1 -Icsrc/include -Icsrc -Ibuild/config/1 csrc

##@ Tests in C

# each tests/c/test_*.c is a program; exit code 0 means passed

CORE_SOURCES := $(filter-out csrc/binding/% csrc/engine/% csrc/use/memlib_system.c,$(C_SOURCES))
C_TESTS := $(sort $(wildcard tests/c/test_*.c))
# test_x.link: what the linker is told when it links test_x.c
C_TEST_HEADERS := $(wildcard tests/c/*.h tests/c/*.link)
# a test that hangs fails (124): the slowest take some two minutes under qemu or Valgrind, 300 ms without
C_TEST_LIMIT := timeout --kill-after=10 900
ASAN := -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
TSAN := -fsanitize=thread -fno-omit-frame-pointer

c-tests: $(C_TESTS:tests/c/%.c=build/c-tests/plain/%.passed) ## the C tests
	@[ -n "$(C_TESTS)" ] || { echo "there are no tests in tests/c"; exit 1; }

.PHONY: c-tests-clang
c-tests-clang: $(C_TESTS:tests/c/%.c=build/c-tests/clang/%.passed) ## the C tests, compiled by clang

c-tests-asan: $(C_TESTS:tests/c/%.c=build/c-tests/asan/%.passed) ## the C tests under the sanitizers
	@[ -n "$(C_TESTS)" ] || { echo "there are no tests in tests/c"; exit 1; }

# of every kind each source is compiled once, for all tests; $(1) the kind, $(2) its flags, $(3) another compiler
define C_TESTS_OF
build/c-tests/$(1)/obj/%.o: %.c $$(C_HEADERS) $$(C_TEST_HEADERS) Makefile
	@mkdir -p $$(@D)
	$$(if $(3),$(3),$$(CC)) -O1 -g -DNM_DEBUG $(2) $$(C_FLAGS) $$(WARNINGS) -c $$< -o $$@

build/c-tests/$(1)/%: build/c-tests/$(1)/obj/tests/c/%.o $$(CORE_SOURCES:%.c=build/c-tests/$(1)/obj/%.o)
	$$(if $(3),$(3),$$(CC)) -O1 -g $(2) $$(C_FLAGS) -o $$@ $$^ $$(addprefix @,$$(wildcard tests/c/$$*.link))
endef
$(eval $(call C_TESTS_OF,plain,))
$(eval $(call C_TESTS_OF,asan,$(ASAN)))
$(eval $(call C_TESTS_OF,valgrind,-DNM_VALGRIND))
$(eval $(call C_TESTS_OF,coverage,--coverage -O0))
$(eval $(call C_TESTS_OF,tsan,$(TSAN)))
$(eval $(call C_TESTS_OF,clang,,$(CLANG)))

# --- other platforms: docs/platforms.md ---

.PHONY: c-tests-musl c-tests-aarch64
MUSL_CC ?= musl-gcc
AARCH64_CC ?= aarch64-linux-gnu-gcc
QEMU_AARCH64 ?= qemu-aarch64 -L /usr/aarch64-linux-gnu
$(eval $(call C_TESTS_OF,musl,-fPIC -shared,$(MUSL_CC)))
$(eval $(call C_TESTS_OF,aarch64,,$(AARCH64_CC)))

c-tests-musl: $(C_TESTS:tests/c/%.c=build/c-tests/musl/%.passed) ## the C tests on musl, each a shared object that dlopen loads

c-tests-aarch64: $(C_TESTS:tests/c/%.c=build/c-tests/aarch64/%.passed) ## the C tests for aarch64, in qemu's user mode

build/c-tests/load-musl: tests/c/load.c
	@mkdir -p $(@D)
	@command -v $(MUSL_CC) >/dev/null || { echo "missing: $(MUSL_CC); on Debian or Ubuntu: apt-get install musl-tools"; exit 1; }
	$(MUSL_CC) -O1 -g -std=c11 $(WARNINGS) $< -o $@

$(C_SOURCES:%.c=build/c-tests/musl/obj/%.o) $(C_TESTS:%.c=build/c-tests/musl/obj/%.o): build/c-tests/load-musl

build/c-tests/musl/%.passed: build/c-tests/musl/%
	$(C_TEST_LIMIT) build/c-tests/load-musl ./$<
	@touch $@

# What qemu's user mode cannot do, by the test that needs it. It does not pass RLIMIT_AS on, which would bind qemu itself,
# and before version 8 a child of a process with threads ends in an assertion of qemu's.
NOT_UNDER_QEMU := test_region:test_address_space() test_memlib:test_ends() \
	test_heap:test_fork() test_idle:test_fork_ends_it_and_both_sides_have_it_again() \
	test_idle:test_forks_of_a_busy_process() test_idle:test_forks_beside_a_heap_with_a_budget() \
	test_os:test_the_limit_of_the_address_space()

build/c-tests/aarch64/%.passed: build/c-tests/aarch64/%
	@status=0; $(C_TEST_LIMIT) $(QEMU_AARCH64) ./$< >$@.log 2>&1 || status=$$?; \
	for name in $$(sed -n 's/^FAILED //p' $@.log); do \
	  case ' $(NOT_UNDER_QEMU) ' in \
	    *" $*:$$name "*) echo "$*: $$name fails under emulation, as is known" ;; \
	    *) status=2 ;; \
	  esac; \
	done; \
	if [ $$status -gt 1 ]; then cat $@.log; echo "$<: exit $$status"; exit 1; fi; \
	echo "$< under $(firstword $(QEMU_AARCH64)): $$(tail -n 1 $@.log)"
	@touch $@

# kept: an executable that make takes for intermediate would be built again each time
.SECONDARY:
# a request that no machine can serve is part of the contract: it must come back as NULL
%.passed: %
	ASAN_OPTIONS=allocator_may_return_null=1 $(C_TEST_LIMIT) ./$<
	@touch $@

##@ A library for C programs: the core, or memlib alone on the C library's malloc; docs/memlib.md

.PHONY: lib install-lib
USE_NATIVE_MEM ?= 1
PREFIX ?= /usr/local
VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' src/nativemem/_version.py)
SONAME := libnativemem.so.0
LIB_SOURCES_1 := $(CORE_SOURCES)
LIB_SOURCES_0 := csrc/use/memlib_system.c csrc/base/log.c
LIB_HEADERS_1 := $(filter-out %/capi.h,$(PUBLIC_HEADERS))
LIB_HEADERS_0 := csrc/include/memlib.h csrc/include/memlib_redirect.h csrc/include/nativemem/log.h
LIB := build/c/$(USE_NATIVE_MEM)
ifeq ($(filter 0 1,$(USE_NATIVE_MEM)),)
lib install-lib:
	@echo "USE_NATIVE_MEM=$(USE_NATIVE_MEM): make lib takes 1 (the native core) or 0 (the C library's malloc)"; exit 1
else
lib: $(LIB)/.built ## libnativemem.a and .so with headers and a pkg-config file; USE_NATIVE_MEM=0: memlib on malloc
	@echo "$(LIB): libnativemem $(VERSION), USE_NATIVE_MEM=$(USE_NATIVE_MEM)"

install-lib: lib ## the same into PREFIX (/usr/local), below DESTDIR
	@mkdir -p $(DESTDIR)$(PREFIX)
	cp -R $(LIB)/include $(LIB)/lib $(DESTDIR)$(PREFIX)
endif

# the one place that says which; the same for setup.py
build/config/%/nm_config.h: csrc/nm_config.h.in
	@mkdir -p $(@D)
	@sed 's/@USE_NATIVE_MEM@/$*/' $< >$@

define LIBRARY
build/c/$(1)/obj/%.o: %.c $$(C_HEADERS) build/config/$(1)/nm_config.h Makefile
	@mkdir -p $$(@D)
	$$(CC) -O2 -g1 -fPIC -std=c11 -pthread -Ibuild/config/$(1) -Icsrc/include -Icsrc $$(WARNINGS) $$(CFLAGS) -c $$< -o $$@

build/c/$(1)/.built: $$(LIB_SOURCES_$(1):%.c=build/c/$(1)/obj/%.o) $$(LIB_HEADERS_$(1)) csrc/nativemem.pc.in
	@rm -rf build/c/$(1)/lib build/c/$(1)/include
	@mkdir -p build/c/$(1)/lib/pkgconfig build/c/$(1)/include/nativemem
	$$(AR) rcs build/c/$(1)/lib/libnativemem.a $$(filter %.o,$$^)
	$$(CC) -shared -pthread -Wl,-soname,$$(SONAME) -o build/c/$(1)/lib/$$(SONAME) $$(filter %.o,$$^) $$(LDFLAGS)
	@ln -sf $$(SONAME) build/c/$(1)/lib/libnativemem.so
	@for header in $$(LIB_HEADERS_$(1):csrc/include/%=%); do \
	  cp csrc/include/$$$$header build/c/$(1)/include/$$$$header || exit; \
	done
	@cp build/config/$(1)/nm_config.h build/c/$(1)/include/
	@sed 's/@VERSION@/$$(VERSION)/' csrc/nativemem.pc.in >build/c/$(1)/lib/pkgconfig/nativemem.pc
	@touch $$@
endef
$(eval $(call LIBRARY,1))
$(eval $(call LIBRARY,0))

##@ Programs and suites of others

.PHONY: switch-over
switch-over: ## jq and discount on memlib by memlib_redirect.h alone, by their own tests (ARGS='--source DIR'); minutes
	$(PYTHON) scripts/switch_over.py $(ARGS)

.PHONY: suites suites-fast
suites: ## the suites of the interpreter, NumPy, pandas, scikit-learn, for each of PYTHONS (docs/suites.md); hours
	$(PYTHON) scripts/suites.py --pythons $(PYTHONS) $(ARGS)

suites-fast: ## a part of them on PYTHON; some minutes
	$(PYTHON) scripts/suites.py --fast $(ARGS)

##@ Checkers: more eyes on the same tests, and programs drawn at random

.PHONY: c-tests-valgrind c-tests-tsan fuzz python-tests-asan hunt-scopes hunt-arrays hunt-limits
CORPUS := $(wildcard tests/c/corpus/*)
# a child that ends in a guard page is one of the tests
VALGRIND := valgrind --quiet --error-exitcode=9 --leak-check=full --errors-for-leak-kinds=definite \
	--child-silent-after-fork=yes --suppressions=tests/c/valgrind.supp

c-tests-valgrind: $(C_TESTS:tests/c/%.c=build/c-tests/valgrind/%.passed) ## the C tests under Valgrind, which is told of blocks

c-tests-tsan: $(C_TESTS:tests/c/%.c=build/c-tests/tsan/%.passed) ## the C tests under ThreadSanitizer

fuzz: ## coverage-guided fuzzing of the C core, for FUZZ_SECONDS (60)
	@scripts/fuzz.sh

hunt-scopes: ## random programs of scopes against a model of what is charged; ARGS="--seconds 30 --seed N"
	$(PYTHON) scripts/hunt_scopes.py $(ARGS)

hunt-arrays: ## random programs of arrays that interrupt themselves; ARGS="--seconds 30 --seed N"
	$(PYTHON) scripts/hunt_arrays.py $(ARGS)

hunt-limits: $(VENV)/.installed-test ## ordinary Python where memory ends; ARGS="--denials N --seed S --python PATH"
	$(BIN)/python scripts/hunt_limits.py $(ARGS)

python-tests-asan: ## the Python tests on an extension with AddressSanitizer; some minutes
	$(PYTHON) scripts/python_tests_asan.py $(ARGS)

build/c-tests/valgrind/%.passed: build/c-tests/valgrind/%
	@command -v valgrind >/dev/null || \
	  { echo "missing: valgrind; on Debian or Ubuntu: apt-get install valgrind"; exit 1; }
	NM_TEST_EVERY=13 $(C_TEST_LIMIT) $(VALGRIND) ./$<
	@touch $@

build/c-tests/tsan/%.passed: build/c-tests/tsan/%
	TSAN_OPTIONS=allocator_may_return_null=1 $(C_TEST_LIMIT) ./$<
	@touch $@

$(foreach kind,plain asan clang valgrind coverage tsan musl aarch64,build/c-tests/$(kind)/test_corpus.passed): $(CORPUS)

differential: $(VENV)/.installed-test ## 200,000 generated operations on both backends and a model; some minutes
	$(BIN)/python scripts/differential.py $(ARGS)

.PHONY: c-tests-coverage
c-tests-coverage: $(C_TESTS:tests/c/%.c=build/c-tests/coverage/%.passed) # with counters; scripts/coverage.py reads them

build/c-tests/coverage/%.passed: build/c-tests/coverage/%
	NM_TEST_EVERY=13 $(C_TEST_LIMIT) ./$<
	@touch $@

coverage: ## line coverage of csrc and src together, at least 95 %, on the latest CPython at hand or on PYTHON; some minutes
	$(PYTHON) scripts/coverage.py $(if $(filter command environment,$(origin PYTHON)),--python $(PYTHON)) $(ARGS)

mutants: $(VENV)/.installed-test ## plant mistakes in the core, one at a time: each has to be caught
	$(BIN)/python scripts/mutants.py $(ARGS)

.PHONY: cbmc
cbmc: ## prove the C core's sequential parts up to bounds (docs/proofs.md); ARGS=--mutants refutes planted mistakes
	$(PYTHON) scripts/cbmc.py $(ARGS)

##@ The contract in its other modes, on other interpreters and systems

.PHONY: test-oom test-disabled test-orders
CONTRACT = $(BIN)/python -m pytest -q -o faulthandler_timeout=120 tests/contract $(ARGS)

# N:how many tests have to meet the failure at least. A process each: with -j2 two run side by side
OOM_RUNS := 1:3000 3:300 7:100 37:50
OOM_TARGETS := $(foreach run,$(OOM_RUNS),test-oom-$(firstword $(subst :, ,$(run))))
.PHONY: $(OOM_TARGETS)
test-oom: $(OOM_TARGETS) ## the contract suite with the 1st, 3rd, 7th, 37th allocation of each test failing

define OOM_RUN
test-oom-$(1): $(VENV)/.installed-test
	NATIVEMEM_TEST_OOM_N=$(1) $$(CONTRACT) -p no:cacheprovider --planted-at-least=$(2)
endef
$(foreach run,$(OOM_RUNS),$(eval $(call OOM_RUN,$(firstword $(subst :, ,$(run))),$(lastword $(subst :, ,$(run))))))

test-disabled: $(VENV)/.installed-test ## the contract suite under the kill switch
	NATIVEMEM_DISABLE=1 $(CONTRACT) -p no:cacheprovider

.PHONY: test-debug-hooks
test-debug-hooks: $(VENV)/.installed-test ## the engine and its scopes, where the interpreter fills what is freed (PYTHONMALLOC=debug)
	PYTHONMALLOC=debug $(PYTEST) -q tests/test_engine.py tests/test_scopes.py tests/test_numpy_hook.py $(ARGS)

.PHONY: test-contract test-pure test-python test-pythons
test-contract: $(VENV)/.installed-test ## the contract suite, and nothing else; as many at once as there are cores
	$(PYTEST) -q tests/contract $(ARGS)

# CI: there it would be an error that the core is missing
test-pure: ## the contract, structures, manager and command line in an environment without the C core
	env -u CI $(MAKE) --no-print-directory test-python VERSION_TESTS="$(PURE_TESTS)" CORE=0 VENV=build/venvs/pure ARGS="-r fE $(ARGS)"

PURE_TESTS := tests/contract tests/structures tests/manager tests/test_cli.py tests/test_doctor.py tests/test_pure_details.py
# what depends on an interpreter's insides; scripts/test_newest.sh has the same
VERSION_TESTS ?= tests/contract tests/test_core.py tests/test_engine.py tests/test_scopes.py tests/test_denials.py \
	tests/test_numpy_hook.py tests/test_cffi_hook.py tests/test_cli.py tests/test_run_is_python.py

test-python: $(VENV)/.installed-test ## what depends on the interpreter, on PYTHON (PYTHON=python3.12 VENV=.venv-3.12)
	$(PYTEST) -q -m 'not slow' $(VERSION_TESTS) $(ARGS)

test-pythons: ## the same on each CPython at hand, or on those that PYTHONS names, each in an environment of its own
	set -e; for python in $(if $(filter command environment,$(origin PYTHONS)),$(PYTHONS),\
	    $$($(PYTHON) scripts/dist.py --list | sed -n 's/.* native .*(\(.*\))$$/\1/p')); do \
	  $(MAKE) --no-print-directory test-python PYTHON=$$python VENV=build/venvs/$$(basename $$python); \
	done

test-orders: $(VENV)/.installed-test ## the contract suite on every order of wrappers, 150,000 tests; half an hour
	NATIVEMEM_TEST_ALL_ORDERS=1 $(PYTEST) -q tests/contract $(ARGS)

# as root, on Debian
.PHONY: test-newest
test-newest: ## the contract, engine, scopes, hooks and CLI on the newest CPython that Debian sid has; some minutes
	scripts/test_newest.sh $(ARGS)

.PHONY: test-free-threaded
test-free-threaded: ## the hammer and the contract on a CPython without the lock, which is built first; some minutes
	scripts/test_free_threaded.sh $(ARGS)

# as root; what it was comes back, whatever happens
.PHONY: test-overcommit
OVERCOMMIT = /proc/sys/vm/overcommit_memory
test-overcommit: $(VENV)/.installed-test ## the engine where the system counts what is committed (vm.overcommit_memory=2)
	before=$$(cat $(OVERCOMMIT)); trap "echo $$before >$(OVERCOMMIT)" EXIT; echo 2 >$(OVERCOMMIT) && \
	  $(BIN)/python -m pytest tests/test_engine.py tests/test_scopes.py tests/test_numpy_hook.py $(ARGS)

##@ Security

.PHONY: audit entry-points
audit: $(VENV)/.installed-audit ## known vulnerabilities of what is installed with the package (network; exit code 75 without)
	$(BIN)/python scripts/audit.py

entry-points: ## the ways from Python into C, and which take a raw pointer (docs/security.md)
	$(PYTHON) scripts/entry_points.py $(ARGS)

##@ Everything

.PHONY: check-all
check-all: ## each variant of docs/ci.md in turn, hours; logs in build/check-all (ARGS='--only tsan,cbmc', '--list')
	$(PYTHON) scripts/check_all.py $(ARGS)

##@ Measured

.PHONY: metrics
metrics: $(VENV)/.installed-test ## write docs/metrics.md: baseline, target, current; what takes long, from its last run here
	$(BIN)/python scripts/metrics.py $(ARGS)

.PHONY: record instructions
bench: $(VENV)/.installed-bench ## run the benchmarks
	$(BIN)/python -m pytest bench $(ARGS)

# tests/test_instructions.py holds the core to them
instructions: ## count the instructions of the fast paths anew, into bench/instructions.csv
	$(PYTHON) bench/instructions.py --write

.PHONY: pyperformance soak profile-hour beside-memray
SECONDS ?= 3600

pyperformance: $(VENV)/.installed-bench ## pyperformance, engine off and on, some hours (ARGS='--fast --benchmarks go,chaos')
	$(BIN)/python bench/pyperformance_both.py $(ARGS)

soak: $(VENV)/.installed-demo ## everything at once in one process on the engine, for SECONDS (3600): its memory is to stay flat
	$(BIN)/python scripts/soak.py --seconds $(SECONDS) $(ARGS)

beside-memray: $(VENV)/.installed-bench ## the largest lines of a program by memray and by a profile; some minutes (ARGS=PROGRAM)
	$(BIN)/python bench/beside_memray.py $(ARGS)

profile-hour: $(VENV)/.installed-demo ## a profile for SECONDS (3600): its file within 64 MiB, read all along and after kill -9
	$(BIN)/python bench/profile_hour.py --seconds $(SECONDS) $(ARGS)

# the target whose output is kept, and the name of the file
WHAT ?= bench
NAME ?= $(WHAT)
record: ## run the target WHAT, and keep what it prints in docs/measured/NAME.txt (WHAT=bench, NAME as WHAT)
	@mkdir -p build docs/measured
	{ echo "make $(WHAT)$(if $(ARGS), ARGS='$(ARGS)'), unedited, at commit $$(git rev-parse --short HEAD)"; echo; \
	  $(MAKE) --no-print-directory $(WHAT) || echo "$(WHAT) failed"; } >build/record.txt 2>&1
	@! grep -qx "$(WHAT) failed" build/record.txt || { cat build/record.txt; exit 1; }
	mv build/record.txt docs/measured/$(NAME).txt

##@ Releases

# Of each CPython at hand, or of those that PYTHONS names and of those in the system below SYSTEM (a chroot)
dist: $(VENV)/.installed-dev ## source archive, manylinux wheels, pure wheel, each tried (PYTHONS=..., SYSTEM=DIR); some minutes
	$(BIN)/python scripts/dist.py $(if $(filter command environment,$(origin PYTHONS)),--pythons $(PYTHONS)) \
	  $(if $(SYSTEM),--system $(SYSTEM)) $(ARGS)

.PHONY: test-wheel
test-wheel: ## the wheels of dist/ in a Debian 12 without a compiler: pip install, README, the ten-minute page; as root
	scripts/test_wheel_without_compiler.sh

# no cache: pip would hand out the native wheel that it built from the same sources as the pure one
PIP_WHEEL := -m pip wheel --no-cache-dir --no-deps

wheel-pure: $(VENV)/.python ## the wheel without the C core, into dist/
	rm -rf build/lib* build/bdist*
	USE_NATIVE_MEM=0 $(BIN)/python $(PIP_WHEEL) --wheel-dir dist .

clean: ## remove everything that was built, and the environment
	rm -rf build dist $(VENV) src/nativemem.egg-info
	find src -name '*.so' -delete
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
