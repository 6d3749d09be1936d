#!/usr/bin/env bash
# All checks and all tests, from nothing: sets up its own environment first.
source "$(dirname "${BASH_SOURCE[0]}")/setup_environment.sh"
cd "$root"
bash tools/check.sh --no-tests
# Pages are tested in a browser; without one, and where it cannot be installed, those tests are skipped.
if ! command -v chromedriver >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing chromium for the tests of pages"
    { apt-get update -q && apt-get install -y -q --no-install-recommends chromium chromium-driver; } >/dev/null 2>&1 ||
        echo "chromium could not be installed: the tests of pages in a browser are skipped"
fi
python -m pytest -q -p no:cacheprovider --durations=10 "$@"
