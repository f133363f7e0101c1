#!/usr/bin/env bash
# Find the heads of the tiny reasoner with the full recipe: about 8 minutes on one H200.
#
#   scripts/train_tiny-reasoner-gates.sh [FOLDER]      # default: runs/tiny-reasoner-gates
set -euo pipefail
out=${1:-runs/tiny-reasoner-gates}
rlkv data tiny-reasoner --source tiny --levels medium --batch-size 1200 --buckets 2400:0-230 --out "$out/data"
rlkv train --preset tiny --data "$out/data" --out "$out"
