"""The project's one grader: the reward of training and the score of evaluation."""

from rlkv.grading.grader import Verdict, grade, grade_batch

__all__ = ["Verdict", "grade", "grade_batch"]
