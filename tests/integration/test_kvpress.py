"""The press for kvpress on the tiny reasoner: the tokens of the hybrid cache and of the mask reference."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest
import torch
from tiny_heads import heads_file
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    PreTrainedModel,
    StaticCache,
)

from rlkv.attention import attach_gates, write_gates
from rlkv.cache import HybridCache, use_hybrid_cache
from rlkv.errors import ConfigError, HeadsFileError, RLKVError, UnsupportedError
from rlkv.generation import chat_prompt
from rlkv.heads import HeadsFile, streaming_mask
from rlkv.models import resolve_model
from rlkv.tiny.problems import generate as problems
from rlkv.window import Window

if TYPE_CHECKING:
    from rlkv_eval.interop.kvpress import RLKVPress

pytestmark = [
    pytest.mark.full_matrix,
    pytest.mark.skipif(find_spec("kvpress") is None, reason="kvpress is not installed: make kvpress"),
]

SPARSITIES = (0.0, 0.25, 0.5, 1.0)
FOLDER = TemporaryDirectory()
LEVELS = (("easy", 0), ("easy", 1), ("medium", 0))
PROMPTS = [next(problems(level, "test", seed=seed)).prompt for level, seed in LEVELS]
NEW_TOKENS = 40  # more than the window holds: it moves over the prompt and over what was decoded


def press(**options: object) -> RLKVPress:
    from rlkv_eval.interop.kvpress import RLKVPress

    return RLKVPress(**{"heads": heads_path(), **options})


@cache
def tokenizer() -> AutoTokenizer:
    return AutoTokenizer.from_pretrained(resolve_model("tiny-reasoner"))


@cache
def model(kind: str) -> PreTrainedModel:
    loaded = AutoModelForCausalLM.from_pretrained(resolve_model("tiny-reasoner"), dtype=torch.float32).eval()
    if kind == "hybrid":
        use_hybrid_cache(loaded)
    if kind == "reference":
        attach_gates(loaded, heads().serving_window)
    return loaded


@cache
def heads_path() -> Path:
    """Gates drawn at random: heads that the model needs stream too, and its answers fall apart."""
    return heads_file(Path(FOLDER.name) / "heads.json")


@cache
def heads() -> HeadsFile:
    return HeadsFile.read(heads_path())


def greedy(kind: str, inputs: dict[str, Tensor], **options: object) -> Tensor:
    tokens = model(kind).generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False, **options)
    return tokens[:, inputs["input_ids"].shape[1] :]


def batch(texts: list[str]) -> dict[str, Tensor]:
    inputs = tokenizer()(
        texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False
    )
    return {name: inputs[name] for name in ("input_ids", "attention_mask")}


def hybrid_tokens(inputs: dict[str, Tensor], sparsity: float) -> Tensor:
    mask = streaming_mask(heads().gates, sparsity)
    return greedy("hybrid", inputs, past_key_values=HybridCache(mask, heads().serving_window))


@cache
def hybrid_row(prompt: str, sparsity: float) -> Tensor:
    return hybrid_tokens(batch([chat_prompt(tokenizer(), prompt)]), sparsity)


def reference_tokens(inputs: dict[str, Tensor], sparsity: float) -> Tensor:
    write_gates(model("reference"), (~streaming_mask(heads().gates, sparsity)).float())
    return greedy("reference", inputs)


def pressed_tokens(inputs: dict[str, Tensor], sparsity: float) -> Tensor:
    with press(sparsity=sparsity)(model("stock")):
        return greedy("stock", inputs)


@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_generate_gives_the_tokens_of_the_hybrid_cache(sparsity: float) -> None:
    for prompt in PROMPTS:
        found = pressed_tokens(batch([chat_prompt(tokenizer(), prompt)]), sparsity)
        assert torch.equal(found, hybrid_row(prompt, sparsity))


@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_a_padded_batch_gives_the_tokens_of_both_references(sparsity: float) -> None:
    inputs = batch([chat_prompt(tokenizer(), prompt) for prompt in PROMPTS])
    found = pressed_tokens(inputs, sparsity)
    assert torch.equal(found, hybrid_tokens(inputs, sparsity))
    assert torch.equal(found, reference_tokens(inputs, sparsity))


@pytest.mark.parametrize("sparsity", SPARSITIES)
def test_the_pipeline_gives_the_tokens_of_the_hybrid_cache(sparsity: float) -> None:
    from kvpress import KVPressTextGenerationPipeline

    pipe = KVPressTextGenerationPipeline(model=model("stock"), tokenizer=tokenizer())
    for prompt in PROMPTS:
        *context, question = prompt.splitlines(keepends=True)
        pressed = press(sparsity=sparsity)
        found = pipe("".join(context), question=question, press=pressed, max_new_tokens=NEW_TOKENS)["answer"]
        inputs = batch([chat_prompt(tokenizer(), prompt)])
        [expected] = hybrid_row(prompt, sparsity)
        assert found == tokenizer().decode(expected, skip_special_tokens=True)
        length = inputs["input_ids"].shape[1] + len(expected) - 1  # the last token was never fed
        assert pressed.length == length > heads().serving_window.size
        assert pressed.compression_ratio == pytest.approx(
            pressed.streaming.float().mean().item() * (1 - heads().serving_window.size / length)
        )


def test_the_sparsities_of_this_file_change_the_tokens() -> None:
    """Else the equalities above would show nothing."""
    inputs = batch([chat_prompt(tokenizer(), prompt) for prompt in PROMPTS])
    stock = greedy("stock", inputs)
    assert torch.equal(pressed_tokens(inputs, 0.0), stock)
    assert not any(torch.equal(pressed_tokens(inputs, sparsity), stock) for sparsity in SPARSITIES[1:])


def test_the_model_is_as_before_when_the_press_is_off() -> None:
    subject = model("stock")
    before, names = subject.config._attn_implementation, set(subject.state_dict())
    trainable = [p.requires_grad for p in subject.parameters()]
    with pytest.raises(KeyboardInterrupt), press(sparsity=1.0)(subject):
        assert set(subject.state_dict()) == names
        raise KeyboardInterrupt
    assert subject.config._attn_implementation == before
    assert [p.requires_grad for p in subject.parameters()] == trainable
    assert not any(module._forward_hooks or hasattr(module, "gate") for module in subject.modules())


def test_defaults_and_ratio_by_hand() -> None:
    plain = press()
    assert (plain.sparsity, plain.window) == (heads().recommended_sparsity, heads().serving_window)
    half = press(sparsity=0.5, window=Window(16, 64))
    assert [half.compression_ratio_at(n) for n in (1, 80, 160, 800)] == [0, 0, 0.25, 0.45]
    with pytest.raises(
        UnsupportedError, match=r"^RLKVPress: no tokens have passed, expected some before asking"
    ):
        _ = half.compression_ratio


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"heads": "none.json"},
            HeadsFileError,
            r"none.json: no such file, nor a heads file shipped with rlkv",
        ),
        ({"sparsity": 1.5}, ConfigError, r"sparsity is 1.5, expected a number in \[0, 1\]"),
        ({"sparsity": float("nan")}, ConfigError, r"sparsity is nan, expected a number in \[0, 1\]"),
        ({"sparsity": "0.5"}, ConfigError, r"sparsity is '0.5', expected a number in \[0, 1\]"),
        ({"window": "16+64"}, ConfigError, r"window is '16\+64', expected a Window"),
    ],
)
def test_bad_settings_are_refused(options: dict[str, object], error: type[RLKVError], message: str) -> None:
    with pytest.raises(error, match=f"^(RLKVPress: )?{message}"):
        press(**options)


def test_another_model_is_refused() -> None:
    config = AutoConfig.from_pretrained(resolve_model("tiny-reasoner"))
    config.num_hidden_layers, config.layer_types = 2, config.layer_types[:2]
    other = AutoModelForCausalLM.from_config(config)
    with (
        pytest.raises(
            HeadsFileError, match=r"^tiny-reasoner: model.num_layers is 8, expected 2 as in the model"
        ),
        press(heads="tiny-reasoner")(other),
    ):
        pass


def pass_over(given: DynamicCache | StaticCache, position: int) -> None:
    """One more token at a position."""
    ids, positions = torch.tensor([[5]]), torch.tensor([[position]])
    model("stock")(input_ids=ids, position_ids=positions, past_key_values=given)


def cache_that_lacks_tokens() -> None:
    from kvpress import KnormPress

    given = DynamicCache()
    with KnormPress(compression_ratio=0.5)(model("stock")):
        model("stock")(**batch([PROMPTS[0]]), past_key_values=given)
    with press()(model("stock")):
        pass_over(given, batch([PROMPTS[0]])["input_ids"].shape[1])


def static_cache() -> None:
    with press()(model("stock")):
        pass_over(StaticCache(config=model("stock").config, max_cache_len=64), 0)


def inside_another_press() -> None:
    from kvpress import ComposedPress, KnormPress

    with ComposedPress([KnormPress(0.5), press()])(model("stock")):
        model("stock")(**batch([PROMPTS[0]]))


def switched_on_twice() -> None:
    with press()(model("stock")), press()(model("stock")):
        pass


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (
            cache_that_lacks_tokens,
            "RLKVPress: found a cache of .* expected one that grows and holds every token",
        ),
        (static_cache, "RLKVPress: found a cache of 64 places with 1 tokens at position 0, expected"),
        (inside_another_press, "RLKVPress: found inside another press, expected alone"),
        (switched_on_twice, "qwen3: the model has gates, expected one without"),
    ],
)
def test_what_it_cannot_do_exactly_is_refused(use: Callable[[], None], message: str) -> None:
    with pytest.raises(UnsupportedError, match=f"^{message}"):
        use()
    assert not any(module._forward_hooks or hasattr(module, "gate") for module in model("stock").modules())


IMPORTED_LATE = """
import torch
from test_kvpress import PROMPTS, batch, hybrid_tokens, pressed_tokens, reference_tokens
inputs = batch(PROMPTS[:1])
hybrid, reference = hybrid_tokens(inputs, 0.5), reference_tokens(inputs, 0.5)
found = pressed_tokens(inputs, 0.5)  # imports kvpress
again = hybrid_tokens(inputs, 0.5), reference_tokens(inputs, 0.5)
assert all(torch.equal(found, tokens) for tokens in (hybrid, reference, *again))
"""


def test_attention_that_was_in_use_before_kvpress_goes_on() -> None:
    paths = f"import sys; sys.path[:0] = {sys.path!r}"
    done = subprocess.run(
        [sys.executable, "-c", paths + IMPORTED_LATE], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
