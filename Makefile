# `make demo` shows it, `make test` proves it. The work is in scripts/.
.PHONY: help setup build demo test bench check fmt clippy

help:
	@echo 'make setup   packages, Rust, ONNX Runtime, models, clips; seconds when done'
	@echo 'make demo    builds, starts the appliance, calls it with a clip, shows the recording'
	@echo 'make test    formatting, clippy, every test (what CI runs)'
	@echo 'make bench   CPU, delay and memory of a call beside baresip, in one run'
	@echo 'make build   target/release/eyeline'
	@echo 'make check | fmt | clippy   quick ones while working'

setup:
	@scripts/setup.sh

build:
	@scripts/setup.sh release
	@scripts/cargo build --release

demo:
	@scripts/demo.sh

test: setup
	@scripts/test.sh

bench:
	@scripts/setup.sh release
	@bench/run

check:
	@scripts/cargo check --all-targets --features faults

fmt:
	@scripts/cargo fmt

clippy:
	@scripts/cargo clippy --all-targets --features faults -- -D warnings
