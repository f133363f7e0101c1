from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rlkv.grading import Verdict, grade, grade_batch
from rlkv.grading.worker import WORKER, Worker

LIMIT_S = 2.0
TOWER = "9^{9^{9^{9}}}"

# What stands in the box, the right answer, whether they are the same.
BOXED = [
    ("7", "7", True),
    ("3", "13", False),
    ("13", "3", False),
    ("-1", "1", False),
    ("007", "7", True),
    ("2", "2.0", True),
    (r"\frac{1}{2}", "0.5", True),
    ("0.5", r"\frac12", True),
    (r"\dfrac{1}{2}", r"\frac{1}{2}", True),
    (r"\tfrac12", "1/2", True),
    ("1/3", "0.5", False),
    ("0.333333", r"\frac{1}{3}", True),
    ("0.33", r"\frac{1}{3}", False),
    (r"1\frac{1}{2}", r"\frac{3}{2}", True),
    ("11/2", r"1\frac{1}{2}", False),
    (r"\sqrt{8}", r"2\sqrt{2}", True),
    ("(x+1)^2", "x^2+2x+1", True),
    ("(x+1)^2", "x^2+1", False),
    (r"\pi/2", r"\frac{\pi}{2}", True),
    ("2^{10}", "1024", True),
    ("2i+1", "1+2i", True),
    ("10^{100}", "10^{101}", False),
    ("[0,1)", r"\left[0, 1\right)", True),
    ("[0,1]", "[0,1)", False),
    ("(0,1)", "(0,2)", False),
    (r"(3,\infty)\cup(-\infty,2)", r"(-\infty,2)\cup(3,\infty)", True),
    (r"-\infty", r"\infty", False),
    (r"\{2,1\}", r"\{1,2\}", True),
    (r"\{1,2,3\}", r"\{1,2\}", False),
    ("(2,1)", "(1,2)", False),
    ("3, 4", "3", False),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", True),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}2\\1\end{pmatrix}", False),
    ("x=3", "3", True),
    ("3", "x=3", True),
    ("x=4", "3", False),
    (r"5\text{ cm}", "5", True),
    ("5", r"5 \text{ cm}", True),
    (r"90^\circ", "90", True),
    (r"\$5.00", "5", True),
    (r"50\%", "50", True),
    (r"50\%", "0.5", True),
    (r"50\%", "5", False),
    ("1,000", "1000", True),
    (r"12{,}345", "12345", True),
    (r"1\,000", "1,000", True),
    ("1,000", "100", False),
    ("1 2", "12", False),
    (r"\text{Evelyn}", "Evelyn", True),
    ("evelyn", r"\text{Evelyn}", True),
    ("sail", "lisa", False),
    (r"\text{(B)}", "B", True),
    (r"\text{(B)}", "C", False),
    ("$3$", "3", True),
    ("3", "$3$", True),
    ("3", r"\boxed{3}", True),
    ("five", "5", False),
    # What math-verify alone finds equal, or nearly
    (r"\le 4", "4", False),
    (r"x \le 4", "4", False),
    ("4", "x>4", False),
    (r"3 \neq 4", "4", False),
    (r"3 \lor 4", "4", False),
    (r"3 \text{ or } 4", "4", False),
    (r"(4,\infty)", "x>4", True),
    (r"x \in (4,\infty)", "x > 4", True),
    ("x<4", r"x \le 4", False),
    (r"\{1,2\}", "(1,2)", False),
    ("(1,2)", r"\left\{1,2\right\}", False),
    (r"\left\{2,1\right\}", "1, 2", True),
    ("10_5", "10_6", False),
    ("1011_2", "1011_{2}", True),
    ("1011_{2}", "1011", True),
    (r"3\text{ m}", r"3\text{ km}", False),
    (r"3\text{ miles}", r"3\text{ km}", False),
    (r"3\text{ cm}", r"3 \text{ centimeters}", True),
    (r"3\,\mathrm{cm}^2", r"3\text{ cm}^2", True),
    (r"\pm 5", "5", False),
    ("0.9999999", "1", False),
    ("1.0000001", "1", False),
    ("0.0000001", "0", False),
    ("100000000.5", "100000000", False),
    (r"\frac{10^{20}+1}{1}", "10^{20}", False),
    ("2^{100}+1", "2^{100}", False),
    ("[1,4]", "(1,4)", False),
    ("1.234", "1234", False),
]

