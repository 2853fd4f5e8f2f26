#!/usr/bin/env bash
# Run tests and benchmarks that need a GPU, the most important first, each with a time limit.
#
#   benchmarks/on_gpu.sh [--seconds N] [--out DIR] [--images DIR --model RUN] [PATTERN]
#
# --seconds   total time budget; steps that do not fit are listed at the end
# --out       folder of the results; default: benchmarks/results
# --images    photographs; with --model (a run of stage 1) labelling is measured too
# PATTERN     run only steps whose name matches this extended regular expression
#
# Needs neither Ray nor network access nor an active environment. PYTHON selects the interpreter
# (default: .venv/bin/python if it exists, else python3). Existing results are kept and extended.
# Exit code: 0 if all steps succeeded, 1 if one failed or was skipped for time, 2 for wrong arguments.
set -u
script=$(realpath "$0")
root=${script%/*/*}
usage() {
    sed -n '2,/^set/{/^set/!s/^# \{0,1\}//p}' "$script"
    exit "$1"
}
seconds=86400 out=$root/benchmarks/results images='' model='' pattern=.
while [ $# -gt 0 ]; do
    case $1 in
        --help) usage 0 ;;
        --seconds | --out | --images | --model)
            [ $# -gt 1 ] || usage 2
            [ "$1" = --seconds ] || set -- "$1" "$(realpath -m "$2")" "${@:3}"
            printf -v "${1#--}" %s "$2"
            shift 2
            ;;
        -*) usage 2 ;;
        *) pattern=$1; shift ;;
    esac
done
[ -z "$images" ] || [ -n "$model" ] || usage 2
if [ -z "${PYTHON:-}" ]; then
    PYTHON=python3
    [ ! -x "$root/.venv/bin/python" ] || PYTHON=$root/.venv/bin/python
fi
python=$(realpath -s "$(command -v "$PYTHON")")
cd "$root" || exit 1
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
"$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || {
    echo "on_gpu: $python sees no GPU (nvidia-smi; a build of torch for CUDA)" >&2
    exit 2
}
mkdir -p "$out" || exit 2

trap 'exit 130' INT
summary=() failed=0
step() { # NAME LIMIT COMMAND…
    local name=$1 limit=$2 start=$SECONDS left=$((seconds - SECONDS)) code
    shift 2
    [[ $name =~ $pattern ]] || return 0
    if [ "$left" -lt 30 ]; then
        summary+=("$name: no time left") failed=1
        return 0
    fi
    echo "== $name: $*"
    timeout --foreground --signal=INT --kill-after=10 $((limit < left ? limit : left)) \
        "$python" "$@"
    code=$?
    [ "$code" -eq 0 ] || failed=1
    summary+=("$name: exit code $code after $((SECONDS - start)) s")
}
train=(benchmarks/gpu_train.py --encoders resnet50 --out "$out/gpu_train.json")
step tests 300 -m pytest -q -m gpu -p no:cacheprovider
step step 300 benchmarks/gpu_step.py --out "$out/gpu_step.json"
step stage2 300 "${train[@]}" --images 512 --parts stage2
step whole 600 "${train[@]}" --parts whole
step whole-replayed 600 "${train[@]:0:3}" --out "$out/gpu_train_replayed.json" --parts whole --replay
step stage1 400 "${train[@]}" --images 512 --parts stage1
step quality 900 "${train[@]}" --parts quality
step crf 300 benchmarks/crf_gpu.py --out "$out/crf_gpu.json"
if [ -n "$images" ]; then
    step label 300 benchmarks/label_gpu.py --images "$images" --model "$model" \
        --out "$out/label_gpu.json"
fi
printf '%s\n' "== summary" "${summary[@]}"
exit "$failed"
