"""What a training run will need: memory and time of a step, from the settings alone.

The frozen weights are stored once; gates and their optimiser are a few kilobytes and do not count. Two
moments decide the memory: the end of the rollouts, when all responses have their keys and values, and the
backward pass of a micro-batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlkv.train.config import TrainConfig
from rlkv.window import Window

if TYPE_CHECKING:
    from transformers import PretrainedConfig

HEAD_TOKENS = 1024
"""Tokens whose logits exist at the same time (``rlkv.train.packed``)."""

FLOAT32 = 4
BACKWARD_OF_ATTENTION = 2.5
"""Work of attention's backward pass beside its forward pass: five matrix products against two."""


@dataclass(frozen=True)
class Device:
    """What a device reaches.

    Attributes:
        flops: bf16 operations a second in a large matrix product.
        bandwidth: bytes a second, read and written, in a large copy.
    """

    flops: float
    bandwidth: float


DEVICES = {"H200": Device(790e12, 4.3e12), "H100": Device(790e12, 3.0e12), "A100": Device(250e12, 1.6e12)}
"""By a part of the name that torch gives a device."""

ATTENTION_SHARE = 0.38
"""Of that, what FlashAttention-2, which takes packed rows, reaches at 8,192 tokens (docs/benchmarks.md)."""

NORM_TRAFFIC, ROTARY_TRAFFIC, MLP_TRAFFIC, RESIDUAL_TRAFFIC = 36, 20, 10, 6
"""Bytes that transformers' plain operations read and write for an element: a norm goes to float32 and back in
six passes; rotary embedding, activation times up, and the residual sum stay in bf16."""


