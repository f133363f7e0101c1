"""heads.json: the artifact that carries the gates from training to serving."""

from rlkv.heads.file import (
    FORMAT_VERSION,
    SCHEMA_PATH,
    HeadsFile,
    MeasuredAccuracy,
    Provenance,
    package_versions,
)
from rlkv.heads.model_shape import ModelShape
from rlkv.heads.plot import heat_map
from rlkv.heads.rank import (
    Overlap,
    num_streaming,
    overlap,
    random_mask,
    ranking,
    streaming_mask,
    tied_at_cut,
)
from rlkv.heads.shipped import resolve, shipped_heads
from rlkv.heads.tsv import read_tsv

__all__ = [
    "FORMAT_VERSION",
    "SCHEMA_PATH",
    "HeadsFile",
    "MeasuredAccuracy",
    "ModelShape",
    "Overlap",
    "Provenance",
    "heat_map",
    "num_streaming",
    "overlap",
    "package_versions",
    "random_mask",
    "ranking",
    "read_tsv",
    "resolve",
    "shipped_heads",
    "streaming_mask",
    "tied_at_cut",
]
