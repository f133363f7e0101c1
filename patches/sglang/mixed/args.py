"""The flags of mixed attention: read, checked, and carried to the schedulers."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from rlkv.errors import ConfigError
from rlkv.heads import HeadsFile, ModelShape, resolve
from rlkv.window import PAPER_TRAIN_WINDOW, Window

from .. import refusals
from ..backends import backend_of, choose_backends
from ..carry import carry
from ..version import check_version
from .backends import BACKENDS
from .install import install_in_launcher
from .settings import FLAG, MixedSettings

ONES = "ones"
"""In place of a heads file: every gate is 1, where training starts."""

HYBRID_ONLY = ("rlkv_heads", "rlkv_sparsity", "rlkv_request_tokens")


def read(original: Callable[..., Any], cls: type, namespace: argparse.Namespace) -> Any:
    """SGLang's arguments with the settings on them (see ``rlkv_patches.sglang.args.read_flags``).

    Raises:
        RLKVError: one line that names the flag, what was found and what was expected.
    """
    from sglang.srt.utils import get_device

    check_version(FLAG)
    for name in HYBRID_ONLY:
        if getattr(namespace, name) is not None:
            raise ConfigError(f"{refusals.flag_of(name)}: given with {FLAG}, expected one of them")
    heads, path = None, None
    if namespace.rlkv_gates != ONES:
        path = resolve(namespace.rlkv_gates)
        heads = HeadsFile.read(path)
    default = PAPER_TRAIN_WINDOW if heads is None else heads.training_window
    sink, recent = namespace.rlkv_sink_size, namespace.rlkv_recent_size
    window = Window(
        default.sink_size if sink is None else sink, default.recent_size if recent is None else recent
    )
    refusals.check_flags(namespace, FLAG)
    replaced = backend_of(namespace.device or get_device(), BACKENDS, FLAG).replaced
    choose_backends(namespace, replaced, FLAG)
    server_args = original(cls, namespace)
    model_config = server_args.get_model_config()
    refusals.check_resolved(server_args, model_config, FLAG)
    if heads is not None and path is not None:
        heads.check_model(model_config.hf_config, path)
        settings = MixedSettings(str(path), heads.gates, window)
    else:
        shape = ModelShape.from_config(model_config.hf_config)
        settings = MixedSettings(ONES, ((1.0,) * shape.num_kv_heads,) * shape.num_layers, window)
    carry(server_args, settings)
    install_in_launcher()
    return server_args
