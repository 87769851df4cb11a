"""Distributing the work of a stage over the machines of a Ray cluster."""

from __future__ import annotations

import os
import secrets
from collections import deque
from collections.abc import Callable, Generator, Iterable
from time import monotonic
from types import TracebackType
from typing import Any, Generic, Literal, TypeVar

from disk.errors import DiskError, require
from disk.options import option
from disk.progress import counted, log

RayCluster = Literal["off", "auto", "local"]
Key = TypeVar("Key")
Result = TypeVar("Result")
_AHEAD = 3  # tasks queued at a worker, so that transfers overlap with computation
_LOOK = 5.0  # seconds between checks for new machines
_PATIENCE = 30.0  # seconds without a free worker before a warning


class Cluster(Generic[Result]):
    """Workers on the machines of a Ray cluster, stopped at the end of the `with` block.

    The machines need this package and ray, but no shared disk.
    where: `auto`: the cluster this machine belongs to; `local`: this machine only
    make: called once in each worker; returns the function that the worker calls for each task
    device: one worker per GPU, unless this is cpu or there are no GPUs
    cores: otherwise one worker per this many cores

    Raises MissingExtraError without ray, DiskError if this machine does not belong to a cluster.
    """

    def __init__(self, where: RayCluster, make: Callable[[], Callable[..., Result]], device: str, cores: int) -> None:
        ray: Any  # actor methods are not in ray's annotations
        require("ray")
        if where == "local" and not os.environ.get("RAY_AUTH_MODE"):
            # Ray's ports are open to the network, and anyone who reaches them can run programs
            os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
        import ray

        self._ray = ray
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # otherwise Ray sends usage statistics
        alone = {"include_dashboard": False} if where == "local" else {}
        try:
            ray.init(where, log_to_driver=False, logging_level="ERROR", **alone)
        except (ConnectionError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise DiskError(
                f"{option('ray', where)}: no Ray cluster ({reason}); start one with `ray start --head`, or use "
                f"{option('ray', 'local')}"
            ) from error
        if os.environ.get("RAY_AUTH_MODE") != "token":
            log.warning(
                "this Ray cluster requires no token: anyone who reaches its ports can run programs on its machines; "
                "start it with RAY_AUTH_MODE=token"
            )
        self.has_gpus = device != "cpu" and any(node["Resources"].get("GPU") for node in ray.nodes() if node["Alive"])
        self._cores = cores
        self._make = ray.put(make)
        self._machines: set[str] = set()  # those that have their workers, by Ray's ids
        self._starting: dict[Any, Any] = {}
        workers = self._take_machines()
        log.info("%s on %s", counted(workers, "worker"), counted(len(self._machines), "machine"))

    def __enter__(self) -> Cluster[Result]:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._ray.shutdown()

    def share(self, value: Any) -> Any:
        """Store a value that several tasks need; returns a reference to pass as a task's argument."""
        return self._ray.put(value)

    def _take_machines(self) -> int:
        """Start workers on the machines that have none yet; returns how many."""
        self._looked = monotonic()
        worker = self._ray.remote(_Worker)
        needs: list[dict[str, Any]] = []
        for node in self._ray.nodes():
            if node["Alive"] and node["NodeID"] not in self._machines:
                self._machines.add(node["NodeID"])
                gpus = int(node["Resources"].get("GPU", 0))
                needs += [{"num_gpus": 1}] * gpus if self.has_gpus else _cores(node, self._cores)
        for need in needs:
            actor = worker.options(**need).remote()
            self._starting[actor.start.remote(self._make)] = actor
        return len(needs)

    def map(self, tasks: Iterable[tuple[Key, tuple[Any, ...]]]) -> Generator[tuple[Key, Result], None, None]:
        """Run tasks (key, arguments); yields (key, result) as they finish. Call it once per cluster.

        Takes tasks only as workers become free, and moves the tasks of a dead worker to the others. Machines that join
        the cluster meanwhile get workers too.

        Raises the errors of the tasks, DiskError if no worker is left.
        """
        ray = self._ray
        upcoming = iter(tasks)
        free: deque[Any] = deque()
        gone: set[Any] = set()
        again: deque[tuple[Key, tuple[Any, ...]]] = deque()
        running: dict[Any, tuple[Any, tuple[Key, tuple[Any, ...]]]] = {}
        while True:
            if monotonic() - self._looked > _LOOK and (joined := self._take_machines()):
                log.info("%s on machines that joined the Ray cluster", counted(joined, "more worker"))
            while free:
                task = again.popleft() if again else next(upcoming, None)
                if task is None:
                    break
                actor = free.popleft()
                running[actor.run.remote(*task[1])] = actor, task
            if free and not running:
                return
            if not running and not self._starting:
                raise DiskError(
                    "no worker of the Ray cluster is left; finished results are kept: run the same command again"
                )
            ready, _ = ray.wait([*running, *self._starting], timeout=_PATIENCE)
            if not ready:
                if not running:
                    log.warning("waiting for free cores or GPUs of the Ray cluster")
                continue
            actor, task = running.pop(ready[0], (None, None))
            actor = actor or self._starting.pop(ready[0])
            try:
                result = ray.get(ready[0])
            except ray.exceptions.RayTaskError as error:
                raise error.cause from error
            except ray.exceptions.RayError as error:
                if actor not in gone:
                    log.warning("lost a worker of the Ray cluster (%s)", " ".join(str(error).split()))
                gone.add(actor)
                free = deque(other for other in free if other is not actor)
                if task:
                    again.append(task)
                continue
            if task:
                if actor not in gone:
                    free.append(actor)
                yield task[0], result
            else:
                free.extend([actor] * _AHEAD)


class _Worker:
    """The Ray actor that runs on the machines."""

    def start(self, make: Callable[[], Callable[..., Any]]) -> None:
        # not in the constructor, whose errors Ray reports as the death of the worker
        self._run = make()

    def run(self, *arguments: Any) -> Any:
        return self._run(*arguments)


def _cores(node: dict[str, Any], cores: int) -> list[dict[str, Any]]:
    """The resources of each worker on one machine."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    available = int(node["Resources"].get("CPU", 0))
    here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    count = max(available // cores, min(available, 1))
    return [{"num_cpus": available // count, "scheduling_strategy": here} for _ in range(count)]
