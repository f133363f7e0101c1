"""DuoAttention's way to find the heads: distillation on retrieval instead of rewards (arXiv 2410.10819)."""
