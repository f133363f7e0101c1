#!/usr/bin/env bash
# Train the tiny reasoner from scratch on generated problems: about 9 minutes on one H200.
#
#   scripts/train_tiny-reasoner.sh [FOLDER]      # default: runs/tiny-reasoner
#
# The folder is a Hugging Face model; copy model.safetensors, *.json and chat_template.jinja into
# rlkv/models/tiny-reasoner/ to ship it.
set -euo pipefail
python -m rlkv.tiny.pretrain --out "${1:-runs/tiny-reasoner}"
