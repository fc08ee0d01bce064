"""Catalogue of public data sets, and their download."""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from diffjax._io import file_digest, folder_lock, write_atomically
from diffjax.downloads import RemoteFile, download, is_web_url
from diffjax.progress import Progress

from ._archives import unpack_archive

_RECORD_FILE = "fetched.json"  # Address, size and SHA-256 of every fetched file.
_LOCK_FILE = ".lock"
_PICTURE_FOLDER = "jpg"

# Addresses of the files ...
_OXFORD = "https://www.robots.ox.ac.uk/~vgg/data/oxbuildings"
_PARIS = "https://www.robots.ox.ac.uk/~vgg/data/parisbuildings"
_CLASSIC = "http://cmp.felk.cvut.cz/cnnimageretrieval/data/test"
_REVISITED = "http://cmp.felk.cvut.cz/revisitop/data/datasets"
_DISTRACTORS = "http://ptak.felk.cvut.cz/revisitop/revisitop1m"
_IRISA = "ftp://ftp.irisa.fr/local/texmex/corpus"
_INSTRE_COPY = (
    "https://raw.githubusercontent.com/insikk/instre_evaluation/"
    "a0126ec2a460cb848bdc658a78faa7cd17448626"
)
# ... and the publications of the addresses.
_REVISITOP = "https://github.com/filipradenovic/revisitop, python/download.py"
_CIRTORCH = (
    "https://github.com/filipradenovic/cnnimageretrieval-pytorch, "
    "cirtorch/utils/download.py"
)
_FLICKR = "https://github.com/captain-pool/GSOC, E2_ESRGAN/test.sh"
_OS2D = "https://github.com/aosokin/os2d, README.md"
_RELEASE = "https://github.com/ahmetius/diffusion-retrieval, check_dl_files.m"


class DataFile(NamedTuple):
    """File of a data set.

    Attributes:
        remote: Its address, size and digest. A file of another address than http, of
            ftp for example, is downloaded by hand.
        source: Publication of the address, and of the size and digest if known.
        unpack_to: Folder that it is an archive of; None for a file that is not
            unpacked.
    """

    remote: RemoteFile
    source: str
    unpack_to: str | None = None

    @property
    def name(self) -> str:
        """Last component of the address."""
        return self.remote.url.rpartition("/")[2]


class DataSet(NamedTuple):
    """Public data set.

    Attributes:
        files: Its files.
        note: Description, caveats, and the paper that published it.
        shares_pictures_of: Name of another data set, in the folder beside this one,
            with the same pictures; None for a data set with pictures of its own, or
            without pictures.
    """

    files: tuple[DataFile, ...]
    note: str
    shares_pictures_of: str | None = None


def _data_file(
    base: str, path: str, source: str, unpack_to: str | None = None
) -> DataFile:
    return DataFile(RemoteFile(f"{base}/{path}"), source, unpack_to)


def _released_dataset(name: str, model: str) -> DataSet:
    """Data set of the authors' descriptors, ground truth and graph of a collection."""
    large = name.endswith(("105k", "106k"))
    paths = [f"data/{name}_{model}.mat", f"gnd/gnd_{name}.mat"]
    paths += [f"data/{name}_knn_kgraph_{model}.mat"] if large else []
    return DataSet(
        tuple(_data_file(f"{_IRISA}/diffusion", path, _RELEASE) for path in paths),
        f"Regional and global descriptors of {name} by the network {model}, the ground "
        f"truth{' and the graph of nearest regions' if large else ''} (Iscen et al., "
        "CVPR 2017, https://arxiv.org/abs/1611.05113). By ftp alone.",
    )


_BLURRED = (
    "The archives that VGG offers since 2022 have blurred faces; published figures are "
    "mostly on the originals, which are no longer offered "
    "(https://github.com/filipradenovic/cnnimageretrieval/pull/10)."
)
_RADENOVIC = "(Radenovic et al., CVPR 2018, https://arxiv.org/abs/1803.11285)"

