"""Stand-in for ``torchvision.transforms.functional``; see the package."""

from rlkv_stand_in import names_of

__getattr__ = names_of(__name__)
