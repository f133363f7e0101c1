"""The tiny reasoner's tokenizer: byte-level BPE in which every variable name and every digit is one token."""

from __future__ import annotations

from itertools import islice

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from rlkv.tiny.problems import LEVELS, generate

END_OF_TEXT, START_OF_TURN, END_OF_TURN = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL_TOKENS = (END_OF_TEXT, START_OF_TURN, END_OF_TURN)
THINK_TOKENS = ("<think>", "</think>")

# A list bullet with its line break, a word with its space, one digit, other symbols, white space.
PIECES = r"\n-| ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+"
VOCAB_SIZE = 1024

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
)


def build_tokenizer(problems_per_level: int = 2000) -> PreTrainedTokenizerFast:
    """Train the tokenizer on generated training problems; the result is the same at every call."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(problems_per_level), trainer)
    # Not special, as in Qwen3: a reader of the decoded text sees where the thought ends.
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in THINK_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TURN,
        pad_token=END_OF_TEXT,
        chat_template=CHAT_TEMPLATE,
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )


def _corpus(problems_per_level: int) -> list[str]:
    problems = [p for level in LEVELS for p in islice(generate(level, "train", 0), problems_per_level)]
    return [text for p in problems for text in (f"user\n{p.prompt}", f"assistant\n{p.solution}")]
