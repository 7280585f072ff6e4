# What one does with this tree. On a fresh Debian machine `make demo` or `make test` is all that
# is needed. Setting up is what uses root (sudo, or being root): it says what it installs and why,
# and does nothing where nothing is missing. Targets that compile run as much of it as they need
# first: `build`, `check` and `install` what compiling needs, `demo` also what images need, `test`
# what tests compare with, `bench` the other systems, too.

CARGO   ?= cargo
PREFIX  ?= /usr/local
DESTDIR ?=
SECONDS ?= 60
# where cargo puts things; CARGO_TARGET_DIR is cargo's own name for it
TARGET  := $(or $(CARGO_TARGET_DIR),target)
RELEASE := $(TARGET)/release/treestrap

.PHONY: help setup setup-build setup-demo setup-bench build demo test bench bench-docs views check equality fidelity fidelity-unpack \
	dropin install fuzz

help:
	@echo 'make demo       set up, build, make an ARMv7 image without root and look into it'
	@echo 'make test       set up, run all tests'
	@echo 'make check      formatting, lints, import directions, generated help and man pages'
	@echo 'make build      the program, in $(RELEASE)'
	@echo 'make setup      install what is missing, which may use root; the other targets run what they need of it'
	@echo 'make bench      time images beside other systems, and each stage; takes an hour'
	@echo 'make bench-docs what it measured, into docs/benchmarks.md'
	@echo 'make views      time file-heavy work in each view of the sandbox'
	@echo 'make equality   foreign images with and without acceleration, compared; takes an hour'
	@echo 'make fidelity   images beside what mmdebstrap makes of the same packages; takes an hour'
	@echo 'make fidelity-unpack   real packages, composed and unpacked by dpkg, compared; as root, takes an hour'
	@echo 'make dropin     folders of multistrap, debootstrap and mmdebstrap, finished and compared, and multistrap itself; as root'
	@echo 'make fuzz       every parser of foreign bytes, SECONDS=$(SECONDS) each'
	@echo 'make install    below $$DESTDIR$$PREFIX ($(DESTDIR)$(PREFIX))'

setup:
	@tests/setup.sh tests

setup-build:
	@tests/setup.sh build

setup-demo:
	@tests/setup.sh demo

setup-bench:
	@tests/setup.sh bench

build: setup-build
	$(CARGO) build --release --locked

demo: setup-demo build
	@tests/demo.sh $(RELEASE)

# Kernel-dependent tests skip, and say so, where the machine lacks something;
# TREESTRAP_TESTS_MUST_RUN=all (or a list of tiers, see tests/common/tier.rs) makes a skip a failure.
test: setup
	$(CARGO) test --workspace --locked

check: setup-build
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	$(CARGO) test --locked --test architecture
	$(CARGO) test --locked --lib cli::

# Best on a machine that does nothing else. BENCH has options: --quick, --only macro|pairs|stages|images, --rounds N.
bench: setup-bench build
	@tests/bench/run $(RELEASE) --out $(TARGET)/bench $(BENCH)

bench-docs:
	@tests/bench/render $(TARGET)/bench/results.json docs

views: setup-demo build
	@tests/views.sh $(RELEASE)

# Needs tests/setup.sh's account and the real archive; IMAGES names some of the sets.
equality: setup build
	@tests/equality/run $(RELEASE) --native $(IMAGES)

# As above, with mmdebstrap. docs/fidelity.md has what came out.
fidelity: setup build
	@tests/fidelity/run $(RELEASE) $(IMAGES)

# Needs root, for owners, and the real archive; SETS names some of tests/fidelity/unpack.toml.
fidelity-unpack: build
	@tests/fidelity/unpack $(RELEASE) $(SETS)

# Needs root, since the tools do where they make all of a tree, and the real archive; CASES names some folders.
# docs/dropin.md and docs/from-multistrap.md have what came out.
dropin: setup build
	@tests/dropin/folders $(RELEASE) $(CASES)
	@tests/dropin/multistrap $(RELEASE)

fuzz:
	@fuzz/run.sh $(SECONDS)

install: build
	install -D -m 0755 $(RELEASE) $(DESTDIR)$(PREFIX)/bin/treestrap
	install -d $(DESTDIR)$(PREFIX)/lib/treestrap
	ln -sf ../../bin/treestrap $(DESTDIR)$(PREFIX)/lib/treestrap/multistrap
	install -d $(DESTDIR)$(PREFIX)/share/man/man1
	$(RELEASE) man $(DESTDIR)$(PREFIX)/share/man/man1
	install -d $(DESTDIR)$(PREFIX)/share/bash-completion/completions \
		$(DESTDIR)$(PREFIX)/share/zsh/site-functions $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d
	$(RELEASE) completions bash >$(DESTDIR)$(PREFIX)/share/bash-completion/completions/treestrap
	$(RELEASE) completions zsh >$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_treestrap
	$(RELEASE) completions fish >$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/treestrap.fish
	install -D -m 0644 apparmor/treestrap $(DESTDIR)$(PREFIX)/share/treestrap/apparmor/treestrap
	install -D -m 0644 -t $(DESTDIR)$(PREFIX)/share/doc/treestrap README.md CHANGELOG.md LICENSE-MIT LICENSE-APACHE
