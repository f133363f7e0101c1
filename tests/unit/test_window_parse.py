"""Window.parse: what str writes is read back, anything else is refused in one line."""

import re

import pytest

from rlkv.errors import ConfigError
from rlkv.window import Window


def test_parse_reads_what_str_writes() -> None:
    assert Window.parse("128+256") == Window(sink_size=128, recent_size=256)
    assert Window.parse(" 0+1 ") == Window(0, 1)
    assert str(Window.parse("16+64")) == "16+64"


@pytest.mark.parametrize(
    "text", ["", "128", "128+", "+64", "16+64+1", "16-64", "a+b", "1.5+2", "-1+64", "16 + 64"]
)
def test_parse_refuses_another_form(text: str) -> None:
    line = f"window: found {text!r}, expected SINK+RECENT in tokens, such as 16+64"
    with pytest.raises(ConfigError, match=f"^{re.escape(line)}$"):
        Window.parse(text)


def test_parse_refuses_sizes_that_are_no_window() -> None:
    with pytest.raises(ConfigError, match="recent_size is 0, expected an integer of at least 1"):
        Window.parse("16+0")
