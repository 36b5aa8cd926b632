#!/usr/bin/env bash
# Builds, tests and times the operators on a GPU in one call, within 9 minutes. Needs torch, torchvision, pytest,
# pytest-timeout, hypothesis, ninja, a C++ compiler and the CUDA toolkit of torch's release; no Detectron2.
#
#   bash benchmarks/gpu.sh                     PYTHON=python3, OUT=output/gpu: logs and tables; SECONDS_IN_ALL=530
#
# Every stage has its own log, and its own share of the time in all (more for a slow machine). One that fails does not
# stop the later ones; the exit status says so. The extension is built for the visible GPU alone, in place. Without a
# GPU it is a dry run: CPU operators, tiny sizes.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python="${PYTHON:-python3}"
out="${OUT:-output/gpu}"
total="${SECONDS_IN_ALL:-530}"
end=$((SECONDS + total))
mkdir -p "$out"
out="$(cd "$out" && pwd)"
: >"$out/summary.txt"
failed=0
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" CI=
unset NVIDIA_TF32_OVERRIDE TORCH_ALLOW_TF32_CUBLAS_OVERRIDE  # tests and tables choose the precision themselves

# stage NAME SECONDS COMMAND...: at most that many seconds (of 530 in all), and not beyond the end.
stage() {
    local name="$1" limit=$(($2 * total / 530)) left=$((end - SECONDS)) begin=$SECONDS status=0
    shift 2
    if [ "$left" -lt 5 ]; then
        echo "skipped  $name: no time left" | tee -a "$out/summary.txt"
        failed=1
        return
    fi
    [ "$limit" -le "$left" ] || limit=$left
    timeout -k 5 "$limit" "$@" >"$out/$name.log" 2>&1 || status=$?
    case "$status" in
        0) echo "ok       $name: $((SECONDS - begin)) s" ;;
        124 | 137) echo "TIMEOUT  $name: after $limit s, see $out/$name.log" && failed=1 ;;
        *) echo "FAILED   $name: status $status, see $out/$name.log" && failed=1 ;;
    esac >>"$out/summary.txt"
    tail -n 1 "$out/summary.txt"
}

capability="$("$python" -c 'import torch; print("%d.%d" % torch.cuda.get_device_capability())' 2>/dev/null)" || capability=""
if [ -n "$capability" ]; then
    small=()
    export FA_CUDA=1 TORCH_CUDA_ARCH_LIST="$capability"
    jobs=4
else
    echo "no CUDA device: a dry run on the CPU"
    small=(--device cpu --size 64 96 --images 1 --classes 3 --repeats 3)
    export FA_CUDA=0
    jobs=2
fi

stage machine 20 bash -c 'nvidia-smi; nvcc --version; "$0" -m torch.utils.collect_env' "$python"
# pytest-xdist shares the tests between processes where it is there; the GPU's tests run in one, apart.
parallel=()
"$python" -c 'import xdist' 2>/dev/null && parallel=(-n "$jobs" --dist loadfile)
stage build 200 "$python" csrc/build.py
stage loaded 60 "$python" -c 'from fa_detectron.ops import native; s = native.status(); print(s); assert s.loaded, s.reason'
stage tests-cuda 150 "$python" -m pytest -q -p no:cacheprovider tests/ops/test_deform_conv_cuda.py tests/ops/test_native_loss_cuda.py
stage bench-deform 90 "$python" benchmarks/gpu.py deform "${small[@]}" --json "$out/deform.json"
stage bench-loss 80 "$python" benchmarks/gpu.py loss "${small[@]}" --json "$out/loss.json"
stage bench-decode 40 "$python" benchmarks/gpu.py decode "${small[@]}" --json "$out/decode.json"
no_sanitizer=""
if [ -z "$capability" ]; then
    no_sanitizer="no CUDA device"
elif ! command -v compute-sanitizer >/dev/null; then
    no_sanitizer="no compute-sanitizer on PATH"
elif ! timeout 60 compute-sanitizer "$python" -c 'import torch; torch.ones(1).cuda()' >"$out/sanitizer.log" 2>&1; then
    no_sanitizer="compute-sanitizer cannot use this device, see $out/sanitizer.log"
fi
if [ -z "$no_sanitizer" ]; then
    for tool in memcheck initcheck racecheck synccheck; do
        # PyTorch's caching allocator would hide reads beyond a tensor; without it no graph can be captured.
        stage "sanitizer-$tool" 60 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$tool" \
            --error-exitcode 9 "$python" -m pytest -q -x -p no:cacheprovider \
            tests/ops/test_deform_conv_cuda.py tests/ops/test_native_loss_cuda.py \
            -k "(test_levels or (test_loss_and_gradients and giou and 3) or test_decoding) and not graph"
    done
else
    echo "skipped  sanitizer: $no_sanitizer" | tee -a "$out/summary.txt"
fi
# Last, for continuous integration runs them, too; the slow instruction-set loops of the CPU are left to it.
stage tests-all 150 env OMP_NUM_THREADS=1 "$python" -m pytest -q -p no:cacheprovider "${parallel[@]}" \
    -k "not instruction_set and not cuda" tests/ops tests/layers
for table in deform loss decode; do
    [ ! -f "$out/bench-$table.log" ] || { echo; grep '^|' "$out/bench-$table.log"; }
done | tee "$out/tables.md"
echo "logs and tables: $out"
exit "$failed"
