import dataclasses
import re

import pytest

from configs.distributed_cost import quick
from diffjax.distributed import estimate_cost
from diffjax.report import read_records
from experiments.speed import distributed_cost
from experiments.speed._compiled_costs import _COLLECTIVE, _SHAPE, _shape_bytes

# The compiler's own, such as its table of results.
POINTERS = 64


@pytest.fixture(
    scope="module",
    params=[(1, 8), pytest.param((1, 2, 4, 8), marks=pytest.mark.full)],
    ids=str,
)
def recorded(tmp_path_factory, request):
    """Record of the quick variant, which compiles for some numbers of devices."""
    folder = tmp_path_factory.mktemp("cost")
    config = dataclasses.replace(quick(), devices=request.param)
    return distributed_cost.run(config, folder, records=folder), folder


def test_compiled_bytes_agree_with_the_arithmetic(recorded):
    rows = [row for row in recorded[0]["results"] if "step" in row]
    devices = recorded[0]["settings"]["devices"]
    assert {row["devices"] for row in rows} == set(devices)
    assert len(rows) == len(devices) * 6
    for row in rows:
        assert row["bytes sent"] == row["planned"], row
        assert 0 <= row["taken and given"] - row["as planned"] <= POINTERS, row
        assert row["memory, planned"] / 2 < row["memory"], row
        assert row["memory"] < 1.2 * row["memory, planned"] + POINTERS, row
    sent = {(row["step"], row["devices"]): row["bytes sent"] for row in rows}
    # By hand, 8 devices: 4096 / 8 rows of 3 queries to 7 others, and in and before an
    # iteration three sums of 3 numbers each, of which a ring sends 7 / 4.
    assert sent["solve", 8] == 7 * (512 * 3 * 4) + 2 * 3 * (3 * 4) * 7 / 4
    # A part of 512 rows of 16 numbers, and which of them count.
    assert sent["search", 8] == 512 * (16 * 4 + 1)
    assert not any(bytes_sent for (_, one), bytes_sent in sent.items() if one == 1)


def test_the_record_has_both_tables_and_charts(recorded):
    record, folder = recorded
    assert read_records(folder / "distributed_cost.jsonl") == [record]
    config = quick()
    simulated = [row for row in record["results"] if "regions" in row]
    assert len(simulated) == len(config.many_nodes) * len(config.many_devices)
    for name in ("memory", "sent"):
        text = (folder / f"distributed_cost_{name}.svg").read_text()
        assert "1024 devices" in text
    largest = simulated[-1]
    assert largest["regions"] == 10**9
    costs = estimate_cost(10**9, d=16, k=10, devices=1024, images=10**9 // 20)
    assert largest["MB sent an iteration"] == costs.solve.sent / 1e6
    assert largest["GB on each"] == costs.memory / 1e9


def test_bytes_are_read_from_the_text_of_a_program():
    line = (
        "  %all-reduce.12 = (f32[3]{0}, bf16[2,5]{1,0}, pred[4]{0}) all-reduce-start("
        '%a), channel_id=3, metadata={op_name="jit(f)/while/body/sum" id=1}'
    )
    got = _COLLECTIVE.search(line)
    assert got
    assert got["kind"] == "all-reduce"
    assert got["name"] == "jit(f)/while/body/sum"
    sizes = [_shape_bytes(*shape) for shape in _SHAPE.findall(got["shapes"])]
    assert sizes == [12, 20, 4]
    assert not re.search(_COLLECTIVE, line.replace("all-reduce-start", "fusion"))
