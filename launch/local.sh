#!/usr/bin/env bash
# One machine: a training stage on all its GPUs or, without a GPU, on CPU ranks.
#   launch/local.sh stage1 --data data/x --out runs/s1
#   RANKS=2 launch/local.sh stage2 --data data/x --labels labels/x --out runs/s2
# RANKS   processes; default: one per GPU, else 1. batch_size must be divisible by it.
# PYTHON  interpreter with a2s; default: .venv/bin/python beside this folder, else python3.
set -eu

here="$(cd "$(dirname "$0")/.." && pwd)"
if [ -z "${PYTHON:-}" ]; then
  if [ -x "$here/.venv/bin/python" ]; then PYTHON="$here/.venv/bin/python"; else PYTHON=python3; fi
fi
if [ $# -eq 0 ]; then
  sed -n '2,6s/^# \{0,1\}//p' "$0" >&2
  exit 2
fi

gpus="$("$PYTHON" -c 'import torch; print(torch.cuda.device_count())')"
# Without a GPU `accelerate launch --cpu --num_processes N` starts one process; this form starts N.
if [ "$gpus" -eq 0 ]; then export ACCELERATE_USE_CPU=true; fi
ranks="${RANKS:-$((gpus > 0 ? gpus : 1))}"
devices=(--num_machines 1 --mixed_precision no --dynamo_backend no --main_process_port 0)
if [ "$ranks" -gt 1 ]; then devices+=(--multi_gpu); fi

exec "$PYTHON" -m accelerate.commands.launch "${devices[@]}" --num_processes "$ranks" -m a2s "$@"
