"""Settings that must be there before numpy is imported, in the tests and in the programs that they start."""

import os

# After each product of matrices, a second thread of OpenBLAS spins for 20 ms, on the core of another test process.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
