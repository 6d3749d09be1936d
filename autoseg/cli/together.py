"""Several processes that train one fold together: started here, or by torchrun on every machine."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from autoseg.pipeline import Together


PR_SET_PDEATHSIG = 1  # of prctl.h
TIME_TO_SPEAK_S = 5.0
TIME_TO_ARRIVE_S = 1.0  # for what this process has sent to the others; the connections end with it
STARTED_BY_TORCHRUN = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"}


def this_process() -> Together | None:
    """Which of torchrun's processes this is; None when torchrun has not started it."""
    if not os.environ.keys() >= STARTED_BY_TORCHRUN:
        return None
    from autoseg.pipeline import Together

    return Together(local_rank=int(os.environ["LOCAL_RANK"]), local_size=int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def end_with_parent() -> None:
    """A launcher that is killed must not leave this process training on; Linux tells it by a SIGTERM."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None) if sys.platform == "linux" else None
    if prctl is not None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def is_first() -> bool:
    """Whether this process speaks for all: it was not started by torchrun, or is the first that was."""
    return this_process() is None or os.environ["RANK"] == "0"


def leave(code: int) -> NoReturn:
    """End this process, which torchrun has started, with an exit code and without taking the interpreter apart.

    The threads of gloo stay after DistributedDataParallel was used, whatever is destroyed before. One that still holds
    a tensor while the interpreter is taken apart aborts the process (https://github.com/pytorch/pytorch/pull/179291),
    and a training that is done would be reported as failed.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # torchrun ends all when one fails: the first must have said what is wrong
    time.sleep(TIME_TO_SPEAK_S if code != 0 and not is_first() else TIME_TO_ARRIVE_S)
    os._exit(code)


@contextmanager
def spoken_by_first() -> Iterator[None]:
    """In this context the first process speaks for all; the others tell only what is wrong with data or device."""
    if is_first():
        yield
        return
    from autoseg.core.errors import DataError, DeviceError

    logging.getLogger().setLevel(logging.ERROR)
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (until the process ends)
    try:
        yield
    except (DataError, DeviceError):
        raise
    except BaseException:
        sys.stderr = sys.stdout
        raise


def start(n: int, argv: Sequence[str]) -> int:
    """Run autoseg_train in `n` processes of this machine, as torchrun does; returns the exit code."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.disable(logging.ERROR)  # the processes tell themselves what is wrong
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=n,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    try:
        elastic_launch(config, entrypoint=sys.executable)("-m", "autoseg", "train", *argv)
    except ChildFailedError as error:
        codes = [failure.exitcode for failure in error.failures.values()]
        if told := [code for code in codes if code > 0]:
            return told[0]
        cause = f"ended by signal {-codes[0]}, usually for lack of memory" if codes else "ended"
        print(f"a process was {cause}; run the same command again: training resumes", file=sys.stderr)
    except SignalException as error:
        return 128 + int(error.sigval)
    except KeyboardInterrupt:
        return 130
    except (OSError, RuntimeError) as error:
        print(f"the processes could not be started ({error}); train on one device, without --gpus", file=sys.stderr)
    else:
        return 0
    finally:
        logging.disable(logging.NOTSET)
    return 1
