#!/usr/bin/env bash
# Compares autoseg with the peer, nnU-Net 2.8.1, on this machine. The peer goes into an environment of its own, once.
# Usage: bash tools/benchmark/run.sh --data DIR [options of compare.py]
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$here/../setup_environment.sh"
peer="${AUTOSEG_BENCHMARK_PEER:-$here/.peer}"
if [ ! -f "$peer/.installed" ]; then
    echo "installing nnunetv2 2.8.1 into $peer (some minutes, once)"
    python -m venv "$peer"
    "$peer/bin/python" -m pip install --quiet --disable-pip-version-check nnunetv2==2.8.1
    touch "$peer/.installed"
fi
python "$here/compare.py" --peer "$peer" "$@"