# A whole response, the right answer, the verdict's correct and extracted.
RESPONSES = [
    (r"thought</think>The answer is \boxed{7}.", "7", True, "7"),
    (r"thought</think>\boxed{3}, no: \boxed{4}", "4", True, "4"),
    (r"thought</think>\boxed{3}, no: \boxed{4}", "3", False, "4"),
    (r"so \boxed{3}</think>The answer is \boxed{4}", "4", True, "4"),
    (r"so \boxed{3}</think>The answer is \boxed{4}", "3", False, "4"),
    (r"a</think>\boxed{3} wait</think>\boxed{4}", "4", True, "4"),
    (r"so \boxed{3}</think>", "3", False, None),
    (r"so \boxed{3}", "3", False, None),
    ("", "3", False, None),
    ("thought</think>  ", "3", False, None),
    (r"thought</think>\boxed{}", "3", False, None),
    (r"thought</think>$\boxed{3}$, which took 40 steps.", "3", True, "3"),
    (r"thought</think>\boxed{\frac{1}{\sqrt{4}}}", r"\frac{1}{\sqrt{4}}", True, r"\frac{1}{\sqrt{4}}"),
    (r"thought</think>\boxed{\boxed{3}}", "3", True, "3"),
    (r"thought</think>\fbox{3}", "3", True, "3"),
    (r"thought</think>\boxed {3}", "3", True, "3"),
    (r"thought</think>so 3, \boxed{5", "3", False, None),
    (r"thought</think>so 3, \boxed{5", "5", False, None),
    (r"thought</think>\boxed{3} or \boxed{\frac{4}{", "3", True, "3"),
    (r"thought</think>stray } and { but \boxed{3}", "3", True, "3"),
    (r"thought</think>\boxed{\{1, 2\}}", r"\{1, 2\}", True, r"\{1, 2\}"),
    ("thought</think>7", "7", True, "7"),
    ("thought</think>The answer is 7.", "7", True, "7"),
    ("thought</think>The answer is 13.", "3", False, "13"),
    ("thought</think>So the answer is $x = 5$.", "5", True, "x = 5"),
    ("thought</think>I do not know.", "5", False, None),
    ("thought</think>3 or 4", "4", False, None),
    ("thought</think>The answer is not 4.", "4", False, None),
    ("thought</think>Maybe $4$", "4", False, None),
    ("thought</think>It could be 3 or 4.\nThe answer is 4.", "4", True, "4"),
    ("thought</think>1 2 3 4 5", "3", False, "5"),
]


@pytest.mark.parametrize(("boxed", "answer", "correct"), BOXED)
def test_boxed_answers(boxed: str, answer: str, correct: bool) -> None:
    verdict = grade(f"thought</think>The answer is \\boxed{{{boxed}}}.", answer)
    assert verdict.correct is correct
    assert verdict.extracted == boxed


@pytest.mark.parametrize(("response", "answer", "correct", "extracted"), RESPONSES)
def test_where_the_answer_stands(response: str, answer: str, correct: bool, extracted: str | None) -> None:
    verdict = grade(response, answer)
    assert (verdict.correct, verdict.extracted) == (correct, extracted)


def test_reasons() -> None:
    assert grade(r"\boxed{3}", "3") == Verdict(False, None, "no closing </think>")
    assert grade(r"</think>\boxed{3}", "3") == Verdict(True, "3", "equal as written")
    assert grade(r"</think>\boxed{4}", "3") == Verdict(False, "4", "differs")
    assert grade(r"</think>\boxed{6/2}", "3") == Verdict(True, "6/2", "equal by math-verify")
    assert grade(r"</think>\boxed{4", "3") == Verdict(False, None, "box not closed")
    assert grade("</think>", "3") == Verdict(False, None, "empty answer")
    assert grade("</think>no idea", "3") == Verdict(False, None, "no answer found")


def test_model_without_thoughts() -> None:
    assert grade(r"It is \boxed{3}", "3", thinking=False).correct
    assert grade("The answer is 3.", "3", thinking=False).correct
    assert not grade(r"It is \boxed{3}, or not</think>\boxed{4}", "3", thinking=False).correct


def test_batch_keeps_positions() -> None:
    verdicts = grade_batch(
        [r"</think>\boxed{1}", r"</think>\boxed{2}", r"</think>\boxed{4/2}"], ["1", "1", "2"]
    )
    assert [v.correct for v in verdicts] == [True, False, True]
    with pytest.raises(ValueError, match="zip"):
        grade_batch(["</think>1"], [])


