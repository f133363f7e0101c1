#!/usr/bin/env bash
# The whole idea in minutes, on a CPU: find the heads of the tiny reasoner by reinforcement learning, then
# compare them with other ways to choose heads. Stopped half-way? The same command goes on where it was.
#
#   scripts/demo.sh [FOLDER]        # default: runs/demo
set -euo pipefail
out=${1:-runs/demo}
mkdir -p "$out"

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
show() { printf '\033[2m$ %s\033[0m\n' "$*"; "$@"; }

say "1/3  Training data: problems that the model solves itself"
show rlkv data tiny-reasoner --source tiny --levels easy --buckets 256:0-100 --batch-size 64 \
  --out "$out/data"

say "2/3  Reinforcement learning on the gates: reward right answers, push every gate down"
show rlkv train --preset demo --data "$out/data" --out "$out/train"
cp "$out/train/heads.json" "$out/heads.json"

say "3/3  Longer problems with a smaller KV cache: these heads against others"
show rlkv eval run --out "$out" --tasks tiny:medium --n 64 --sparsities 0.5,0.6 --random-seeds 2 \
  --ablation-problems 32 --heads "rlkv=$out/heads.json" --batch-size 64

say "Done. Look at $out/accuracy.png and $out/heads.png"
