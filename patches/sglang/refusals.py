"""Configurations that hybrid cache and mixed attention do not serve: each is refused at start in one line."""

from __future__ import annotations

from typing import Any

from rlkv.errors import UnsupportedError

ONE_ONLY = {
    "pp_size": "pipeline parallelism",
    "dp_size": "data parallelism",
    "dcp_size": "decode context parallelism",
    "attn_cp_size": "attention context parallelism",
}
"""Flags that count ranks other than tensor-parallel ones."""

REORDERED_FORMATS = ("auto", "safetensors", "pt", "dummy")
"""Formats of weights whose heads can be put into the order of their ranks."""

SWA_RATIO = 0.8
"""SGLang's default of the flag by which it splits memory between pools."""

OFF = {
    "speculative_algorithm": "speculative decoding",
    "enable_hierarchical_cache": "HiCache",
    "enable_lora": "LoRA",
    "lora_paths": "LoRA",
    "enable_lmcache": "LMCache",
    "enable_flexkv": "FlexKV",
    "enable_unified_memory": "the unified memory pool",
    "enable_page_major_kv_layout": "the page-major KV layout",
    "enable_hisparse": "HiSparse",
    "enable_pdmux": "PD multiplexing",
    "enable_dp_attention": "data-parallel attention",
    "enable_two_batch_overlap": "two-batch overlap",
    "enable_mixed_chunk": "mixed prefill and decode batches",
    "enable_streaming_session": "streaming sessions",
    "enable_session_radix_cache": "the session radix cache",
    "enable_memory_saver": "the memory saver",
    "enable_torch_compile": "torch.compile",
    "dllm_algorithm": "diffusion language models",
    "is_embedding": "embedding models",
    "enable_mis": "multi-item scoring",
    "enable_deterministic_inference": "deterministic inference",
    "cpu_offload_gb": "CPU offload",
}
"""Flags of features whose code reads or moves a KV pool by its own rules."""


def check_resolved(server_args: Any, model_config: Any, flag: str = "--rlkv-heads") -> None:
    """Refuse what SGLang made of the flags, the model, and what no kernel covers, before weights load.

    Raises:
        UnsupportedError: one line with what was found and what was expected.
    """
    from .cuda_support import check_cuda

    check_model(model_config, flag)
    check_flags(server_args, flag)  # some flags, and some models, turn on others
    if server_args.device == "cuda":
        check_cuda(model_config, server_args, flag)


def check_flags(namespace: Any, flag: str = "--rlkv-heads") -> None:
    """Refuse flags that name an unsupported feature.

    Args:
        namespace: all flags, as parsed or as SGLang resolved them.
        flag: the one of ours that they are refused beside.

    Raises:
        UnsupportedError: one line with the flag and what was found.
    """
    from sglang.srt.environ import envs

    for name, feature in ONE_ONLY.items():
        if getattr(namespace, name, 1) not in (None, 1):
            _refuse(name, getattr(namespace, name), f"1: {feature} is not supported", flag)
    for name, feature in OFF.items():
        if getattr(namespace, name, None):
            _refuse(name, getattr(namespace, name), f"it off: {feature} is not supported", flag)
    if flag == "--rlkv-heads":
        _check_pools_and_order(namespace)
    if getattr(namespace, "tokenizer_worker_num", 1) > 1 and flag == "--rlkv-gates":
        # They load no plugin, and each would tag responses with a version of its own.
        _refuse(
            "tokenizer_worker_num", namespace.tokenizer_worker_num, "1: one process tags the responses", flag
        )
    if getattr(namespace, "disaggregation_mode", "null") != "null":
        _refuse(
            "disaggregation_mode",
            namespace.disaggregation_mode,
            "null: prefill and decode on separate servers is not supported",
            flag,
        )
    if envs.SGLANG_ENABLE_POST_CAPTURE_KV_SIZING.get():
        raise UnsupportedError(
            f"SGLANG_ENABLE_POST_CAPTURE_KV_SIZING: found it on with {flag}, expected it off: "
            "pools that grow after the capture of CUDA graphs are not supported"
        )
    if getattr(namespace, "kv_cache_dtype", "auto") not in ("auto", "bfloat16", "bf16"):
        _refuse(
            "kv_cache_dtype", namespace.kv_cache_dtype, "auto: a quantized KV cache is not supported", flag
        )


def _check_pools_and_order(namespace: Any) -> None:
    """Refuse SGLang's own ways to share memory between pools, and to load weights past the model."""
    if namespace.disable_hybrid_swa_memory:
        _refuse("disable_hybrid_swa_memory", True, "it off: full and streaming heads have a pool each")
    if namespace.swa_full_tokens_ratio not in (None, SWA_RATIO):
        _refuse(
            "swa_full_tokens_ratio",
            namespace.swa_full_tokens_ratio,
            f"{SWA_RATIO}, its default: --rlkv-request-tokens splits memory between the pools",
        )
    if namespace.tp_size == 1:
        return
    ways = {"load_format": REORDERED_FORMATS, "weight_cache_mode": ("off",)}
    for name, expected in ways.items():
        found = getattr(namespace, name)
        if found not in expected:
            _refuse(name, found, f"{' or '.join(expected)} on several ranks, whose heads have an order")


def check_model(model_config: Any, flag: str = "--rlkv-heads") -> None:
    """Refuse models whose attention is not plain grouped-query attention in every layer.

    Args:
        model_config: SGLang's ``ModelConfig``.
        flag: the one of ours that the model is refused beside.

    Raises:
        UnsupportedError: one line that names what the model has.
    """
    from sglang.srt.configs.model_config import AttentionArch

    name = model_config.model_path
    if model_config.attention_arch == AttentionArch.MLA:
        raise UnsupportedError(f"{flag}: {name} has latent attention (MLA), expected KV heads")
    found = _other_attention(model_config)
    if found:
        raise UnsupportedError(f"{flag}: {name} has {found}, expected full attention in every layer")
    if not model_config.is_generation:
        raise UnsupportedError(f"{flag}: {name} generates no text, expected a model that does")
    if model_config.is_multimodal:
        raise UnsupportedError(f"{flag}: {name} is multimodal, expected a text model")
    if model_config.head_dim != model_config.v_head_dim:
        raise UnsupportedError(
            f"{flag}: {name} has values of {model_config.v_head_dim} channels, expected "
            f"{model_config.head_dim} as its keys have"
        )


def _other_attention(model_config: Any) -> str | None:
    """What a model's layers have instead of full attention, None when all have it."""
    text = model_config.hf_text_config
    others = set(getattr(text, "layer_types", None) or ()) - {"full_attention"}
    if others:
        return f"layers of type {', '.join(sorted(others))}"
    window = getattr(text, "sliding_window", None)
    # A config may name a window and switch it off, as Qwen's do; without a switch it is on, as in Mistral's.
    switched = getattr(text, "use_sliding_window", window is not None)
    if model_config.is_hybrid_swa or switched:
        return f"a sliding window (sliding_window is {window})"
    return None


def flag_of(name: str) -> str:
    """The flag that sets a name of the parsed arguments."""
    return "--" + name.replace("_", "-")


def _refuse(name: str, found: object, expected: str, beside: str = "--rlkv-heads") -> None:
    raise UnsupportedError(f"{flag_of(name)}: found {found!r} with {beside}, expected {expected}")
