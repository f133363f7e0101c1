#!/usr/bin/env bash
# Find the heads of the tiny reasoner with the full recipe: about 8 minutes on one H200.
#
#   scripts/train_tiny-reasoner-gates.sh [FOLDER]      # default: runs/tiny-reasoner-gates
set -euo pipefail
out=${1:-runs/tiny-reasoner-gates}
rlkv data tiny-reasoner --source tiny --levels easy,medium --batch-size 512 \
  --buckets 240:0-100,480:100-140,840:140-180,900:180-230 --max-problems 20000 --out "$out/data"
rlkv train --preset tiny --data "$out/data" --out "$out"
