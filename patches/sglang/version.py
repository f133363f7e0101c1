"""The one SGLang version whose internals these patches were tested against."""

from __future__ import annotations

from rlkv.errors import UnsupportedError

TESTED = "0.5.17"


def check_version(flag: str = "--rlkv-heads") -> None:
    """Refuse an SGLang that was not tested.

    Raises:
        UnsupportedError: another version is installed.
    """
    from sglang import __version__

    if __version__ != TESTED:
        raise UnsupportedError(
            f"{flag}: SGLang is {__version__}, expected {TESTED}, the version this rlkv was tested with"
        )
