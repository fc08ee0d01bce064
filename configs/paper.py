"""Figures of the paper, to compare with ours: mAP in percent.

Source: Iscen, Tolias, Avrithis, Furon and Chum, CVPR 2017, tables 1 and 2, for 512-D
vectors of VGG16 and, in table 2, for 2048-D vectors of ResNet101. Oxford105k and
Paris106k are truncated to 10,000 images in table 2 and are not in table 1.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

COLUMNS: tuple[str, ...] = (
    *("instre", "oxford5k", "oxford105k", "paris6k", "paris106k"),
)

TABLE1: Mapping[str, tuple[float, ...]] = MappingProxyType(
    {"sum": (79.1, 92.2, 90.6, 96.1, 94.4), "GMP": (80.0, 93.2, 91.6, 96.5, 94.6)}
)

# None where the paper has no figure.
TABLE2: Mapping[str, tuple[float | None, ...]] = MappingProxyType(
    {
        "CroW": (None, 68.2, 63.2, 79.8, 71.0),
        "R-MAC": (47.7, 77.7, 70.1, 84.1, 76.8),
        "NetVLAD": (None, 71.6, None, 79.7, None),
        "R-MAC + AQE": (57.3, 85.4, 79.7, 88.4, 83.5),
        "R-MAC + SCSM": (60.1, 85.3, 80.5, 89.4, 84.5),
        "R-MAC + HN": (64.7, 79.9, None, 92.0, None),
        "global diffusion": (70.3, 85.7, 82.7, 94.1, 92.5),
        "R-match": (55.5, 81.5, 76.5, 86.1, 79.9),
        "HQE on SIFT": (74.7, 89.4, 84.0, 82.8, None),
        "R-match + AQE": (60.4, 83.6, 78.6, 87.0, 81.0),
        "regional diffusion, 5 means": (77.5, 91.5, 84.7, 95.6, 93.0),
        "regional diffusion": (80.0, 93.2, 90.3, 96.5, 92.6),
    }
)

TABLE2_2048: Mapping[str, tuple[float | None, ...]] = MappingProxyType(
    {
        "R-MAC": (62.6, 83.9, 80.8, 93.8, 89.9),
        "R-MAC + AQE": (70.5, 89.6, 88.3, 95.3, 92.7),
        "R-MAC + SCSM": (71.4, 89.1, 87.3, 95.4, 92.5),
        "global diffusion": (80.5, 87.1, 87.4, 96.5, 95.4),
        "R-match": (71.0, 88.1, 85.7, 94.9, 91.3),
        "R-match + AQE": (77.1, 91.0, 89.6, 95.5, 92.5),
        "regional diffusion, 5 means": (88.4, 95.0, 90.0, 96.4, 95.8),
        "regional diffusion": (89.6, 95.8, 94.2, 96.9, 95.3),
    }
)

# Figures that the paper cites from other publications.
CITED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"CroW": COLUMNS, "NetVLAD": COLUMNS, "HQE on SIFT": COLUMNS[1:]}
)


def paper_column(benchmark: str) -> str:
    """Chooses the paper's data set to compare a benchmark with: the same, or INSTRE.

    INSTRE is the paper's collection of small objects in clutter, the closest one to
    collections that the paper does not have.
    """
    return benchmark if benchmark in COLUMNS else "instre"


def paper_entry(
    benchmark: str, values: Sequence[float | None] | None, method: str = ""
) -> dict[str, Any]:
    """Makes the fields of a record's entry on the paper, see `report.mean_ap_table`.

    Args:
        benchmark: Benchmark of the entry.
        values: The paper's figures, by column; None for a method that it does not have.
        method: Name of the method.
    """
    column = paper_column(benchmark)
    value = values[COLUMNS.index(column)] if values else None
    share = None if value is None else value / 100
    if column != benchmark:
        return {"instre_map": share}
    return {"paper_map": share, "paper_cited": column in CITED.get(method, ())}
