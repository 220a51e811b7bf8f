"""A connection to Ray: to a cluster that runs already, or to one on this machine that ends with the work."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

_OBJECTS = 256 << 20  # bytes of Ray's object store on one machine: what is sent through it has about a megabyte
_PATIENCE = 300.0  # seconds; Ray itself gives its processes half a minute to start, too little on a busy machine


def demand(remedy: str) -> None:
    """Makes sure that Ray is installed; `remedy` says how to do without.

    Raises:
        ModuleNotFoundError: it is not.
    """
    if find_spec("ray") is None:
        raise ModuleNotFoundError(f"several workers need Ray: pip install 'diptych[ray]', or {remedy}.")


@contextmanager
def connected(cores: int, address: str = "") -> Iterator[None]:
    """A connection to Ray that says nothing; one that was there before stays.

    Args:
        cores: how many Ray may give away, if it is started on this machine.
        address: of a cluster, such as `auto` or `ray://HOST:10001`; empty starts Ray on this machine.

    Raises:
        OSError: Ray did not start, or there is none at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read when Ray is imported
    import ray.data

    if ray.is_initialized():
        yield
        return
    own = {"num_cpus": cores, "include_dashboard": False, "object_store_memory": _OBJECTS}
    _connect(address or "local", {} if address else own)
    for name in ("ray", "ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


def _connect(address: str, own: dict[str, int | bool]) -> None:
    import ray

    begin = time.monotonic()
    while True:
        try:
            with _deaf():
                ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False, **own)
            return
        except Exception as error:  # Ray raises bare exceptions where a process of its own does not start in time
            ray.shutdown()
            why = str(error).partition("\n")[0]
            if not own:
                raise OSError(f"Ray did not answer ({why}): check the address.") from None
            if time.monotonic() - begin > _PATIENCE:
                raise OSError(f"Ray did not start ({why}): try again when the machine is less busy.") from None
            print(f"Ray has not started yet ({why}); trying again", file=sys.stderr)


@contextmanager
def _deaf() -> Iterator[None]:
    """What is started within never hears SIGTERM, which schedulers send to all processes at once.

    Ray does the same with Ctrl-C: the command hears it, and ends Ray when it needs it no more.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
