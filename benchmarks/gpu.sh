#!/usr/bin/env bash
# What a GPU must tell us, for a machine that is there for fifteen minutes: two calls, each with one archive.
#
#   bash benchmarks/gpu.sh a      420 s: build, the operators' tests, ceilings, tables against the peers
#   bash benchmarks/gpu.sh b      280 s: profiles of the kernels, compute-sanitizer, a short training with AMP
#   bash benchmarks/gpu.sh a --plan     prints the stages and their limits, runs nothing
#
# PYTHON=python3; OUT=output/gpu: where gpu-a.tar.gz and gpu-b.tar.gz go, at most 16 MiB each.
# Needs torch, torchvision, pytest, hypothesis, ninja, a C++ compiler and the CUDA toolkit of torch's release; the
# training needs Detectron2, the profiles ncu, the sanitizer compute-sanitizer: what is missing is said and skipped.
#
# Each stage has a limit and a log; the limits of a call add up to its time. One that fails stops no other; the exit
# status says so. Tables are written row by row: a stage that is cut leaves what it has. The extension is built in
# place for the visible GPU alone. Without a GPU it is a rehearsal: CPU operators, tiny sizes.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
call="${1:-}" plan="${2:-}"
case "$call-$plan" in a- | b- | a---plan | b---plan) ;; *) echo "usage: benchmarks/gpu.sh a|b [--plan]" >&2 && exit 2 ;; esac
python="${PYTHON:-python3}"
out="${OUT:-output/gpu}"
[ -n "$plan" ] || { mkdir -p "$out" && out="$(cd "$out" && pwd)"; }
logs="$out/$call"
summary="$logs/summary.txt"
failed=0
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" CI=
unset NVIDIA_TF32_OVERRIDE TORCH_ALLOW_TF32_CUBLAS_OVERRIDE  # tests and tables choose the precision themselves

# stage NAME SECONDS COMMAND...
stage() {
    local name="$1" limit=$2 begin=$SECONDS status=0
    shift 2
    if [ -n "$plan" ]; then
        planned=$((planned + limit))
        printf '%4d s  %-10s %s\n' "$limit" "$name" "$*"
        return
    fi
    timeout -k 5 "$limit" "$@" >"$logs/$name.log" 2>&1 || status=$?
    case "$status" in
        0) echo "ok       $name: $((SECONDS - begin)) s" ;;
        3) echo "skipped  $name: $(tail -n 1 "$logs/$name.log")" ;;
        124 | 137) echo "TIMEOUT  $name: after $limit s" && failed=1 ;;
        *) echo "FAILED   $name: status $status" && failed=1 ;;
    esac >>"$summary"
    tail -n 1 "$summary"
}

# table NAME SECONDS ARGUMENTS...: one of benchmarks/gpu.py
table() {
    stage "$1" "$2" "$python" benchmarks/gpu.py "${@:3}" "${small[@]}" --json "$logs/$1.json"
}

# needs COMMAND NAME: as a stage's command, says what is missing and skips (status 3)
needs='command -v "$0" >/dev/null || { echo "no $0 on PATH"; exit 3; }; exec "$0" "$@"'

planned=0
small=() kernels=("$python" benchmarks/gpu_kernels.py) large=(--large)
if [ -z "$plan" ]; then
    rm -rf "$logs" && mkdir -p "$logs" && : >"$summary"
    capability="$("$python" -c 'import torch; print("%d.%d" % torch.cuda.get_device_capability())' 2>/dev/null)" || capability=""
    if [ -n "$capability" ]; then
        export FA_CUDA=1 TORCH_CUDA_ARCH_LIST="$capability"
    else
        echo "no CUDA device: a rehearsal on the CPU" | tee -a "$summary"
        small=(--device cpu --size 64 96 --batches 1 --classes 3 --repeats 2 --spreads 2 --boxes 7)
        kernels+=(--device cpu) large=()
        export FA_CUDA=0
    fi
fi
loaded='from fa_detectron.ops import native; s = native.status(); print(s); assert s.loaded, s.reason'
# The second launch of each: the first ones of a process are not representative.
ours='regex:columns_kernel|points_kernel|scatter_kernel|window_kernel|rows_kernel|planes_kernel'

if [ "$call" = a ]; then
    stage machine 10 bash -c 'nvidia-smi; nvcc --version; nproc; "$0" -c "import torch; print(torch.__version__)"' "$python"
    stage build 130 "$python" csrc/build.py
    stage loaded 15 "$python" -c "$loaded"
    stage tests 70 "$python" -m pytest -q -p no:cacheprovider tests/ops/test_deform_conv_cuda.py tests/ops/test_native_loss_cuda.py
    table ceilings 25 ceilings --seconds 1
    table deform 90 deform --seconds 1
    table chunks 30 chunks --seconds 0.5
    table loss 30 loss --seconds 1
    table decode 15 decode --seconds 1
else
    stage build 85 "$python" csrc/build.py  # seconds where call A has built here
    stage loaded 15 "$python" -c "$loaded"
    stage profile 55 bash -c "$needs" ncu --set full --kernel-id "::$ours:2" \
        --force-overwrite --export "$logs/kernels" "${kernels[@]}" "${large[@]}"
    # PyTorch's caching allocator would hide reads beyond a tensor.
    for tool in memcheck racecheck; do
        stage "$tool" 35 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 bash -c "$needs" compute-sanitizer --tool "$tool" \
            --kernel-regex kns=_ZN2fa --error-exitcode 9 "${kernels[@]}"
    done
    stage training 55 "$python" benchmarks/gpu_training.py --iterations 200 ${small[@]:+--rehearse}
fi
if [ -n "$plan" ]; then
    echo "$planned s in all"
    exit
fi
for log in "$logs"/*.log; do
    grep '^|' "$log" >/dev/null && { echo; echo "${log##*/}"; echo; grep '^|' "$log"; }
done | tee "$logs/tables.md"
find "$logs" -name '*.log' -size +512k -exec sh -c 'tail -c 500000 "$1" >"$1.end" && mv "$1.end" "$1"' sh {} \;
archive="$out/gpu-$call.tar.gz"
tar -czf "$archive" -C "$out" "$call"
if [ "$(stat -c %s "$archive")" -gt $((16 << 20)) ]; then  # the profile is what can be large
    echo "left out of the archive, which would be too large: the profile" | tee -a "$summary"
    tar -czf "$archive" --exclude '*.ncu-rep' -C "$out" "$call"
fi
echo "archive: $archive"
exit "$failed"
