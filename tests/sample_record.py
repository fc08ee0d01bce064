"""Sample record of two methods, as `report.make_record` makes it."""

KNN = {"method": "global k-NN", "mean_ap": 0.284, "low": 0.26, "high": 0.305}
DIFFUSION = {
    "method": "regional diffusion",
    "mean_ap": 0.561,
    "low": 0.54,
    "high": 0.582,
    "differences": [
        {"against": "global k-NN", "mean": 0.277, "low": 0.25, "high": 0.31}
    ],
    "seconds_per_query": 0.0442,
}
RECORD = {
    "experiment": "grocery",
    "settings": {"images": 2640, "queries": 781, "k": 50, "cg": {"max_steps": 20}},
    "seed": 3,
    "environment": {
        "versions": {"faiss": None, "jax": "0.9.2", "python": "3.11.2"},
        "device": "cpu",
        "device_count": 1,
        "cpu_count": 2,
        "commit": "0123456789" * 4 + "-dirty",
        "time": "2031-02-03T04:05:06+00:00",
    },
    "results": [KNN, DIFFUSION],
}
