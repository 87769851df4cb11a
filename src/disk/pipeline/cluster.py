"""Spreading the work of a stage over the machines of a Ray cluster."""

from __future__ import annotations

import os
import secrets
from collections import deque
from collections.abc import Callable, Generator, Iterable
from types import TracebackType
from typing import Any, Generic, Literal, TypeVar

from disk.errors import DiskError, require
from disk.options import option
from disk.progress import log

RayCluster = Literal["off", "auto", "local"]
Key = TypeVar("Key")
Result = TypeVar("Result")
_AHEAD = 3  # tasks that a worker has at a time: while it computes one, the next ones travel
_PATIENCE = 30.0  # seconds without a free worker until a line says so


class Cluster(Generic[Result]):
    """Workers on the machines of a Ray cluster, which end with the `with` block.

    where: `auto` for the cluster that this machine belongs to, `local` for one of this machine alone.
    There is a worker for each GPU; where there are none, or `device` is cpu, one for every `cores` cores of a machine.
    make: called once in each worker, returns what the worker calls on each task. Machines need this package and ray,
    no shared disk. Raises MissingExtraError without ray, DiskError when this machine belongs to no cluster.
    """

    def __init__(self, where: RayCluster, make: Callable[[], Callable[..., Result]], device: str, cores: int) -> None:
        ray: Any  # the methods of an actor are not in its annotations
        require("ray")
        if where == "local" and not os.environ.get("RAY_AUTH_MODE"):
            # its ports are open to the network, and who may speak to them may run programs
            os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
        import ray

        self._ray = ray
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reports its use to its makers otherwise
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
                "this Ray cluster asks for no token: whoever reaches its ports can run programs on its machines; start "
                "it with RAY_AUTH_MODE=token"
            )
        nodes = [node for node in ray.nodes() if node["Alive"]]
        gpus = int(sum(node["Resources"].get("GPU", 0) for node in nodes))
        self.has_gpus = gpus > 0 and device != "cpu"
        if self.has_gpus:
            needs: list[dict[str, Any]] = [{"num_gpus": 1}] * gpus
        else:
            needs = [need for node in nodes for need in _cores(node, cores)]
        worker = ray.remote(_Worker)
        shared = ray.put(make)
        workers = [worker.options(**need).remote() for need in needs]
        self._starting = {actor.start.remote(shared): actor for actor in workers}
        log.info("%d workers on %d machines", len(needs), len(nodes))

    def __enter__(self) -> Cluster[Result]:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._ray.shutdown()

    def share(self, value: Any) -> Any:
        """Store a value that several tasks need; what is returned stands for it among a task's arguments."""
        return self._ray.put(value)

    def map(self, tasks: Iterable[tuple[Key, tuple[Any, ...]]]) -> Generator[tuple[Key, Result], None, None]:
        """The key and the result of each (key, arguments), as they come; once in the life of a cluster.

        Tasks are taken only as workers become free. Those of a worker that dies go to the others. Raises what a task
        raises, DiskError when no worker is left.
        """
        ray = self._ray
        upcoming = iter(tasks)
        free: deque[Any] = deque()
        gone: set[Any] = set()
        again: deque[tuple[Key, tuple[Any, ...]]] = deque()
        running: dict[Any, tuple[Any, tuple[Key, tuple[Any, ...]]]] = {}
        while True:
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
                    "no worker of the Ray cluster is left; what is done is kept: run the same command again"
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
                    log.warning("a worker of the Ray cluster is gone (%s)", " ".join(str(error).split()))
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
    """What runs on the machines; an actor of Ray."""

    def start(self, make: Callable[[], Callable[..., Any]]) -> None:
        # not in the constructor, whose errors Ray reports as the death of the worker
        self._run = make()

    def run(self, *arguments: Any) -> Any:
        return self._run(*arguments)


def _cores(node: dict[str, Any], cores: int) -> list[dict[str, Any]]:
    """What the workers of one machine ask for."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    available = int(node["Resources"].get("CPU", 0))
    here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    count = max(available // cores, min(available, 1))
    return [{"num_cpus": available // count, "scheduling_strategy": here} for _ in range(count)]
