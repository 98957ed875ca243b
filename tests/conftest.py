"""Settings of every test process."""

import os

# pytest runs two processes: with one BLAS thread each they do not fight over the cores
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
