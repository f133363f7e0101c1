"""Only the SGLang version that was tested is patched."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
from rlkv_patches.sglang.version import TESTED, check_version

from rlkv.errors import UnsupportedError


def test_tested_version_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sglang", SimpleNamespace(__version__=TESTED))
    check_version()


@pytest.mark.parametrize("version", ["0.5.16", "0.5.23", "0.5.17.post1"])
def test_any_other_version_is_refused_in_one_line(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sglang", SimpleNamespace(__version__=version))
    with pytest.raises(UnsupportedError, match=f"SGLang is {version}, expected {TESTED}"):
        check_version()
