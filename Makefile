# The commands of the README. CMakeLists.txt is the build definition; this only calls it.
BUILD ?= build
CMAKE ?= cmake
JOBS := $(shell nproc)
export DEBIAN_FRONTEND = noninteractive

.PHONY: all run test check sanitize bench clean install-run install-test install-check

all: $(BUILD)/Makefile
	@$(CMAKE) --build $(BUILD) --parallel $(JOBS) $(QUIET)

$(BUILD)/Makefile: CMakeLists.txt
	@$(CMAKE) -S . -B $(BUILD) $(CMAKE_FLAGS) $(QUIET)

# A machine without the test packages can still build and run.
run: QUIET = >/dev/null
run: CMAKE_FLAGS = -DBUILD_TESTING=OFF
run: BUILD = build/run
run:
	@scripts/install-packages.sh run
	@$(MAKE) --no-print-directory all BUILD=$(BUILD) CMAKE_FLAGS="$(CMAKE_FLAGS)" QUIET="$(QUIET)"
	@exec demo/run.sh $(BUILD)/bin/sockdrawer

test: install-test
	@$(MAKE) --no-print-directory all QUIET=">/dev/null"
	@scripts/run-tests.sh $(BUILD) spec

check: install-check
	@scripts/run-checks.sh

sanitize: install-test
	@$(MAKE) --no-print-directory all BUILD=build/sanitize CMAKE_FLAGS=-DSOCKDRAWER_SANITIZE=ON QUIET=">/dev/null"
	@SOCKDRAWER_TIME_SCALE=4 scripts/run-tests.sh build/sanitize spec/server spec/regress

bench: all
	@luajit bench/run.lua $(ARGS)

install-run install-test install-check:
	@scripts/install-packages.sh $(@:install-%=%)

clean:
	rm -rf build
