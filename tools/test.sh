#!/usr/bin/env bash
# All checks and all tests, from nothing: sets up its own environment first.
source "$(dirname "${BASH_SOURCE[0]}")/setup_environment.sh"
cd "$root"
bash tools/check.sh --no-tests
python -m pytest -q -p no:cacheprovider --durations=10 "$@"
