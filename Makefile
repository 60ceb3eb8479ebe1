# The front door. cmake does the work (CMakePresets.json); this file makes a fresh Debian 12 machine able to run it.
PREFIX ?= /usr/local
BUILD ?= build/release
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
SECONDS_EACH ?= 20
WERROR ?= OFF
ARGS ?=

# Open MPI refuses to start ranks as root until these are set. Containers and CI are root; the program itself never sets
# them. Tests also start more ranks than a small machine has cores.
ifeq ($(shell id -u),0)
as_root = OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
say_root = @echo "make: running as root: $(as_root)" >&2
endif
oversubscribe = OMPI_MCA_rmaps_base_oversubscribe=1

sources = $(shell find src tests fuzz bench include -name '*.[ch]' 2>/dev/null)

.PHONY: build study test check asan fuzz bench install clean help

build:
	@tools/setup build
	@cmake --preset release -B $(BUILD) -DTUNEUP_WERROR=$(WERROR) -DTUNEUP_TESTS=OFF >/dev/null
	@cmake --build $(BUILD) -j $(JOBS)

study: ## set up, build, run the built-in study and write its report
	@tools/setup build run
	@$(MAKE) --no-print-directory build
	$(say_root)
	$(as_root) $(BUILD)/tuneup study $(ARGS)

test: ## set up, build, run every test
	@tools/setup build run test
	@cmake --preset release -B $(BUILD) -DTUNEUP_WERROR=$(WERROR) -DTUNEUP_TESTS=ON >/dev/null
	@cmake --build $(BUILD) -j $(JOBS)
	$(say_root)
	$(as_root) $(oversubscribe) ctest --test-dir $(BUILD) -j $(JOBS) --output-on-failure --no-tests=error $(ARGS)

check: ## formatting, layers, clang-tidy
	@tools/setup build test check
	@cmake --preset release -B $(BUILD) -DTUNEUP_TESTS=ON >/dev/null
	@status=0; \
	clang-format --dry-run -Werror $(sources) && echo "clang-format: nothing to change" || status=1; \
	tools/check_layers && echo "tools/check_layers: kept" || status=1; \
	JOBS=$(JOBS) tools/tidy $(BUILD) || status=1; \
	exit $$status

asan: ## the tests under the address and undefined-behaviour sanitizers
	@tools/setup build run test
	@cmake --preset asan >/dev/null
	@cmake --build --preset asan -j $(JOBS)
	$(say_root)
	$(as_root) $(oversubscribe) ctest --test-dir build/asan -j $(JOBS) --output-on-failure --no-tests=error $(ARGS)

fuzz: ## each fuzz target for SECONDS_EACH seconds
	@tools/setup build fuzz
	@cmake --preset fuzz >/dev/null
	@cmake --build --preset fuzz -j $(JOBS)
	JOBS=$(JOBS) tools/run_fuzz build/fuzz $(SECONDS_EACH)

bench: ## what the kernels reach on this machine
	@$(MAKE) --no-print-directory build
	@cmake --build $(BUILD) -j $(JOBS) --target benches
	@set -e; for bench in $(BUILD)/bench_*; do echo "$$bench"; "$$bench" $(ARGS); done

install: ## into $(DESTDIR)$(PREFIX)
	@$(MAKE) --no-print-directory build
	cmake --install $(BUILD) --prefix $(PREFIX)

clean:
	rm -rf build

help:
	@echo "make            build/release/tuneup            make study      set up, build, the built-in study"
	@echo "make test       set up, build, all tests        make check      formatting, layers, clang-tidy"
	@echo "make asan       tests under sanitizers          make fuzz       fuzz targets, SECONDS_EACH=20"
	@echo "make bench      kernel speeds                   make install    PREFIX=/usr/local DESTDIR="
	@echo "make clean      remove build/                   ARGS=...        words for the study, or for ctest"
