"""Imported first in the process that workers are forked from, or in a worker: settings that must precede libraries."""

import os
import signal

# The pool fills the cores; threads inside its processes would only fight for them. Read when a library is loaded.
THREAD_SETTINGS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLOSC_NTHREADS")

os.environ.update(dict.fromkeys(THREAD_SETTINGS, "1"))
signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C while libraries are loaded: the parent ends the work
