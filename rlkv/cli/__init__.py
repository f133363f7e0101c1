"""The ``rlkv`` command."""
