"""Stand-in for torchvision, whose wheel on PyPI is built for CUDA and cannot be imported beside a CPU torch.

SGLang and transformers import it for images, which a text model never sees.
"""

from rlkv_stand_in import names_of

__version__ = "0"
__getattr__ = names_of(__name__)
