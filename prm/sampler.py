"""Put sequences into batches: a question's solutions stay on one rank, sequences of similar length share a batch."""

import math
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence

WINDOW = 64
"""Number of batches whose sequences are sorted by length together; apart from that the order is random."""


class QuestionBatches:
    """A batch sampler. Every epoch has the same number of batches on every rank.

    Args:
        lengths: tokens of each sequence, (N,).
        questions: number of each sequence's question, (N,).
        batch_size: most sequences in a batch.
        seed: the order is a function of (seed, epoch).
        rank, world: number of this process, and of all processes; batch i goes to rank i % world.
        epochs: number of different orders.
        shuffle: False: sorted by length, for evaluation.
    """

    def __init__(
        self, lengths: Sequence[int], questions: Sequence[int], batch_size: int, seed: int = 0, rank: int = 0,
        world: int = 1, epochs: int = 1, shuffle: bool = True,
    ) -> None:  # fmt: skip
        self.lengths = lengths
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world = world
        self.epochs = max(1, epochs) if shuffle else 1
        self.shuffle = shuffle
        self.epoch = 0
        members: dict[int, list[int]] = defaultdict(list)
        for index, question in enumerate(questions):
            members[question].append(index)
        self.units: list[list[int]] = []
        for group in members.values():  # a question that is too large is divided evenly
            parts = math.ceil(len(group) / batch_size)
            self.units += [group[part::parts] for part in range(parts)]
        most = max(len(self._packed(epoch)) for epoch in range(self.epochs))
        self.count = math.ceil(most / world) * world

    def __len__(self) -> int:
        return self.count // self.world

    def __iter__(self) -> Iterator[list[int]]:
        yield from self.plan(self.epoch)[self.rank :: self.world]

    def plan(self, epoch: int) -> list[list[int]]:
        """All ranks' batches of an epoch, `count` of them."""
        packed = self._packed(epoch % self.epochs)
        while len(packed) < self.count:
            largest = max(packed, key=len)
            if len(largest) > 1:
                packed.remove(largest)
                packed += [largest[: len(largest) // 2], largest[len(largest) // 2 :]]
            else:  # fewer questions than ranks: as in a distributed sampler, some come twice
                packed.append(min(packed, key=self._tokens))
        if self.shuffle:
            self._random(epoch, "batches").shuffle(packed)
        return [[index for unit in batch for index in unit] for batch in packed]

    def _random(self, epoch: int, what: str) -> random.Random:
        return random.Random(f"{self.seed}/{epoch}/{what}")

    def _tokens(self, batch: list[list[int]]) -> int:
        return sum(self.lengths[index] for unit in batch for index in unit)

    def _packed(self, epoch: int) -> list[list[list[int]]]:
        """Batches of whole questions."""
        units = list(self.units)
        if self.shuffle:
            self._random(epoch, "questions").shuffle(units)
        window = WINDOW * self.batch_size if self.shuffle else len(self.lengths)
        packed: list[list[list[int]]] = []
        start = 0
        while start < len(units):
            stop, taken = start, 0
            while stop < len(units) and taken < window:
                taken += len(units[stop])
                stop += 1
            size = self.batch_size  # full: the next unit starts a batch
            for unit in sorted(units[start:stop], key=lambda unit: -max(self.lengths[index] for index in unit)):
                if size + len(unit) > self.batch_size:
                    packed.append([])
                    size = 0
                packed[-1].append(unit)
                size += len(unit)
            start = stop
        return packed
