"""A job over shards of texts on Ray Data: one task reads, a pool of actors works, the driver learns what is done.

What has been read waits in the object store; there may be some shards of it for each worker, then the reader waits.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Generator, Iterator
from dataclasses import replace
from typing import Any, Protocol, TypeVar

import torch

from multitask.bundle.ensemble import Answering
from multitask.errors import UserError
from ray_jobs.batch.input import Shard, of_arrow, to_arrow
from ray_jobs.options import Workers
from ray_jobs.runners.cluster import Cluster
from ray_jobs.screen import Screen

SHARDS_IN_FLIGHT = 4  # for each worker: one that it has, one that it gets next, and as many again for Ray's accounts
SHARD_BYTES = 2 * 2**20, 16 * 2**20  # at least, and where the input's are not known
RETRIES = 3  # of a shard whose worker died: memory that does not suffice will not do so later
PATIENCE_SECONDS = 4 * 3600  # for one shard: Ray's 30 minutes are less than a CPU may take for long texts


class ShardSource(Protocol):
    """An input in shards."""

    def shards(self, made: Collection[int] = ()) -> Iterator[Shard]:
        """All shards, in order. made: numbers of those on which nothing is left to do. Raises UserError."""
        ...

    def first_bytes(self) -> int:
        """How many bytes the first shard's texts have; 0 where that is not known. Raises UserError."""
        ...


Model = TypeVar("Model", bound=Answering, contravariant=True)
Used = TypeVar("Used", bound=Answering)


class Work(Protocol[Model]):
    """What a job does with each shard."""

    def worker(self, bundle: Model, device: torch.device | str) -> Callable[[Shard], None]:
        """The function that one worker calls on each of its shards; it may put its result into the shard.

        `worker` is called once in each worker's process. The function raises UserError for what the user has to mend.
        """
        ...


class WorkersFailed(RuntimeError):
    """Ray has given up: the workers failed again and again. Says why, in a line."""


def on_ray(
    source: ShardSource, made: Collection[int], work: Work[Used], bundle: Used, workers: int, screen: Screen
) -> Generator[Shard]:
    """Does the work on every shard, on so many Ray workers; shards come back without their texts, in any order.

    A worker that dies is started again by Ray, with the shard that it had, a few times. What the user has to mend comes
    back as data: Ray would put words of its own around an error. Raises UserError and WorkersFailed.
    """
    import ray
    import ray.data

    least, unknown = SHARD_BYTES
    in_flight = workers * SHARDS_IN_FLIGHT * max(least, source.first_bytes() or unknown)
    with Cluster(Workers(workers, workers), screen) as cluster, ray.data.DataContext.current(_context(in_flight)):
        done = ray.data.read_datasource(
            _datasource(source, made), override_num_blocks=1, num_cpus=0  # beside workers that take all CPUs
        ).map_batches(
            _Worker,
            fn_constructor_args=(work, [ray.put(bundle)]),  # in a list, Ray leaves getting it to the worker
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_cpus=cluster.cpus,
            num_gpus=1 if cluster.use_gpu else 0,
            max_task_retries=RETRIES,
        )  # fmt: skip
        try:
            for batch in done.iter_batches(batch_size=None, batch_format="pyarrow"):
                for shard in of_arrow(batch):
                    if shard.fault:
                        raise UserError(shard.fault)
                    yield shard
        except ray.exceptions.RayError as error:
            last = str(error).strip().splitlines()[-1]
            raise WorkersFailed(f"the workers failed: {last}") from error


def _context(in_flight: int) -> Any:
    """Ray Data's settings for a job. in_flight: bytes that the object store may hold of it."""
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)  # its plans and finished executions
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.execution_no_progress_timeout_s = PATIENCE_SECONDS
    context.target_max_block_size = 1  # no shard is put into a block with another: blocks are what workers share
    context.execution_options.resource_limits = ray.data.ExecutionResources(object_store_memory=in_flight)
    return context


def _datasource(source: ShardSource, made: Collection[int]) -> Any:
    import ray
    from ray.data import Datasource, ReadTask
    from ray.data.block import BlockMetadata

    held = [ray.put(source)]  # texts in memory are too much to travel with the task itself

    class ShardReader(Datasource):
        """Reads the whole input in one task, where the driver is: an input may be a file of that machine."""

        supports_distributed_reads = False

        def estimate_inmemory_data_size(self) -> int | None:
            return None

        def get_read_tasks(self, parallelism: int, *_: object, **__: object) -> list[ReadTask]:
            def read() -> Iterator[Any]:
                try:
                    yield from map(to_arrow, ray.get(held[0]).shards(made))
                except UserError as error:
                    yield to_arrow(Shard(-1, fault=str(error)))

            return [ReadTask(read, BlockMetadata(None, None, None, None))]

    return ShardReader()


class _Worker:
    """An actor that holds the model, and does the job's work on a shard at a time."""

    def __init__(self, work: Work[Any], bundle: list[Any]) -> None:
        import ray

        self.work = work.worker(ray.get(bundle[0]), "cuda" if torch.cuda.is_available() else "cpu")

    def __call__(self, table: Any) -> Any:
        (shard,) = of_arrow(table)
        if not shard.made and not shard.fault:
            try:
                self.work(shard)
            except UserError as error:  # a storage that has no room, say
                shard.fault = str(error)
        return to_arrow(replace(shard, ids=[], files=[], texts=[]))
