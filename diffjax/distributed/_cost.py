"""Cost estimate: bytes and operations of a search on many devices."""

from typing import NamedTuple

# Block sizes of the searches: similarities held, pairs and query regions looked up.
_SIMILARITIES_PER_BLOCK, _PAIRS_PER_BATCH, _REGIONS_PER_BLOCK = 2**24, 2**16, 64
_INDEX_BYTES = 4  # Node indices are int32.


class StepCost(NamedTuple):
    """Cost of one step for each device, in bytes sent and bytes held.

    `diffjax.index.StepCost` is the cost of building an index on one machine's disk.

    Attributes:
        sent: Bytes that a device sends per round.
        rounds: Number of rounds: visits of a shard, or iterations of the solve.
        sent_once: Bytes that a device sends outside the rounds.
        arguments: Bytes of the device's shards of the arguments.
        output: Bytes of the device's shards of the results.
        temporary: Bytes of intermediate arrays while the step runs.
        resident: Bytes of arrays on the device that the step does not use.
    """

    sent: float
    rounds: int
    sent_once: float
    arguments: int
    output: int
    temporary: int
    resident: int

    @property
    def total_sent(self) -> float:
        """Bytes that a device sends during the step, all rounds together."""
        return self.sent * self.rounds + self.sent_once

    @property
    def memory(self) -> int:
        """Bytes held by a device while the step runs."""
        return self.arguments + self.output + self.temporary + self.resident


class CostEstimate(NamedTuple):
    """Cost estimate of a collection on many devices, step by step in their order.

    `build_graph` takes the first three steps, `search` the others.
    `diffjax.index.CostEstimate` is the cost of an index on one machine's disk.

    Attributes:
        search: Nearest neighbours of all vectors.
        affinity: Mutual neighbours and their weights.
        normalize: Degrees, and weights divided by them.
        query: Right-hand sides.
        solve: Diffusion; a round is an iteration.
        pool: Image scores.
    """

    search: StepCost
    affinity: StepCost
    normalize: StepCost
    query: StepCost
    solve: StepCost
    pool: StepCost

    @property
    def memory_at_rest(self) -> int:
        """Bytes of vectors and graph, which a device holds between searches, too."""
        return self.search.arguments + self.query.resident

    @property
    def memory(self) -> int:
        """Largest number of bytes on a device at any time."""
        return max(step.memory for step in self)


def estimate_cost(
    n: int,
    *,
    d: int,
    k: int,
    devices: int,
    queries: int = 1,
    regions: int = 1,
    images: int | None = None,
    steps: int = 20,
    size: int = 4,
) -> CostEstimate:
    r"""Estimates bytes sent and memory of `build_graph` and `search` per device.

    `diffjax.index.estimate_cost` is for an index on one machine's disk.

    With p devices, m = ceil(n / p) rows on each, numbers of b bytes and indices of 4,
    q queries of r regions, M images, a device sends, in bytes,

        search      p m (d b + 1)               its rows and mask, once to each device
        affinity    p m k (b + 4)               its sorted lists, once to each device
        normalize   (p - 1) m b                 the degrees
        query       (p - 1) (r q + q) k (b + 4) its top k of each region and each y
        solve       (p - 1) (m b q + 6 b q / p) an iteration: search directions, and
                                                three sums for every query
        pool        2 (p - 1) / p M q b         the sums of images

    and holds m d b bytes of vectors, m k (b + 4) of graph, the same again while it
    solves, and (n + 11 m) q b of right-hand sides, of which n q b are the search
    directions of all devices. Gathers and sums count as ring algorithms, in which every
    device sends equally much; one device sends nothing. If r q is above 64, it is
    padded to a multiple of 64. No device sends more than its m best.

    Bytes sent, arguments and outputs agree with the compiled programs to the byte.
    Temporary memory is an estimate for XLA on CPUs: measured steps take between 0.5 and
    1.2 times their `memory`.

    Args:
        n: Number of vectors.
        d: Dimensions of the vectors.
        k: Neighbours per vector, and per region of a query.
        devices: Number of devices that share the rows.
        queries: Number of queries searched at once.
        regions: Regions per query.
        images: Number of images; None is n.
        steps: Iterations of the solve.
        size: Bytes per number: 4, or 8 in double precision.

    Returns:
        Bytes sent and held, step by step.

    Raises:
        ValueError: If a number is below 1.

    Example:
        >>> costs = estimate_cost(10**9, d=128, k=50, devices=1024, images=5 * 10**7)
        >>> f"{costs.solve.sent / 1e9:.1f} GB an iteration"
        '4.0 GB an iteration'
        >>> f"{costs.memory / 1e9:.1f} GB on a device"
        '5.3 GB on a device'
    """
    images = n if images is None else images
    sizes = {"n": n, "d": d, "k": k, "devices": devices, "queries": queries}
    sizes |= {"regions": regions, "images": images, "steps": steps, "size": size}
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}.")
    m = -(-n // devices)
    other_devices = devices - 1
    entry = _INDEX_BYTES + size
    vectors, lists, degrees, column = m * (d * size), m * k * entry, m * size, m * size
    columns = column * queries
    graph = lists + degrees
    block_regions = min(_REGIONS_PER_BLOCK, queries * regions)
    block_rows = min(max(_SIMILARITIES_PER_BLOCK // m, 1), m)
    similarities = (block_rows + m % block_rows) * m * size
    visits = devices if other_devices else 0
    top_k = min(k, m) * entry
    all_reduced = 2 * other_devices / devices * size
    num_blocks = -(-queries * regions // block_regions)
    return CostEstimate(
        search=StepCost(
            sent=(vectors + m) * bool(other_devices),
            rounds=visits,
            sent_once=0,
            arguments=vectors + m,
            output=lists,
            temporary=similarities + 4 * lists + 2 * vectors,
            resident=0,
        ),
        affinity=StepCost(
            sent=lists * bool(other_devices),
            rounds=visits,
            sent_once=0,
            arguments=lists,
            output=lists,
            temporary=3 * lists + 17 * min(_PAIRS_PER_BATCH, m * k) * size,
            resident=vectors + m,
        ),
        normalize=StepCost(
            sent=0,
            rounds=0,
            sent_once=other_devices * degrees,
            arguments=lists,
            output=graph,
            temporary=(devices * m + m) * size,
            resident=vectors + m,
        ),
        query=StepCost(
            sent=block_regions * other_devices * top_k,
            rounds=num_blocks,
            sent_once=queries * other_devices * top_k,
            arguments=vectors + m + queries * regions * d * size,
            output=columns,
            temporary=(block_regions + queries) * column
            + devices * block_regions * top_k,
            resident=graph,
        ),
        solve=StepCost(
            sent=other_devices * columns + 3 * queries * all_reduced,
            rounds=steps,
            sent_once=3 * queries * all_reduced,
            arguments=graph + columns,
            output=columns + queries * (size + _INDEX_BYTES + 1),
            temporary=lists + (devices + 11) * columns,
            resident=vectors + m,
        ),
        pool=StepCost(
            sent=0,
            rounds=0,
            sent_once=images * queries * all_reduced,
            arguments=columns + m * _INDEX_BYTES,
            output=images * queries * size,
            temporary=images * queries * size,
            resident=vectors + m + graph + columns,
        ),
    )
