"""Work along a directed acyclic graph: every node starts as soon as its inputs are ready."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

T = TypeVar("T")


async def flow(
    inputs: Sequence[Sequence[int]], work: Callable[[int, list[asyncio.Task[T]]], Coroutine[Any, Any, T]]
) -> list[T]:
    """Run the nodes of a graph.

    Args:
        inputs: for every node, the nodes it reads; all of them come before it.
        work: (node, the tasks of its inputs in that order) -> its result; it awaits the tasks it needs.

    Returns:
        The results, by node. One failure ends the others.
    """
    tasks: list[asyncio.Task[T]] = []
    async with asyncio.TaskGroup() as group:
        for node, before in enumerate(inputs):
            tasks.append(group.create_task(work(node, [tasks[earlier] for earlier in before])))
    return [task.result() for task in tasks]
