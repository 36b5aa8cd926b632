#!/usr/bin/env bash
# Print the interpreter for tools/setup_environment.py. $1: the environment's folder, empty for the active one.
set -euo pipefail

if [ -z "${1:-}" ]; then
    command -v python3 && exit 0
    echo "error: no python3 on the PATH" >&2
    exit 2
fi
if [ -x "$1/bin/python" ] && "$1/bin/python" -c "import pip" 2>/dev/null; then # it exists: its own one will do
    echo "$1/bin/python"
    exit 0
fi
# A name on the PATH can be a shim of an interpreter that is not there: run it. venv and Python.h come apart on Debian.
usable='import sys, ensurepip, venv; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))'
with_headers="import os, sysconfig; open(os.path.join(sysconfig.get_path('include'), 'Python.h'))"
if [ -n "${PYTHON:-}" ]; then
    "$PYTHON" -c "$usable" 2>/dev/null && command -v "$PYTHON" && exit 0
    echo "error: PYTHON=$PYTHON is not a Python 3.11 or 3.12 with the venv module" >&2
    exit 2
fi
for test in "$usable; $with_headers" "$usable"; do
    for name in python3.11 python3.12 python3 python; do
        if "$name" -c "$test" 2>/dev/null; then
            command -v "$name"
            exit 0
        fi
    done
done
echo "error: no Python 3.11 or 3.12 with the venv module found; PYTHON=/path/to/python3.11 make setup says which" >&2
exit 2
