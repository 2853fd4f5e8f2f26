#!/usr/bin/env bash
# Tests and benchmarks that need a GPU, what matters most first, each with a limit of its own.
#
#   benchmarks/on_gpu.sh [--seconds N] [--out DIR] [PATTERN]
#
# --seconds   time there is; what does not fit any more is named at the end
# --out       where results go; default: benchmarks/results
# PATTERN     only steps whose name matches this extended regular expression
#
# Needs neither Ray nor a network, nor an environment: PYTHON says which interpreter (default:
# .venv/bin/python if there is one, else python3). Results that are there are kept and added to.
set -u
cd "$(dirname "$0")/.." || exit 1
seconds=86400 out=benchmarks/results pattern=.
while [ $# -gt 0 ]; do
    case $1 in
        --seconds) seconds=$2; shift 2 ;;
        --out) out=$2; shift 2 ;;
        -*)
            sed -n '2,/^set/{/^set/!s/^# \{0,1\}//p}' "$0"
            [ "$1" = --help ]
            exit $((2 * $?))
            ;;
        *) pattern=$1; shift ;;
    esac
done
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
mkdir -p "$out"
"$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || {
    echo "on_gpu: $python sees no GPU (nvidia-smi; a build of torch for CUDA)" >&2
    exit 2
}

summary=()
step() { # NAME LIMIT COMMAND…
    local name=$1 limit=$2 start=$SECONDS code
    shift 2
    [[ $name =~ $pattern ]] || return 0
    local left=$((seconds - SECONDS))
    if [ "$left" -lt 30 ]; then
        summary+=("$name: no time left")
        return 0
    fi
    echo "== $name: $*"
    timeout --signal=INT --kill-after=10 $((limit < left ? limit : left)) "$python" "$@"
    code=$?
    summary+=("$name: exit code $code after $((SECONDS - start)) s")
}
train=(benchmarks/gpu_train.py --encoders resnet50 --out "$out/gpu_train.json")
step tests 300 -m pytest -q -m gpu -p no:cacheprovider
step step 300 benchmarks/gpu_step.py --out "$out/gpu_step.json"
step stage2 300 "${train[@]}" --images 512 --parts stage2
step whole 600 "${train[@]}" --parts whole
step stage1 400 "${train[@]}" --images 512 --parts stage1
step quality 900 "${train[@]}" --parts quality
step crf 300 benchmarks/crf_gpu.py --out "$out/crf_gpu.json"
printf '%s\n' "== summary" "${summary[@]}"
