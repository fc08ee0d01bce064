"""Composed scenes with fixed settings, on which people can quote figures.

All sets show the same 40 objects, each in 12 scenes of the database and in 2 queries,
and hold 200 scenes without any. Objects are turned by up to 25 degrees either way and
re-lit (gain and gamma by a factor of up to 1.3, colours by 1.15). Four in ten lie under
a patch of clutter with sides of 0.3 to 0.6 of their box's, which hides 6 % of their
pixels in the median. Clutter is 30 patches a picture, 0.06 to 0.6 of its longer side in
size, and a few thin lines. The seed is 0. Pictures have 0.12 megapixels; what differs
is how much of one the box of an object takes, drawn before anything covers it:

| set | drawn | visible in the database |
|---|---|---|
| scenes | longer side, uniform, 0.2 to 0.7 of the shorter one | area 0.027 to 0.67 |
| scenes-small | area, log-uniform, 0.015 to 0.12 | area 0.013 to 0.12 |
| scenes-large | area, log-uniform, 0.1 to 0.5 | area 0.093 to 0.50 |

Medians are 0.17, 0.042 and 0.22; the shortest sides of boxes 39, 28 and 76 pixels.
"scenes-small" has the areas of the paper's figure 6. Its least object, if square, is as
large as one cell of the last feature map, 32 of 320 pixels, and can still be recognised
by eye.
"""

import dataclasses
import pathlib
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from types import MappingProxyType

from ._compose import ScenesConfig


@dataclasses.dataclass(frozen=True)
class SceneSet:
    """Composed scenes whose settings and pixels stay as they are.

    Attributes:
        name: What figures are said to be measured on.
        version: Belongs to the name in every figure that is quoted: it goes up when
            other pictures get the name.
        config: What is composed, and how hard it is.
        pixels_sha256: Checksum of its pixels, see `compose_scenes`.
    """

    name: str
    version: int
    config: ScenesConfig
    pixels_sha256: str


SCENES: Mapping[str, SceneSet] = MappingProxyType(
    {
        scenes.name: scenes
        for scenes in (
            SceneSet(
                name="scenes",
                version=1,
                config=ScenesConfig(),
                pixels_sha256=(
                    "79297c6d73a49fe2b9073974c5a988303269119685d7519cf153ae7998e5e569"
                ),
            ),
            SceneSet(
                name="scenes-small",
                version=1,
                config=ScenesConfig(object_area=(0.015, 0.12)),
                pixels_sha256=(
                    "1ee5acbee1544496efd875ba0b579a70f6fe4667163ae5ac7fad472d0517494e"
                ),
            ),
            SceneSet(
                name="scenes-large",
                version=1,
                config=ScenesConfig(object_area=(0.1, 0.5)),
                pixels_sha256=(
                    "0cbfe29d7f0aa00ef8de371acfd494bf25267d5a0a62ee5b093daf8cbf94da8b"
                ),
            ),
        )
    }
)

# What the checksums were computed with.
VERSIONS: Mapping[str, str] = MappingProxyType(
    {"numpy": "2.4.6", "pillow": "13.0.0", "scikit-image": "0.26.0"}
)


def installed_versions() -> dict[str, str]:
    """Looks up the versions of the packages that the pixels depend on."""
    return {name: version(name) for name in VERSIONS}


def warn_of_other_pixels(
    folder: pathlib.Path,
    config: ScenesConfig,
    *,
    sha256: str,
    versions: Mapping[str, str],
) -> None:
    """Warns if scenes have the settings of a published set and other pixels.

    Args:
        folder: Where they are.
        config: Their settings.
        sha256: Their checksum.
        versions: Versions of the packages that composed them.
    """
    for scenes in SCENES.values():
        if scenes.config == config and scenes.pixels_sha256 != sha256:
            warnings.warn(
                f"{folder} holds {scenes.name} version {scenes.version} with other "
                f"pixels than the published ones: sha256 {sha256[:12]}, not "
                f"{scenes.pixels_sha256[:12]}. They were composed with "
                f"{_listed(versions)}, the published ones with {_listed(VERSIONS)}; "
                "another kind of processor can matter, too. Compare methods on these "
                "pictures freely, but not with figures on the published ones.",
                stacklevel=3,
            )


def _listed(versions):
    return ", ".join(f"{name} {number}" for name, number in versions.items())
