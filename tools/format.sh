#!/usr/bin/env bash
# The one formatter script of CI, `make lint`, `make format` and the pre-commit hook: ruff and clang-format.
# --check changes nothing and fails where something would change.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

native=()
while IFS= read -r -d '' file; do native+=("$file"); done < <(
    find csrc tools/cuda_emulation -type f \( -name '*.h' -o -name '*.cpp' -o -name '*.cuh' -o -name '*.cu' \) -print0
)
if [ "${1:-}" = "--check" ]; then
    ruff check .
    ruff format --check .
    [ "${#native[@]}" -eq 0 ] || clang-format --dry-run -Werror "${native[@]}"
else
    ruff check --fix .
    ruff format .
    [ "${#native[@]}" -eq 0 ] || clang-format -i "${native[@]}"
fi
