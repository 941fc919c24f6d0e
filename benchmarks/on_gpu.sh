#!/usr/bin/env bash
# What a day with a GPU is for: PyCUDA on the real driver, stream capture, the power meter, training
# on CUDA, TensorRT-RTX. One NVIDIA GPU, at most 11 minutes in all.
#
#   bash benchmarks/on_gpu.sh [--dry-run] [part ...]
#
# Parts, each a process of its own with its own time limit (benchmarks/gpu/PART.py):
#   wheels    install what was carried along (always first); compile PyCUDA if it has to be
#   driver    PyCUDA, `ffn_edge.device.gpu` and the ring of frames; what the tests' emulator believes
#   capture   copies as a CUDA graph, by ctypes on a PyCUDA stream, against direct calls
#   power     NVML's meter against nvidia-smi, under load and idle
#   train     float16 with an overflow, --resume, evaluation: CUDA against itself and the CPU
#   step      a training step of TSM-ResNet-50 in bfloat16, by order, against three passes
#   demo      `ffn-edge train demo` on a few rendered clips
#   traces    records every engine's latency beside a competing process, and the meter after a step
#   rtx       TensorRT-RTX: does it take the card; if so, all networks
#   int8      engines of TSM-ResNet-50 in INT8, float16 and float32, where a TensorRT takes the card
#
# With --dry-run no GPU is needed: `driver`, `capture` and `int8` run on the emulator, `power` on a
# made-up meter, the others on the CPU with a tiny network; some rows are skipped and say why. 3
# minutes.
#
# Needs: Linux on x86-64, an NVIDIA driver with CUDA 12 or 13 and nvidia-smi; Python with torch,
# torchvision, numpy, opencv, onnx, onnxscript, onnxruntime, safetensors, filelock, click, rich,
# tensorboard, scikit-image, av, nvidia-ml-py, pytest, pip. ffn-edge itself need not be installed, and
# there need be no network. Environment:
#   PYTHON           the interpreter        (.venv/bin/python if it is there, else python3)
#   OUT              logs, a file a part, and traces (on_gpu_results)
#   FFN_EDGE_WHEELS  what to install        (wheels); compiling PyCUDA needs g++ and CUDA's headers
#   FFN_EDGE_SITE    where to install it    (a temporary folder); kept, and used as it is found
#
# Fetch the wheels elsewhere, here for Python 3.12 (without them, `driver`, `rtx` and `int8` do not
# run):
#   pip download --no-deps --no-binary pycuda -d wheels pycuda==2026.1
#   pip download --no-deps -d wheels --only-binary=:all: --python-version 3.12 \
#       --platform manylinux_2_28_x86_64 tensorrt-rtx-cu13-{libs,bindings}==1.7.1.116
#   pip wheel --no-deps -w wheels tensorrt-rtx-cu13==1.7.1.116
#   pip download --no-deps -d wheels --only-binary=:all: --python-version 3.12 \
#       --platform manylinux_2_28_x86_64 av==18.1.0    # if it is not there
# A wheel too large to carry may come in parts: split -b 60m NAME.whl NAME.whl.part-
#
# The exit code is 0 if all that was expected came true.
set -u
cd "$(dirname "$0")/.."

PARTS=(wheels driver capture power train step demo traces rtx int8)
declare -A LIMIT_S=([wheels]=120 [driver]=90 [capture]=40 [power]=50 [train]=90 [step]=80
    [demo]=90 [traces]=100 [rtx]=200 [int8]=150)
ALL_S=630 # of all parts together

dry=()
chosen=()
for argument in "$@"; do
    if [ "$argument" = --dry-run ]; then
        dry=(--dry-run)
    elif [ "$argument" = --help ]; then
        sed -n '2,/^set/s/^# \{0,1\}//p' "$0"
        exit 0
    elif [ -n "${LIMIT_S[$argument]:-}" ]; then
        chosen+=("$argument")
    else
        echo "there is no part $argument; the parts are ${PARTS[*]}" >&2
        exit 2
    fi
done
[ "${#chosen[@]}" -gt 0 ] || chosen=("${PARTS[@]}")
[ "${#dry[@]}" -gt 0 ] || [ "${chosen[0]}" = wheels ] || chosen=(wheels "${chosen[@]}")

if [ -z "${PYTHON:-}" ]; then
    PYTHON=python3
    [ -x .venv/bin/python ] && PYTHON=.venv/bin/python
fi
export OUT="${OUT:-on_gpu_results}" FFN_EDGE_WHEELS="${FFN_EDGE_WHEELS:-wheels}"
mkdir -p "$OUT"
if [ -z "${FFN_EDGE_SITE:-}" ]; then
    FFN_EDGE_SITE="$(mktemp -d)"
    trap 'rm -rf "$FFN_EDGE_SITE"' EXIT
fi
export FFN_EDGE_SITE PYTHONPATH="$FFN_EDGE_SITE:$PWD" PYTHONUNBUFFERED=1
export PATH="/usr/local/cuda/bin:$PATH"

summary="| part    | result      | seconds |
|---------|-------------|---------|"
failed=0
for part in "${chosen[@]}"; do
    limit=${LIMIT_S[$part]}
    if [ "${#dry[@]}" -gt 0 ]; then
        limit=600 # any machine may do it
    else # SECONDS is the shell's own clock
        limit=$((limit < ALL_S - SECONDS ? limit : ALL_S - SECONDS))
    fi
    began=$SECONDS
    if [ "$limit" -le 5 ]; then
        code=124
    else
        timeout --kill-after=5 "$limit" "$PYTHON" -m "benchmarks.gpu.$part" "${dry[@]}" \
            2> >(tee "$OUT/$part.err" >&2) | tee "$OUT/$part.log"
        code=${PIPESTATUS[0]}
    fi
    case $code in
        0) result=pass ;;
        77) result=skipped ;;
        124 | 137) result="FAIL (time)" ;;
        *) result="FAIL ($code)" ;;
    esac
    case $result in FAIL*) failed=1 ;; esac
    summary+="
$(printf '| %-7s | %-11s | %7d |' "$part" "$result" $((SECONDS - began)))"
done

card=$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null)
{
    printf '\n### summary%s: %s, %d s\n\n' "${dry[0]:+ (dry run)}" "${card:-no NVIDIA card}" "$SECONDS"
    echo "$summary"
} | tee "$OUT/summary.md"
exit "$failed"
