"""Stand-in for SGLang's kernel package, which is built for accelerators alone.

SGLang imports kernel names at the top of modules that a CPU server loads and never calls. There are no
submodules on purpose: ``sgl_kernel.scalar_type`` must fail to import, because SGLang then takes its fallback.
"""

from rlkv_stand_in import names_of

__getattr__ = names_of(__name__)
