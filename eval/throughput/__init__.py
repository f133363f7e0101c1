"""``rlkv eval throughput``: the stock server against the hybrid cache, with theory beside every figure."""
