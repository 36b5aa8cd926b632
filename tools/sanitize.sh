#!/usr/bin/env bash
# Builds the CPU operators with the address and undefined-behaviour sanitizers (with checks of conversions from float to
# integer) and runs the operators' tests, once per instruction set. Everything happens in a copy of the project,
# build/sanitize: the normal extension stays as it is.
#
#   tools/sanitize.sh [PYTHON [PYTEST ARGUMENTS...]]      LEVELS=best: only the processor's best instruction set
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. tools/sanitizers.sh
find_python "${1:-}"
[ "$#" -gt 0 ] && shift
# Without the tests that start each level themselves, and those that measure memory and time.
[ "$#" -gt 0 ] || set -- tests/ops tests/fuzz/test_ops.py -k "not instruction_set and not test_loss_cost"
case "$("$python" -c 'import torch; print(torch.backends.cpu.get_cpu_capability())')" in
    AVX512) levels="default avx2 avx512" ;;
    AVX2) levels="default avx2" ;;
    *) levels="default" ;;
esac
[ "${LEVELS:-all}" = all ] || levels="${levels##* }"
use_sanitizers libasan libubsan

# Copies only files that differ, so that ninja compiles only what changed. The built extension is not copied.
files() { find csrc fa_detectron tests benchmarks -type f ! -name '*.so' ! -name '*.pyc' -print0; }
mkdir -p build/sanitize/{csrc,fa_detectron,tests,benchmarks}
files | while IFS= read -r -d '' file; do
    cmp -s "$file" "build/sanitize/$file" && continue
    mkdir -p "build/sanitize/$(dirname "$file")"
    cp "$file" "build/sanitize/$file"
done
(cd build/sanitize && files) | while IFS= read -r -d '' file; do
    [ -f "$file" ] || rm "build/sanitize/$file"
done
cp pyproject.toml build/sanitize/
cd build/sanitize
FA_CUDA=0 FA_SANITIZE=address,undefined,float-cast-overflow "$python" csrc/build.py

rm -f report.*
status=0
check_extension || {
    status=1
    levels=""
}
for level in $levels; do
    echo "== FA_CPU_CAPABILITY=$level"
    FA_CPU_CAPABILITY="$level" sanitized -m pytest -q -x -p no:cacheprovider "$@" || status=1
done
print_reports
exit "$status"
