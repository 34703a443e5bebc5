# The commands of the README. CMakeLists.txt is the build definition; this only calls it.
BUILD ?= build
JOBS := $(shell nproc)
CMAKE_FLAGS ?=

.PHONY: all build-quietly run test check sanitize collect bench model chaos soak clean reference install-run install-test \
  install-check

all:
	@cmake -S . -B $(BUILD) $(CMAKE_FLAGS) $(QUIETLY)
	@cmake --build $(BUILD) --parallel $(JOBS) $(QUIETLY)

build-quietly:
	@$(MAKE) --no-print-directory all QUIETLY=">/dev/null"

run: install-run
	@$(MAKE) --no-print-directory build-quietly
	@demo/run.sh $(BUILD)/bin/sockdrawer || [ $$? -eq 3 ] # 3: stopped, with connections still open

test: install-test
	@$(MAKE) --no-print-directory build-quietly
	@scripts/run-tests.sh $(BUILD) spec

check: install-check
	@scripts/run-checks.sh

# Everything that runs C code of ours, with ASan and UBSan in it.
sanitize: install-test
	@$(MAKE) --no-print-directory build-quietly BUILD=build/sanitize CMAKE_FLAGS=-DSOCKDRAWER_SANITIZE=ON
	@SOCKDRAWER_TIME_SCALE=8 SOCKDRAWER_NO_AS_LIMIT=1 SOCKDRAWER_SPECS_AT_A_TIME=$(JOBS) \
	  scripts/run-tests.sh build/sanitize spec/server spec/regress

# All that runs the program, while its Lua states collect their garbage at every chance (spec/support/eager.c).
# EVERY=1: in each allocation, and not in about one of forty. SANITIZE=ON: with ASan and UBSan too. SPECS=: these.
collect: BUILD = build/collect$(if $(SANITIZE),-sanitize)
collect: SPECS = spec/server spec/regress spec/lua
collect: install-test
	@$(MAKE) --no-print-directory build-quietly BUILD=$(BUILD) CMAKE_FLAGS="-DSOCKDRAWER_EAGER_COLLECTOR=ON \
	  -DBUILD_TESTING=OFF $(if $(SANITIZE),-DSOCKDRAWER_SANITIZE=ON)"
	@SOCKDRAWER_TIME_SCALE=8 SOCKDRAWER_SPECS_AT_A_TIME=$(JOBS) SOCKDRAWER_COLLECT_EVERY=$(EVERY) \
	  $(if $(SANITIZE),SOCKDRAWER_NO_AS_LIMIT=1) scripts/run-tests.sh $(BUILD) $(SPECS)

bench: all
	@luajit bench/run.lua $(ARGS)

# A random life of a pool beside the model of it: 1000 runs. SEED=, RUNS=, SECONDS=, COMMANDS= (one list, again).
model: install-test
	@$(MAKE) --no-print-directory build-quietly
	@SOCKDRAWER_BIN="$(CURDIR)/$(BUILD)/bin/sockdrawer" luajit spec/model/run.lua $(RUNS)

# Random parts killed under live connections that check every answer: SECONDS=120, SEED=.
chaos: install-test
	@$(MAKE) --no-print-directory build-quietly
	@SOCKDRAWER_BIN="$(CURDIR)/$(BUILD)/bin/sockdrawer" luajit spec/model/chaos_run.lua

# A chat of thousands in which handlers fail and workers die: CLIENTS=10000, SECONDS=300, SEED=.
soak: install-test
	@$(MAKE) --no-print-directory build-quietly
	@SOCKDRAWER_BIN="$(CURDIR)/$(BUILD)/bin/sockdrawer" LUA_CPATH="$(CURDIR)/$(BUILD)/lib/?.so;;" \
	  luajit spec/model/soak_run.lua

# What users can write and type, for people and for editors, from the tables that check it.
reference:
	@luajit scripts/write-types.lua options >types/library/sockdrawer/options.lua
	@luajit scripts/write-types.lua control >types/library/sockdrawer/control.lua
	@luajit scripts/write-reference.lua >docs/reference.md

install-run install-test install-check:
	@scripts/install-packages.sh $(@:install-%=%)

clean:
	rm -rf build
