"""Cost estimate: bytes and operations of a search on many devices."""

from typing import NamedTuple

# As in the searches: similarities held at a time, pairs and regions looked up at once.
_SIMILARITIES_PER_BLOCK, _PAIRS_PER_BATCH, _REGIONS_PER_BLOCK = 2**24, 2**16, 64
_INDEX_BYTES = 4  # Bytes of a node's number.


class StepCost(NamedTuple):
    """What one step on many devices costs each of them.

    `diffjax.index.StepCost` is of a build on one machine's disk.

    Attributes:
        sent: Bytes that a device sends in each round.
        rounds: How many rounds there are: visits of a part, or iterations of the solve.
        sent_once: Bytes that it sends beside.
        arguments: Bytes of its part of what the step takes.
        output: Bytes of its part of what the step gives.
        temporary: Bytes that it takes beside both while it runs.
        resident: Bytes of what is on the device and not used by the step.
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
        """Bytes that a device sends during the whole step."""
        return self.sent * self.rounds + self.sent_once

    @property
    def memory(self) -> int:
        """Bytes on a device while the step runs."""
        return self.arguments + self.output + self.temporary + self.resident


class CostEstimate(NamedTuple):
    """What a collection on many devices costs: the steps in their order.

    `build_graph` does the first three, `search` the others.
    `diffjax.index.CostEstimate` is of an index on one machine's disk.

    Attributes:
        search: The nearest neighbours of all vectors.
        affinity: Which of them are mutual, and their weights.
        normalize: The degrees, and the weights divided by them.
        query: The right-hand sides.
        solve: The diffusion; a round is an iteration.
        pool: Scores of images.
    """

    search: StepCost
    affinity: StepCost
    normalize: StepCost
    query: StepCost
    solve: StepCost
    pool: StepCost

    @property
    def memory_at_rest(self) -> int:
        """Bytes of vectors and graph on a device, whether or not anything is asked."""
        return self.search.arguments + self.query.resident

    @property
    def memory(self) -> int:
        """The most bytes on a device at any time."""
        return max(phase.memory for phase in self)


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
    r"""Computes what `build_graph` and `search` cost on each of many devices.

    `diffjax.index.estimate_cost` is of an index on one machine's disk.

    With p devices, m = ceil(n / p) rows on each, numbers of b bytes and indices of 4,
    q queries of r regions, M images, a device sends, in bytes,

        search      p m (d b + 1)               its part and mask, once to each device
        affinity    p m k (b + 4)               its sorted lists, likewise
        normalize   (p - 1) m b                 the degrees
        query       (p - 1) (r q + q) k (b + 4) its best of each region and of each y
        solve       (p - 1) (m b q + 6 b q / p) an iteration: search directions, and
                                                three sums for every query
        pool        2 (p - 1) / p M q b         the sums of images

    and holds m d b of vectors, m k (b + 4) of graph, as much again while it solves, and
    (n + 11 m) q b of right-hand sides, of which n q b are the search directions of all.
    Gathering and summing are counted as done around a ring, where every device sends
    equally much; with one device nothing is sent. r q is filled up to a multiple of 64
    where it is more, and no device sends more than its m best.

    What is sent, taken and given is what the compiled programs say, to the byte. The
    temporary memory is an estimate for XLA on processors: in the test a step takes
    between half of its `memory` and 1.2 times that.

    Args:
        n: Vectors.
        d: Their dimensions.
        k: Neighbours of each, and of each region of a query.
        devices: How many share the rows.
        queries: Queries at a time.
        regions: Regions of each query.
        images: Images that the vectors belong to; None for n.
        steps: Iterations of the solve.
        size: Bytes of a number: 4, or 8 in double precision.

    Returns:
        Bytes by step.

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
    given = {"n": n, "d": d, "k": k, "devices": devices, "queries": queries}
    given |= {"regions": regions, "images": images, "steps": steps, "size": size}
    for name, value in given.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}.")
    m = -(-n // devices)
    others = devices - 1
    pair = _INDEX_BYTES + size
    vectors, lists, degrees, column = m * (d * size), m * k * pair, m * size, m * size
    columns = column * queries
    graph = lists + degrees
    at_once = min(_REGIONS_PER_BLOCK, queries * regions)
    at_a_time = min(max(_SIMILARITIES_PER_BLOCK // m, 1), m)
    similarities = (at_a_time + m % at_a_time) * m * size
    visits = devices if others else 0
    nearest = min(k, m) * pair
    summed = 2 * others / devices * size
    batches = -(-queries * regions // at_once)
    return CostEstimate(
        search=StepCost(
            sent=(vectors + m) * bool(others),
            rounds=visits,
            sent_once=0,
            arguments=vectors + m,
            output=lists,
            temporary=similarities + 4 * lists + 2 * vectors,
            resident=0,
        ),
        affinity=StepCost(
            sent=lists * bool(others),
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
            sent_once=others * degrees,
            arguments=lists,
            output=graph,
            temporary=(devices * m + m) * size,
            resident=vectors + m,
        ),
        query=StepCost(
            sent=at_once * others * nearest,
            rounds=batches,
            sent_once=queries * others * nearest,
            arguments=vectors + m + queries * regions * d * size,
            output=columns,
            temporary=(at_once + queries) * column + devices * at_once * nearest,
            resident=graph,
        ),
        solve=StepCost(
            sent=others * columns + 3 * queries * summed,
            rounds=steps,
            sent_once=3 * queries * summed,
            arguments=graph + columns,
            output=columns + queries * (size + _INDEX_BYTES + 1),
            temporary=lists + (devices + 11) * columns,
            resident=vectors + m,
        ),
        pool=StepCost(
            sent=0,
            rounds=0,
            sent_once=images * queries * summed,
            arguments=columns + m * _INDEX_BYTES,
            output=images * queries * size,
            temporary=images * queries * size,
            resident=vectors + m + graph + columns,
        ),
    )
