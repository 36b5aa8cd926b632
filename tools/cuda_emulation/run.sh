#!/usr/bin/env bash
# The CUDA operators without a GPU: g++ compiles csrc/*/cuda for an emulation of CUDA's threads. Runs the emulation's own
# tests, then the operators' tests on it: under the address and undefined-behaviour sanitizers, and under the thread
# sanitizer, which finds data races. Everything happens in build/emulation: the normal extension stays as it is.
#
#   tools/cuda_emulation/run.sh [PYTHON [PYTEST ARGUMENTS...]]
#
# SANITIZERS="address thread"; ORDERS="1 forward backward" of blocks and threads (a number is the seed of a shuffle)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
. tools/sanitizers.sh
find_python "${1:-}"
[ "$#" -gt 0 ] && shift
own="tools/cuda_emulation/tests"
if [ "$#" -eq 0 ]; then
    "$python" -m pytest -q -x -n "${TEST_JOBS:-2}" "$own"
    set -- tests/ops "$own/devices.py" "$own/head_devices.py"
fi
# Fresh memory has all bits set, which is NaN: what is read before it is written shows.
asan_options="malloc_fill_byte=255:max_malloc_fill_size=67108864"
root="$PWD"
status=0
export FA_CUDA_CHUNK="${FA_CUDA_CHUNK:-48}"  # positions: small tests go through many chunks, one a patch and more
for sanitizer in ${SANITIZERS:-address thread}; do
    case "$sanitizer" in
        address) flags=address,undefined libraries="libasan libubsan" ;;
        thread) flags=thread libraries=libtsan ;;
        *) echo "error: SANITIZERS: $sanitizer is neither address nor thread" >&2 && exit 2 ;;
    esac
    deselected=()
    while read -r test _; do
        case "$test" in "" | "#"*) continue ;; thread:*) [ "$sanitizer" = thread ] || continue ;; esac
        deselected+=(--deselect "${test#thread:}")
    done <"$own/deselected.txt"
    # shellcheck disable=SC2086 # several words
    use_sanitizers $libraries
    "$python" tools/cuda_emulation/translate.py "build/emulation/$sanitizer"
    cd "build/emulation/$sanitizer"
    FA_CUDA=0 FA_SANITIZE="$flags" "$python" csrc/build.py
    rm -f report.*
    if check_extension; then
        for order in ${ORDERS:-1 forward backward}; do
            echo "== $sanitizer sanitizer, FA_EMULATION_ORDER=$order"
            FA_EMULATION_ORDER="$order" sanitized -m pytest -q -x -n "${TEST_JOBS:-2}" -p no:cacheprovider \
                "${deselected[@]}" "$@" || status=1
        done
    else
        status=1
    fi
    print_reports
    cd "$root"
done
exit "$status"
