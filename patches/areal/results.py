"""What a run leaves: heads.json and the heat map, from the gates of a checkpoint."""

from __future__ import annotations

from pathlib import Path

from transformers import PretrainedConfig

from rlkv.heads import heat_map, streaming_mask
from rlkv.train.folder import checkpoint_folder, write_heads

from .gates_files import GATES_FILE, read_gates_file
from .settings import ArealConfig

HEAT_MAP = "heads.png"
PACKAGES = ("rlkv", "torch", "transformers", "areal", "sglang")


def write_results(config: ArealConfig, model_config: PretrainedConfig, step: int) -> Path:
    """Write both into the run's folder, from its checkpoint of a step; the path of heads.json."""
    gates = read_gates_file(checkpoint_folder(Path(config.out), step) / GATES_FILE)
    path = write_heads(config, model_config, gates, step, config.data, PACKAGES)
    streaming = streaming_mask(gates, config.recommended_sparsity)
    heat_map(gates, path.with_name(HEAT_MAP), f"{config.model}, step {step}", streaming)
    return path
