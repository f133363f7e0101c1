"""``python -m rlkv`` is the ``rlkv`` command."""

from rlkv.cli.main import main

main()