# The makers publish no sizes and digests. Third parties state a few sizes and an MD5 of
# the archives of Oxford5k and Paris6k, but no two agree on one, so they are left out.
# The ground truth of INSTRE is a copy in a repository, at a fixed commit.
DATASETS: Mapping[str, DataSet] = {
    "oxford5k": DataSet(
        (
            _data_file(_OXFORD, "oxbuild_images-v1.tgz", _REVISITOP, _PICTURE_FOLDER),
            _data_file(_OXFORD, "gt_files_170407.tgz", _OXFORD, "ground_truth"),
            _data_file(_CLASSIC, "oxford5k/gnd_oxford5k.pkl", _CIRTORCH),
        ),
        "5,063 pictures of Oxford (Philbin et al., CVPR 2007), with the ground truth "
        "in text files and, from CMP, in a pickle that lists the pictures, too. "
        f"{_BLURRED}",
    ),
    "paris6k": DataSet(
        (
            _data_file(_PARIS, "paris_1-v1.tgz", _REVISITOP, _PICTURE_FOLDER),
            _data_file(_PARIS, "paris_2-v1.tgz", _REVISITOP, _PICTURE_FOLDER),
            _data_file(_PARIS, "paris_120310.tgz", _PARIS, "ground_truth"),
            _data_file(_PARIS, "corrupt.txt", _PARIS),
            _data_file(_CLASSIC, "paris6k/gnd_paris6k.pkl", _CIRTORCH),
        ),
        "6,412 pictures of Paris (Philbin et al., CVPR 2008), with the ground truth as "
        "for oxford5k. 20 of them, listed in corrupt.txt, are no pictures but error "
        "pages of a web server. They are not in the lists of 6,392 names, and "
        "`attach_pictures` ignores unlisted files, but an index of the whole folder "
        f"includes them. {_BLURRED}",
    ),
    "roxford5k": DataSet(
        (_data_file(_REVISITED, "roxford5k/gnd_roxford5k.pkl", _REVISITOP),),
        f"Another ground truth of the pictures of oxford5k {_RADENOVIC}.",
        shares_pictures_of="oxford5k",
    ),
    "rparis6k": DataSet(
        (_data_file(_REVISITED, "rparis6k/gnd_rparis6k.pkl", _REVISITOP),),
        f"Another ground truth of the pictures of paris6k {_RADENOVIC}.",
        shares_pictures_of="paris6k",
    ),
    "revisitop1m": DataSet(
        (
            _data_file(_DISTRACTORS, "revisitop1m.txt", _REVISITOP),
            *(
                _data_file(
                    _DISTRACTORS,
                    f"jpg/revisitop1m.{n}.tar.gz",
                    _REVISITOP,
                    _PICTURE_FOLDER,
                )
                for n in range(1, 101)
            ),
        ),
        "A million distractors for revisited Oxford and Paris, in 100 archives, and "
        f"their list {_RADENOVIC}.",
    ),
    "flickr100k": DataSet(
        tuple(
            _data_file(
                _OXFORD, f"ox100k/oxc1_100k.part{n:02}.rar", _FLICKR, _PICTURE_FOLDER
            )
            for n in range(1, 41)
        ),
        "100,000 distractors, with which Oxford5k is Oxford105k and Paris6k Paris106k "
        "(Philbin et al., CVPR 2007): one RAR archive in 40 parts.",
    ),
    "instre": DataSet(
        (
            DataFile(
                RemoteFile(
                    f"{_INSTRE_COPY}/gnd_instre.mat",
                    223899,
                    "d21fcd0254bf4bb3863a646dccffae5e48a849991537b9a64ef07e74627d4b5f",
                ),
                "https://github.com/insikk/instre_evaluation, which holds a copy; size "
                "and digest are measured on it",
            ),
            _data_file(_IRISA, "instre/instre.tar.gz", _OS2D, _PICTURE_FOLDER),
        ),
        "28,543 pictures of 250 objects (Wang and Jiang, ACM TOMM 2015), with the "
        "ground truth in the split of Iscen et al., CVPR 2017, "
        "https://arxiv.org/abs/1611.05113. The pictures by ftp alone.",
    ),
    **{
        f"{name}-{model}": _released_dataset(name, model)
        for name in ("oxford5k", "paris6k", "oxford105k", "paris106k", "instre")
        for model in ("siamac", "resnet")
    },
}


def fetch_dataset(
    name: str,
    folder: str | os.PathLike[str],
    *,
    progress: Progress | None = None,
    offline: bool | None = None,
    datasets: Mapping[str, DataSet] = DATASETS,
) -> pathlib.Path:
    """Downloads the missing files of a data set to FOLDER/NAME.

    Files keep their names. An archive is unpacked and, if it was downloaded, removed;
    its folder, `jpg` for pictures, appears once it is complete, and the files in it are
    not checked again. The same call resumes an interrupted one. `fetched.json` records
    address, size and SHA-256 of each file.

    Args:
        name: One of `datasets`.
        folder: Folder of all data sets, each in a folder of its name; a data set whose
            pictures this one shares is fetched, too.
        progress: Called with the task, megabytes done, and megabytes in total.
        offline: Open no connection; None for the setting of $DIFFJAX_OFFLINE (1 is
            offline).
        datasets: The known data sets.

    Returns:
        FOLDER/NAME.

    Raises:
        ValueError: If no data set of that name is known.
        OSError: If a file can't be downloaded, is not the expected one or does not fit
            on the disk, or if files have to be downloaded by hand. The message says
            which and where to put them.
    """
    if name not in datasets:
        raise ValueError(f"name must be one of {', '.join(datasets)}, got {name!r}.")
    dataset = datasets[name]
    if dataset.shares_pictures_of is not None:
        fetch_dataset(
            dataset.shares_pictures_of,
            folder,
            progress=progress,
            offline=offline,
            datasets=datasets,
        )
    home = pathlib.Path(folder) / name
    home.mkdir(parents=True, exist_ok=True)
    with folder_lock(home, _LOCK_FILE, wait=True):
        _drop_removed_archives(dataset, home)
        manual_steps = []
        for file in dataset.files:
            if not _is_unpacked(file, home):
                manual_steps += _fetch_file(
                    file, home, progress=progress, offline=offline
                )
            elif file.name in _read_record(home) and is_web_url(file.remote.url):
                # A killed process may have left it.
                (home / file.name).unlink(missing_ok=True)
            _finish_folder(file, dataset, home)
        manual_steps += _manual_unpacking(dataset, home)
    if manual_steps:
        raise OSError(
            f"{name} is not complete, and the rest is to be done by hand: "
            f"{'; '.join(manual_steps)}; then the same call goes on"
        )
    return home


