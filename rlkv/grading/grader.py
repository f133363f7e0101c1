"""Mathematics: find a response's final answer, compare it with the right one, say why."""

from __future__ import annotations

from rlkv.grading.extract import CLOSING_THINK, decide_as_written, final_part, has_box, is_definite, last_box
from rlkv.grading.shape import differ_in_kind
from rlkv.grading.verdict import Verdict
from rlkv.grading.worker import WORKER

TIME_LIMIT_S = 5.0


def grade(
    response: str, answer: str, time_limit_s: float = TIME_LIMIT_S, *, thinking: bool = True
) -> Verdict:
    r"""Compare a response's final answer with the right answer.

    Only what stands after the last ``</think>`` counts: its last ``\boxed{...}``, or else what math-verify
    extracts there, unless the last line leaves the answer open. The paper's graders parse the whole response,
    so that a thought cut off at the token limit can be right by chance; here it has no answer. Equal text and
    plain integers are decided at once, answers of different kinds told apart (``rlkv.grading.shape``), the
    rest compared by math-verify in a process of its own, one answer at a time.

    Args:
        response: what the model wrote, the chat template's opening ``<think>`` not included.
        answer: LaTeX or plain text, without a box.
        time_limit_s: seconds math-verify may take; an answer that takes longer is incorrect.
        thinking: False for models without thoughts: a response without ``</think>`` is all final answer.

    Raises:
        RLKVError: math-verify is needed and not installed.
    """
    final = final_part(response, thinking)
    box = None if final is None else last_box(final)
    if final is None or (problem := _unreadable(final, box)):
        return Verdict(False, None, f"no closing {CLOSING_THINK}" if final is None else problem)
    found = final if box is None else box
    same = decide_as_written(answer, found)
    if same is not None:
        return Verdict(same, found.strip(), "equal as written" if same else "differs")
    if differ_in_kind(_bare(answer), found.strip()):
        return Verdict(False, found.strip(), "differs in kind")
    target = found if box is None else f"\\boxed{{{box}}}"
    reply = WORKER.ask(f"\\boxed{{{_bare(answer)}}}", target, time_limit_s)
    extracted = box if box is not None else reply.extracted
    return Verdict(reply.correct, extracted, reply.reason)


def _unreadable(final: str, box: str | None) -> str:
    """Why a final part gives no answer, empty if it does."""
    if box == "" or not final.strip():
        return "empty answer"
    if box is None and has_box(final):
        return "box not closed"
    return "no definite answer" if box is None and not is_definite(final) else ""


def _bare(answer: str) -> str:
    """The answer without the dollars and the box that some data sets put around it."""
    inner = last_box(answer)
    return answer.strip().strip("$") if inner is None else inner
