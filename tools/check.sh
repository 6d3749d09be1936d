#!/usr/bin/env bash
# What to run before every commit: format, lint, types, fast tests (--no-tests leaves those out).
source "$(dirname "${BASH_SOURCE[0]}")/setup_environment.sh"
cd "$root"
ruff format --check .
ruff check .
mypy autoseg/core autoseg/planning autoseg/ops
if [ "${1:-}" != "--no-tests" ]; then
    python -m pytest -q -p no:cacheprovider -m "not slow" "$@"
fi
