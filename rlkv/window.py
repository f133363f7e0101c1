"""The attention window of a streaming head: the project's one definition.

The token at position i of its own sequence attends to position j <= i when ``j < S`` (the sinks) or
``i - j < W`` (the recent tokens, itself included). Nothing else enters: not the batch, not the padding,
not how a prompt was cut into chunks.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlkv.errors import ConfigError

if TYPE_CHECKING:  # the command line reads default windows, and must not wait for torch to import
    import torch


@dataclass(frozen=True)
class Window:
    """Sizes of a streaming head's window, in tokens.

    Attributes:
        sink_size: S, tokens at the start of the sequence that are always kept.
        recent_size: W, most recent tokens kept, the current one included.

    Raises:
        ConfigError: a negative ``sink_size`` or a ``recent_size`` below 1.
    """

    sink_size: int
    recent_size: int

    def __post_init__(self) -> None:
        for name, smallest in (("sink_size", 0), ("recent_size", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < smallest:
                raise ConfigError(f"window: {name} is {value!r}, expected an integer of at least {smallest}")

    @classmethod
    def parse(cls, text: str) -> Window:
        """Read ``"S+W"``, the form that ``str(window)`` writes, such as ``"16+64"``.

        Raises:
            ConfigError: another form, or sizes that are no window.
        """
        match = re.fullmatch(r"([0-9]{1,18})\+([0-9]{1,18})", text.strip())
        if match is None:
            raise ConfigError(f"window: found {text!r}, expected SINK+RECENT in tokens, such as 16+64")
        return cls(int(match[1]), int(match[2]))

    @property
    def size(self) -> int:
        """S + W: the most keys a streaming head sees or stores."""
        return self.sink_size + self.recent_size

    def visible(self, query_position: torch.Tensor, key_position: torch.Tensor) -> torch.Tensor:
        """Whether a streaming head's query sees a key; positions broadcast, the result is bool."""
        causal = key_position <= query_position
        sink = key_position < self.sink_size
        recent = query_position - key_position < self.recent_size
        return causal & (sink | recent)

    def __str__(self) -> str:
        return f"{self.sink_size}+{self.recent_size}"


PAPER_TRAIN_WINDOW = Window(128, 256)
"""Window of gate training in the paper (section 4.1)."""

PAPER_SERVE_WINDOW = Window(16, 64)
"""Window of serving in the paper (section 4.1)."""
