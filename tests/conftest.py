"""One thread for all tests: their tensors are tiny, and on a busy machine two threads wait for each other."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, and for the commands that tests start
