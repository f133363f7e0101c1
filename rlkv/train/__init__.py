"""Gate training: reinforcement learning finds the KV heads that need the whole history."""
