#!/usr/bin/env bash
# The one script of `make lint` (--check, which changes nothing) and `make format`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

native=()
while IFS= read -r -d '' file; do native+=("$file"); done < <(
    find csrc tools -type f \( -name '*.h' -o -name '*.cpp' -o -name '*.cuh' -o -name '*.cu' \) -print0
)
if [ "${1:-}" = "--check" ]; then
    ruff check .
    ruff format --check .
    clang-format --dry-run -Werror "${native[@]}"
    typos
    mypy
else
    ruff check --fix .
    ruff format .
    clang-format -i "${native[@]}"
fi
