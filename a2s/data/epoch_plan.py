"""Epoch plan: which rank reads which sample at which step. Pure.

Each (seed, epoch) has one sample order, independent of the number of ranks. It is cut into
`batch_size` contiguous lanes of equal length. Step t takes element t of every lane. Rank r of
`world` owns `batch_size / world` consecutive lanes. Therefore each sample occurs exactly once per
epoch, all ranks take the same number of steps, and global batches do not depend on the number of
ranks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from a2s.errors import ConfigError, DataError

Rows = npt.NDArray[np.int64]

PADDING = -1


@dataclass(frozen=True)
class Plan:
    """One epoch: the order of the sample rows, cut into lanes of `num_steps`."""

    order_N: Rows
    batch_size: int
    num_steps: int

    def batch(self, step: int) -> Rows:
        """Rows of the global batch at a step, one per lane; -1 is padding.

        Shape: batch_size, int64.
        """
        return self.rank_batch(step, rank=0, world=1)

    def rank_batch(self, step: int, *, rank: int, world: int) -> Rows:
        """Rows that one rank reads at a step, one per lane; -1 is padding.

        Shape: batch_size / world, int64.

        Raises:
            ConfigError: the batch size is not divisible by the number of ranks.
        """
        per_rank = lanes_per_rank(self.batch_size, world)
        assert 0 <= rank < world, f"rank {rank} of {world}"
        assert 0 <= step < self.num_steps, f"step {step} of {self.num_steps}"
        slots = np.arange(rank * per_rank, (rank + 1) * per_rank, dtype=np.int64)
        slots = slots * self.num_steps + step
        rows = np.full(per_rank, PADDING, dtype=np.int64)
        # Slots increase with the lane number, so the valid ones come first.
        valid = int(np.searchsorted(slots, len(self.order_N)))
        rows[:valid] = self.order_N[slots[:valid]]
        return rows


def lanes_per_rank(batch_size: int, world: int) -> int:
    """Number of lanes per rank.

    Raises:
        ConfigError: the batch size is not divisible by the number of ranks.
    """
    if batch_size < 1 or batch_size % world:
        raise ConfigError(
            f"batch_size {batch_size} is not divisible by the {world} ranks; batch_size counts"
            " images over all ranks, so choose a multiple of the number of ranks"
        )
    return batch_size // world


def make_plan(
    shard_sizes: npt.ArrayLike,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    window: int = 16,
    keep: npt.NDArray[np.bool_] | None = None,
) -> Plan:
    """Plan one epoch over all samples, or over those selected by the boolean mask `keep`.

    Shape: shard_sizes S; keep N (N = sum of shard_sizes), bool.

    Raises:
        ConfigError: batch_size is below 1.
        DataError: no sample is left to plan.
    """
    lanes_per_rank(batch_size, 1)
    order_N = epoch_order(shard_sizes, seed=seed, epoch=epoch, window=window)
    if keep is not None:
        assert keep.shape == order_N.shape, (keep.shape, order_N.shape)
        order_N = order_N[keep[order_N]]
    if not len(order_N):
        raise DataError("the data holds no usable sample, so there is no epoch to plan")
    return Plan(order_N, batch_size, -(-len(order_N) // batch_size))


def epoch_order(shard_sizes: npt.ArrayLike, *, seed: int, epoch: int, window: int) -> Rows:
    """Shuffle the shards, then shuffle the samples within windows of `window` shards.

    Rows are sorted by an integer hash instead of a library's random generator, so the order is the
    same in every numpy version and a run can be resumed after an upgrade.

    Shape: shard_sizes S -> N, int64, a permutation of 0..N-1.
    """
    assert window >= 1, window
    sizes_S = np.asarray(shard_sizes, dtype=np.int64).reshape(-1)
    starts_S = np.cumsum(sizes_S) - sizes_S
    num_samples = int(sizes_S.sum())
    stream = _mix(_mix(np.array([seed & (2**64 - 1)], np.uint64)) ^ np.uint64(epoch))
    shard_keys_S = _mix(_mix(stream ^ np.uint64(1)) ^ np.arange(len(sizes_S), dtype=np.uint64))
    shards_S = np.argsort(shard_keys_S, kind="stable")
    sample_stream = _mix(stream ^ np.uint64(2))
    order_N = np.empty(num_samples, dtype=np.int64)
    filled = 0
    for first in range(0, len(shards_S), window):
        members = shards_S[first : first + window]
        rows = np.concatenate(
            [np.arange(starts_S[s], starts_S[s] + sizes_S[s], dtype=np.int64) for s in members]
        )
        keys = _mix(sample_stream ^ rows.astype(np.uint64))
        order_N[filled : filled + len(rows)] = rows[np.argsort(keys, kind="stable")]
        filled += len(rows)
    assert filled == num_samples
    return order_N


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Hash 64-bit integers bijectively.

    Reference: the output function of SplitMix64 (Steele, Lea, Flood 2014).
    """
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