LONG = [
    "</think>" + r"\boxed{" * 20_000 + "}" * 19_000,
    "</think>" + r"\boxed{" * 15_000,
    "</think>\\boxed{" + "{" * 50_000 + "3" + "}" * 50_000 + "}",
    "</think>\\boxed{" + "(" * 50_000 + "4" + ")" * 50_000 + "}",
    "</think>" + "so 4 and $5$ " * 8_000,
    "</think>\\boxed{" + "3" * 100_000 + "}",
    "</think>\\boxed{\\{" + "3," * 50_000 + "\\}}",
    "</think>\\boxed{(" + "3," * 50_000 + "}",
    "</think>\\boxed{3" + " " * 100_000 + "\\text}",
    "</think>3 " + "or " * 30_000,
    "</think>\\boxed{" + "1_" * 50_000 + "}",
]


@pytest.mark.parametrize(
    "response", [*LONG, f"</think>\\boxed{{{TOWER}}}", r"</think>\boxed{((((99!)!)!)!)!}"]
)
def test_no_answer_holds_the_caller_up(response: str) -> None:
    grade(r"</think>\boxed{2/2}", "1")  # the process runs: importing sympy is not timed
    begin = time.monotonic()
    verdict = grade(response, "0.3", time_limit_s=LIMIT_S)
    assert time.monotonic() - begin < LIMIT_S + 1
    assert not verdict.correct
    assert grade(r"</think>\boxed{2/4}", "0.5").correct  # and the next answer is graded as ever


def test_time_limit_is_the_reason() -> None:
    assert grade(f"</think>\\boxed{{{TOWER}}}", "0.5", time_limit_s=0.5) == Verdict(
        False, TOWER, "time limit of 0.5 s"
    )


def test_long_right_answers_are_right() -> None:
    assert grade("x" * 100_000 + r"</think>\boxed{3}" + "y" * 100_000, "3").correct


def test_crash_is_an_incorrect_answer() -> None:
    worker = Worker()
    worker.ask(r"\boxed{1}", r"\boxed{1}", 5.0)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(worker.ask, r"\boxed{1}", f"\\boxed{{{TOWER}}}", 5.0)
        time.sleep(0.5)
        assert worker._process is not None
        os.kill(worker._process.pid, signal.SIGKILL)
        reply = asked.result()
    assert (reply.correct, reply.reason) == (False, "math-verify crashed or ran out of memory")
    assert worker.ask(r"\boxed{1}", r"\boxed{2/2}", 5.0).correct
    worker.stop()


def test_killed_between_questions_is_replaced() -> None:
    grade(r"</think>\boxed{2/2}", "1")
    assert WORKER._process is not None
    WORKER._process.kill()
    WORKER._process.wait()
    assert grade(r"</think>\boxed{2/2}", "1").correct


def test_threads() -> None:
    numbers = range(2, 34)
    with ThreadPoolExecutor(8) as pool:
        verdicts = pool.map(
            lambda n: grade(f"</think>\\boxed{{{n * n}/{n}}}", str(n if n % 2 else n + 1)), numbers
        )
    assert [v.correct for v in verdicts] == [bool(n % 2) for n in numbers]


def _grade_in_child(queue: multiprocessing.Queue[bool]) -> None:
    queue.put(grade(r"</think>\boxed{2/4}", "0.5").correct)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_child_processes(method: str) -> None:
    grade(r"</think>\boxed{2/4}", "0.5")
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=_grade_in_child, args=(queue,), daemon=True)
    child.start()
    assert queue.get(timeout=60)
    child.join()
    assert grade(r"</think>\boxed{2/4}", "0.5").correct


PARENT = f"""
from rlkv.grading.worker import WORKER
import threading, time
WORKER.ask("1", "1", 5.0)
print(WORKER._process.pid, flush=True)
threading.Thread(target=WORKER.ask, args=("1", "\\\\boxed{{{TOWER}}}", 2.0), daemon=True).start()
time.sleep(60)
"""


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGTERM])
def test_dies_with_the_parent_even_while_busy(sig: signal.Signals) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    time.sleep(0.5)
    parent.send_signal(sig)
    parent.communicate()
    end = time.monotonic() + 5
    while _runs(pid) and time.monotonic() < end:
        time.sleep(0.1)
    assert not _runs(pid)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_missing_math_verify_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from rlkv.errors import RLKVError

    monkeypatch.setattr("rlkv.grading.worker.find_spec", lambda name: None)
    with pytest.raises(RLKVError, match=r"pip install 'rlkv\[train\]'"):
        Worker().ask("1", "1", 1.0)
