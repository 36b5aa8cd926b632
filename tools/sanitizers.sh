# shellcheck shell=bash
# Sourced by tools/sanitize.sh and tools/cuda_emulation/run.sh: runs Python on an extension that is built with
# sanitizers. Python itself is not instrumented, so LD_PRELOAD loads their libraries first, and libstdc++ for exceptions.

# find_python [PYTHON]: sets `python` to an absolute path, for the folder changes.
find_python() {
    python="$(command -v "${1:-python3}")"
    [ "${python#/}" != "$python" ] || python="$PWD/$python"
}

# use_sanitizers LIBRARY...: sets `preloaded`; libasan and libubsan, or libtsan.
use_sanitizers() {
    local compiler="${CXX:-c++}" name file files=()
    for name in "$@" libstdc++; do
        file="$("${compiler%% *}" -print-file-name="$name.so")"
        if [ "$file" = "$name.so" ]; then
            echo "error: $compiler has no $name.so: install g++ with its sanitizer libraries" >&2
            exit 2
        fi
        files+=("$file")
    done
    preloaded="$(IFS=:; echo "${files[*]}")"
}

# sanitized ARGUMENTS...: Python on the project in the current folder. Leaks are not checked: the interpreter
# keeps memory until it exits. `asan_options`: further options.
sanitized() {
    PYTHONPATH="$PWD" OMP_NUM_THREADS="${OMP_NUM_THREADS:-2}" CI= FA_NO_NATIVE= LD_PRELOAD="$preloaded" \
        ASAN_OPTIONS="detect_leaks=0:detect_odr_violation=0:allocator_may_return_null=1:log_path=report:${asan_options:-}" \
        UBSAN_OPTIONS="print_stacktrace=1:halt_on_error=1:log_path=report" \
        TSAN_OPTIONS="halt_on_error=1:report_signal_unsafe=0:ignore_noninstrumented_modules=1:log_path=report" \
        timeout "${FA_LIMIT:-1500}" "$python" "$@"
}

# With another extension, or none, the tests would pass without testing this one.
check_extension() {
    sanitized -c 'import os, sys, torch; from fa_detectron import _C; from fa_detectron.ops import native
sys.exit(not (os.path.samefile(os.path.dirname(_C.__file__), "fa_detectron") and native.loaded()))' || {
        echo "error: the extension in $PWD/fa_detectron does not load" >&2
        return 1
    }
}

# The sanitizers write to files: pytest holds back stderr until a test ends, and here the process ends first.
print_reports() {
    local report
    for report in report.*; do
        [ ! -f "$report" ] || cat "$report"
    done
}
