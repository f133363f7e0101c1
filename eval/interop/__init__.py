"""RLKV inside other projects' tools: tasks of lm_eval, a press of kvpress."""
