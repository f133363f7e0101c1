"""Evaluation: what a model still solves when KV heads stream, measured alike for every method."""
