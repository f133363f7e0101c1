"""Two tensor-parallel ranks on one GPU: with this folder first in PYTHONPATH every process starts here.

NCCL refuses two ranks on one device of one host. So each process says that it is a host of its own, and
ranks talk through sockets. With SGLANG_ONE_VISIBLE_DEVICE_PER_PROCESS each rank is told the number of its own
device; the one that there is has number 0. Slow, because ranks wait for each other in turns: for answers, not
for times.
"""

import os

os.environ["NCCL_HOSTID"] = f"process-{os.getpid()}"
if os.environ.get("CUDA_VISIBLE_DEVICES"):
    os.environ["CUDA_VISIBLE_DEVICES"] = "0"
