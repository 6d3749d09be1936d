# Sourced by the other scripts: makes a virtual environment in the clone, with pinned dependencies, once.
# Asks for Python 3.10 or newer and nothing else.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="$root/.venv"
python=""
for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11 python3.10 python; do
    if command -v "$candidate" >/dev/null 2>&1 &&
        "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
        python="$candidate"
        break
    fi
done
if [ -z "$python" ]; then
    echo "autoseg needs Python 3.10 or newer; none was found. Install one, or name it: PYTHON=/path/to/python3 bash $0" >&2
    exit 1
fi
stamp="$venv/.installed"
wanted="$(cat "$root/constraints.txt" "$root/pyproject.toml" | cksum)"
if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$wanted" ]; then
    echo "setting up $venv with $("$python" --version) (some minutes, once)"
    "$python" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --constraint "$root/constraints.txt" \
        --editable "$root[dev]"
    echo "$wanted" >"$stamp"
fi
export PATH="$venv/bin:$PATH"
