"""Answers from an SGLang server over its OpenAI-compatible endpoint."""
