"""SnapKV, attention of an observation window: Li et al., 2024 (https://arxiv.org/abs/2404.14469).

The paper compresses the prompt once; here the window moves on and the same rule is applied while decoding, as
kvpress does with ``DecodingPress(SnapKVPress())`` and as R-KV's authors did for their comparison.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F

from .base import Held, TokenDropper
from .checks import check_kernel


@dataclass(frozen=True)
class SnapKV(TokenDropper):
    """Keep the window and the tokens that its queries attend to most, neighbours pooled.

    Attributes:
        kernel: width of the average pooling.
    """

    window: int = 16
    kernel: int = 5
    least_window: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_kernel(self.kernel)

    def scores(self, held: Held) -> torch.Tensor:
        attention = held.window_attention().mean(dim=(2, 3))
        pooled = F.avg_pool1d(attention, self.kernel, stride=1, padding=self.kernel // 2)
        return held.always(held.recent(self.window), pooled)
