#!/usr/bin/env bash
# The CPU operators with the address and undefined-behaviour sanitizers, and the operators' tests on them, once at each
# instruction set. Everything is built and run in a copy of the project, build/sanitize: the usual extension stays.
#
#   tools/sanitize.sh [PYTHON [PYTEST ARGUMENTS...]]      LEVELS=best: the processor's best instruction set alone
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python="$(command -v "${1:-python3}")"
[ "${python#/}" != "$python" ] || python="$PWD/$python" # the folder changes below
[ "$#" -gt 0 ] && shift
[ "$#" -gt 0 ] || set -- tests/ops -k "not instruction_set" # those start each level themselves
case "$("$python" -c 'import torch; print(torch.backends.cpu.get_cpu_capability())')" in
    AVX512) levels="default avx2 avx512" ;;
    AVX2) levels="default avx2" ;;
    *) levels="default" ;;
esac
[ "${LEVELS:-all}" = all ] || levels="${levels##* }"
compiler="${CXX:-c++}"
runtime=()
for name in libasan.so libubsan.so libstdc++.so; do
    file="$("${compiler%% *}" -print-file-name="$name")"
    if [ "$file" = "$name" ]; then
        echo "error: $compiler has no $name: install g++ with its sanitizer libraries" >&2
        exit 2
    fi
    runtime+=("$file")
done

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
[ ! -d ../shared ] || ln -sfn "$PWD/../shared" build/shared
cd build/sanitize
FA_CUDA=0 FA_SANITIZE=1 "$python" csrc/build.py

# Python itself is not instrumented: the runtime comes first by LD_PRELOAD (libstdc++ for its exceptions), and what the
# interpreter keeps until it exits is no leak of ours.
sanitized() {
    PYTHONPATH="$PWD" OMP_NUM_THREADS="${OMP_NUM_THREADS:-2}" CI= FA_NO_NATIVE= \
        LD_PRELOAD="$(IFS=:; echo "${runtime[*]}")" \
        ASAN_OPTIONS="detect_leaks=0:detect_odr_violation=0:allocator_may_return_null=1:log_path=report" \
        UBSAN_OPTIONS="print_stacktrace=1:halt_on_error=1:log_path=report" \
        timeout "${FA_LIMIT:-1500}" "$python" "$@"
}
rm -f report.*
status=0
# Were another extension found, or none, the tests would pass without a look at this one.
sanitized -c 'import os, sys, torch; from fa_detectron import _C; from fa_detectron.ops import native
sys.exit(not (os.path.samefile(os.path.dirname(_C.__file__), "fa_detectron") and native.loaded()))' || {
    echo "error: the extension in build/sanitize/fa_detectron does not load" >&2
    status=1
    levels=""
}
for level in $levels; do
    echo "== FA_CPU_CAPABILITY=$level"
    FA_CPU_CAPABILITY="$level" sanitized -m pytest -q -x -p no:cacheprovider "$@" || status=1
done
# Not on the standard error: pytest keeps that to itself until a test ends, and here the process ends first.
for report in report.*; do
    [ -f "$report" ] && cat "$report"
done
exit "$status"
