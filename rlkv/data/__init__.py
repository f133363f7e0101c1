"""Training data: problems that the model itself solves, in the order of a curriculum."""

from rlkv.data.buckets import PAPER_BUCKETS, Bucket, Sample, Selection, parse_buckets
from rlkv.data.dataset import COLUMNS, load_training_data, save_training_data
from rlkv.data.journal import Journal
from rlkv.data.sampling import collect
from rlkv.data.source import BOXED_INSTRUCTION, Problem, read_table, table_problems, tiny_problems

__all__ = [
    "BOXED_INSTRUCTION",
    "COLUMNS",
    "PAPER_BUCKETS",
    "Bucket",
    "Journal",
    "Problem",
    "Sample",
    "Selection",
    "collect",
    "load_training_data",
    "parse_buckets",
    "read_table",
    "save_training_data",
    "table_problems",
    "tiny_problems",
]
