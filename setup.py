"""Builds the native kernels where there is a C++ compiler, and goes without them else.

Everything else about the package is in pyproject.toml.
"""

import importlib.util
import pathlib

from setuptools import Extension, setup

NATIVE = pathlib.Path("diffjax/native")


def kernels() -> list[Extension]:
    """The library that diffjax/native loads, if jaxlib's headers are there."""
    found = importlib.util.find_spec("jaxlib")
    if found is None or found.origin is None:
        return []
    headers = pathlib.Path(found.origin).parent / "include"
    return [
        Extension(
            "diffjax.native._kernels",
            [str(path) for path in sorted(NATIVE.glob("*.cc"))],
            depends=[str(path) for path in sorted(NATIVE.glob("*.h"))],
            language="c++",
            # No -march: which instructions are used is decided where it runs.
            extra_compile_args=[
                "-std=c++17",
                "-O3",
                "-g0",
                # The loops are written in vectors: what the compiler would make of the
                # rest takes twice the time.
                "-fno-tree-vectorize",
                "-ffp-contract=fast",
                "-fvisibility=hidden",
                "-pthread",
                # As a system's header, whose warnings are not ours.
                "-isystem",
                str(headers),
            ],
            extra_link_args=["-pthread"],
            optional=True,
        )
    ]


setup(ext_modules=kernels())