@dataclass(frozen=True)
class DecoderShape:
    """Sizes of a decoder with gated MLPs (Llama, Qwen2, Qwen3), or experts of that kind (Qwen3-MoE).

    Attributes:
        layers, hidden, intermediate, vocab: of the decoder.
        heads, kv_heads, head_dim: of its attention.
        tied: the language head is the embedding.
        qkv_bias: query, key and value projections have biases.
        qk_norm: queries and keys are normalised head by head.
        experts: MLPs of a layer, of which ``active`` serve a token; 1 without a mixture of experts.
    """

    layers: int
    hidden: int
    intermediate: int
    vocab: int
    heads: int
    kv_heads: int
    head_dim: int
    tied: bool
    qkv_bias: bool
    qk_norm: bool
    experts: int = 1
    active: int = 1

    @classmethod
    def of(cls, config: PretrainedConfig) -> DecoderShape:
        """From a transformers config."""
        heads = config.num_attention_heads
        experts = getattr(config, "num_experts", None) or 1
        width = config.intermediate_size if experts == 1 else config.moe_intermediate_size
        return cls(
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            intermediate=width,
            vocab=config.vocab_size,
            heads=heads,
            kv_heads=config.num_key_value_heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
            tied=bool(config.tie_word_embeddings),
            qkv_bias=config.model_type == "qwen2" or bool(getattr(config, "attention_bias", False)),
            qk_norm=config.model_type in ("qwen3", "qwen3_moe"),
            experts=experts,
            active=1 if experts == 1 else config.num_experts_per_tok,
        )

    @property
    def query_width(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def matrix_parameters(self) -> int:
        """Of the matrices of all layers."""
        return self._matrices(self.experts)

    @property
    def active_parameters(self) -> int:
        """Of the matrices of all layers that a token is multiplied with."""
        return self._matrices(self.active)

    def _matrices(self, experts: int) -> int:
        attention = self.hidden * (2 * self.query_width + 2 * self.kv_width)
        router = self.hidden * self.experts if self.experts > 1 else 0
        return self.layers * (attention + router + experts * 3 * self.hidden * self.intermediate)

    @property
    def parameters(self) -> int:
        """All of them, the embedding counted once where it is tied."""
        small = 2 * self.hidden + (2 * self.head_dim if self.qk_norm else 0)
        small += self.query_width + 2 * self.kv_width if self.qkv_bias else 0
        embeddings = self.vocab * self.hidden * (1 if self.tied else 2)
        return embeddings + self.matrix_parameters + self.layers * small + self.hidden


@dataclass(frozen=True)
class Pass:
    """One forward and backward pass.

    Attributes:
        sequences: packed into one row.
        tokens: of each sequence.
        element_bytes: of a weight and an activation.
        checkpointing: layers are computed again in the backward pass.
    """

    sequences: int
    tokens: int
    element_bytes: int
    checkpointing: bool

    @property
    def total_tokens(self) -> int:
        return self.sequences * self.tokens


def weight_bytes(shape: DecoderShape, element_bytes: int) -> int:
    """The frozen weights."""
    return shape.parameters * element_bytes


def checkpoint_bytes(shape: DecoderShape, work: Pass) -> int:
    """Inputs of all layers, which are kept until the backward pass reaches them."""
    return shape.layers * work.total_tokens * shape.hidden * work.element_bytes


def mlp_bytes(shape: DecoderShape, work: Pass) -> int:
    """What the MLP of one layer keeps: gate, its activation, and up. Frozen products keep no input."""
    return 3 * work.total_tokens * shape.active * shape.intermediate * work.element_bytes


def norm_bytes(shape: DecoderShape, work: Pass) -> int:
    """What the norms of one layer keep: their inputs in float32."""
    width = 2 * shape.hidden + (shape.query_width + shape.kv_width if shape.qk_norm else 0)
    return work.total_tokens * width * FLOAT32


def attention_bytes(shape: DecoderShape, work: Pass) -> int:
    """What mixed attention of one layer keeps: query, key, value, both branches, and their normalisers."""
    branches = 2 * shape.query_width
    kept = (shape.query_width + 2 * shape.kv_width + branches) * work.element_bytes
    return work.total_tokens * (kept + 2 * shape.heads * FLOAT32)


def layer_bytes(shape: DecoderShape, work: Pass) -> int:
    """What one layer keeps for its backward pass."""
    return mlp_bytes(shape, work) + norm_bytes(shape, work) + attention_bytes(shape, work)


def head_bytes(shape: DecoderShape, work: Pass) -> int:
    """Largest moment of the language head: logits as computed, in float32, and one work copy."""
    rows = min(HEAD_TOKENS, work.total_tokens)
    return rows * shape.vocab * (work.element_bytes + 2 * FLOAT32)


def training_bytes(shape: DecoderShape, work: Pass) -> int:
    """Peak of a pass: weights, what is kept, and the larger of a layer's or the head's own work.

    While a layer runs backward, the gradients of its MLP stand beside what it kept.
    """
    layer = layer_bytes(shape, work)
    kept = checkpoint_bytes(shape, work) + (0 if work.checkpointing else shape.layers * layer)
    at_work = (layer if work.checkpointing else 0) + mlp_bytes(shape, work)
    return weight_bytes(shape, work.element_bytes) + kept + max(at_work, head_bytes(shape, work))


def gathered_bytes(shape: DecoderShape, element_bytes: int) -> int:
    """What a rank holds of the others' while FSDP computes: the language head, a layer, and the next one.

    One rank alone holds them too: FSDP computes on copies.
    """
    layer = shape.matrix_parameters // shape.layers
    return (shape.vocab * shape.hidden + 2 * layer) * element_bytes


def sharded_training_bytes(shape: DecoderShape, work: Pass, ranks: int) -> int:
    """Peak of a pass on each of some ranks that share the frozen weights out by FSDP."""
    weights = weight_bytes(shape, work.element_bytes)
    whole = training_bytes(shape, work)
    return whole - weights + weights // ranks + gathered_bytes(shape, work.element_bytes)


def server_bytes(
    shape: DecoderShape, responses: int, tokens: int, element_bytes: int, gpus: int
) -> tuple[int, int]:
    """On each GPU of a tensor-parallel server: weights, and keys and values of responses at their end."""
    own_kv = -(-shape.kv_heads // gpus) * shape.head_dim
    held = 2 * responses * tokens * shape.layers * own_kv * element_bytes
    return weight_bytes(shape, element_bytes) // gpus, held


def rollout_bytes(shape: DecoderShape, responses: int, tokens: int, element_bytes: int) -> int:
    """End of the rollouts: weights, and keys and values of all responses, one layer of them in two copies."""
    layer = 2 * responses * tokens * shape.kv_width * element_bytes
    return weight_bytes(shape, element_bytes) + (shape.layers + 1) * layer


@dataclass(frozen=True)
class Work:
    """What a pass computes and moves.

    Attributes:
        matrix: operations of the matrix products.
        attention: operations of both branches of mixed attention.
        traffic: bytes that everything else reads and writes.
    """

    matrix: float
    attention: float
    traffic: float

    def seconds(self, device: Device) -> float:
        """Time on a device, one thing after the other."""
        products = self.matrix / device.flops + self.attention / (ATTENTION_SHARE * device.flops)
        return products + self.traffic / device.bandwidth


def training_work(shape: DecoderShape, window: Window, work: Pass) -> Work:
    """Work of one forward and backward pass.

    Gradients go through frozen products once, not twice as in ordinary training; checkpointing adds a forward
    pass of the layers, and the head is always computed again.
    """
    forwards = 2 if work.checkpointing else 1
    # The backward pass moves what two forward passes do.
    return _work(shape, window, work, forwards + 1, 3, forwards + BACKWARD_OF_ATTENTION, forwards + 2)


def scoring_work(shape: DecoderShape, window: Window, work: Pass) -> Work:
    """Work of one forward pass alone, as for the log-probabilities of a decoupled loss."""
    return _work(shape, window, work, 1, 1, 1, 1)


def _work(
    shape: DecoderShape,
    window: Window,
    work: Pass,
    matrices: float,
    heads: float,
    attentions: float,
    movements: float,
) -> Work:
    """Work of a pass in which each part is done as often as said, in forward passes."""
    products = matrices * shape.active_parameters + heads * shape.hidden * shape.vocab
    seen = (work.tokens + 1) / 2 + min(window.size, (work.tokens + 1) / 2)
    pairs = work.total_tokens * seen * shape.layers
    return Work(
        matrix=2 * work.total_tokens * products,
        attention=4 * pairs * shape.query_width * attentions,
        traffic=movements * work.total_tokens * shape.layers * _layer_traffic(shape),
    )


def _layer_traffic(shape: DecoderShape) -> int:
    """Bytes that a token moves in the plain operations of one layer's forward pass."""
    rotated = shape.query_width + shape.kv_width
    normed = 2 * shape.hidden + (rotated if shape.qk_norm else 0)
    return (
        NORM_TRAFFIC * normed
        + ROTARY_TRAFFIC * rotated
        + MLP_TRAFFIC * shape.active * shape.intermediate
        + RESIDUAL_TRAFFIC * 2 * shape.hidden
    )


def known_device(name: str) -> Device | None:
    """A device that has a row in the table, by the name that torch gives it."""
    return next((device for part, device in DEVICES.items() if part in name), None)


def describe(config: TrainConfig, shape: DecoderShape, element_bytes: int, device_name: str) -> str:
    """A run's memory, and where the device is known its time, a line each.

    Args:
        config: of the run.
        shape: of its model.
        element_bytes: of the frozen weights.
        device_name: as torch gives it.
    """
    rows, tokens = config.micro_batch_size, config.max_new_tokens
    work = Pass(rows, tokens, element_bytes, config.gradient_checkpointing)
    rollouts = config.responses_per_step
    lines = [
        f"forecast: {gib(training_bytes(shape, work))} GiB in a training pass of {rows} x {tokens} tokens, "
        f"{gib(rollout_bytes(shape, rollouts, tokens, element_bytes))} GiB at the end of {rollouts} "
        "rollouts, prompts not counted"
    ]
    device = known_device(device_name)
    if device is not None:
        seconds = rollouts // rows * training_work(shape, config.train_window, work).seconds(device)
        lines.append(f"forecast: {seconds:.1f} s of training a step on {device_name}, beside the rollouts")
    return "\n".join(lines)


def gib(nbytes: int) -> str:
    """Bytes in GiB, for people."""
    return f"{nbytes / 2**30:.1f}"
