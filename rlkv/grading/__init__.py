"""The project's one grader: the reward of training and the score of evaluation."""

from rlkv.grading.batch import CODE, GRADERS, LETTER, MATH, grade_batch
from rlkv.grading.grader import grade
from rlkv.grading.verdict import Verdict

__all__ = ["CODE", "GRADERS", "LETTER", "MATH", "Verdict", "grade", "grade_batch"]