def picture_folder(
    name: str,
    folder: str | os.PathLike[str],
    *,
    datasets: Mapping[str, DataSet] = DATASETS,
) -> pathlib.Path:
    """Folder of a data set's pictures below the folder of `fetch_dataset`.

    Raises:
        ValueError: If no data set of that name is known.
    """
    if name not in datasets:
        raise ValueError(f"name must be one of {', '.join(datasets)}, got {name!r}.")
    return (
        pathlib.Path(folder)
        / (datasets[name].shares_pictures_of or name)
        / _PICTURE_FOLDER
    )


def _fetch_file(
    file: DataFile,
    home: pathlib.Path,
    *,
    progress: Progress | None,
    offline: bool | None,
) -> list[str]:
    """Downloads and unpacks a file; returns the steps to be done by hand."""
    path, url = home / file.name, file.remote.url
    existed = path.is_file()
    if is_web_url(url):
        download(file.remote, path, progress=progress, offline=offline)
    elif not existed:
        return [f"download {url} and put it at {path}"]
    if file.unpack_to is None:
        if not existed or file.name not in _read_record(home):
            _record_file(file, home, file_digest(path))
    elif not _is_rar(file):
        digest = file_digest(path)
        try:
            unpack_archive(
                path, _partial_folder(home, file.unpack_to), progress=progress
            )
        except ValueError as error:
            line = f"{error} It came from {url}: remove it, and try again"
            raise OSError(line) from error
        _record_file(file, home, digest)
        if is_web_url(url):
            path.unlink()
    return []


def _finish_folder(file: DataFile, dataset: DataSet, home: pathlib.Path) -> None:
    """Renames the partial folder of archives once all of them are unpacked."""
    if file.unpack_to is None or (home / file.unpack_to).exists():
        return
    if all(
        _is_unpacked(f, home) for f in dataset.files if f.unpack_to == file.unpack_to
    ):
        _partial_folder(home, file.unpack_to).replace(home / file.unpack_to)


def _manual_unpacking(dataset: DataSet, home: pathlib.Path) -> list[str]:
    """How to unpack RAR archives, which Python has no reader of."""
    volumes = [file for file in dataset.files if _is_rar(file)]
    if not volumes or (target := home / str(volumes[0].unpack_to)).exists():
        return []
    first = home / volumes[0].name
    return [f"unpack {first} into {target} (unrar x {first} {target}{os.sep})"]


def _is_rar(file: DataFile) -> bool:
    return file.unpack_to is not None and file.name.endswith(".rar")


def _partial_folder(home: pathlib.Path, unpack_to: str) -> pathlib.Path:
    """Hidden folder that archives are unpacked into until all of them are."""
    return home / f".{unpack_to}.part"


def _is_unpacked(file: DataFile, home: pathlib.Path) -> bool:
    if file.unpack_to is None:
        return False
    return (home / file.unpack_to).exists() or file.name in _read_record(home)


def _drop_removed_archives(dataset: DataSet, home: pathlib.Path) -> None:
    """Removes archives from the record whose folder was deleted."""
    record = _read_record(home)
    removed = {
        file.name
        for file in dataset.files
        if file.unpack_to is not None
        and not (home / file.unpack_to).exists()
        and not _partial_folder(home, file.unpack_to).exists()
    }
    if removed & record.keys():
        _write_record(home, {name: record[name] for name in record.keys() - removed})


def _read_record(home: pathlib.Path) -> dict[str, Any]:
    try:
        return dict(json.loads((home / _RECORD_FILE).read_text()))
    except (FileNotFoundError, TypeError, ValueError):  # Edited by hand, perhaps.
        return {}


def _record_file(file: DataFile, home: pathlib.Path, digest: str) -> None:
    size = (home / file.name).stat().st_size
    entry = {"url": file.remote.url, "bytes": size, "sha256": digest}
    _write_record(home, {**_read_record(home), file.name: entry})


def _write_record(home: pathlib.Path, record: dict[str, Any]) -> None:
    text = json.dumps(record, indent=2, sort_keys=True)
    write_atomically(home / _RECORD_FILE, f"{text}\n".encode())
