#!/usr/bin/env bash
# The CPU operators with the address and undefined-behaviour sanitizers, and the operators' tests on them, once at each
# instruction set: among them that no float becomes an integer before its range is known. Everything is built and run in
# a copy of the project, build/sanitize: the usual extension stays.
#
#   tools/sanitize.sh [PYTHON [PYTEST ARGUMENTS...]]      LEVELS=best: the processor's best instruction set alone
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. tools/sanitizers.sh
find_python "${1:-}"
[ "$#" -gt 0 ] && shift
# Left out: what starts each level itself, and what measures memory and time, which the sanitizers change.
[ "$#" -gt 0 ] || set -- tests/ops tests/fuzz/test_ops.py -k "not instruction_set and not test_loss_cost"
case "$("$python" -c 'import torch; print(torch.backends.cpu.get_cpu_capability())')" in
    AVX512) levels="default avx2 avx512" ;;
    AVX2) levels="default avx2" ;;
    *) levels="default" ;;
esac
[ "${LEVELS:-all}" = all ] || levels="${levels##* }"
use_sanitizers libasan libubsan

# Only files that differ, with the time of the copy: ninja then compiles what changed. The built extension stays out.
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
