"""A heads file of a small model for tests."""

from __future__ import annotations

import random
from pathlib import Path

from transformers import AutoConfig

from rlkv.heads import HeadsFile, ModelShape, Provenance
from rlkv.models import MODELS_FOLDER
from rlkv.window import Window

MODEL = MODELS_FOLDER / "tiny-reasoner"


def heads_file(path: Path, model: Path = MODEL) -> Path:
    """A heads file, of the tiny reasoner by default, with gates drawn once: layers differ in their counts."""
    shape = ModelShape.from_config(AutoConfig.from_pretrained(model), model_id=model.name)
    rng = random.Random(0)
    gates = [[rng.random() for _ in range(shape.num_kv_heads)] for _ in range(shape.num_layers)]
    heads = HeadsFile(
        model=shape,
        gates=gates,
        training_window=Window(4, 28),
        serving_window=Window(4, 28),
        recommended_sparsity=0.5,
        provenance=Provenance(recipe={}, data="none", steps=None, seed=0, packages={}),
    )
    heads.write(path)
    return path
