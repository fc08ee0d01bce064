import contextlib
import errno
import io
import os
import resource
import stat
import tarfile
import zipfile
from typing import Any

import pytest

from diffjax.datasets._archives import unpack_archive

FILES = {"corrupt.txt": b"none\n", "paris/defense/1.jpg": b"\xff\xd8" * 30_000}
FILES |= {"paris/eiffel/2.jpg": os.urandom(70_000), "empty.txt": b""}


def write_tar(path, members, mode: Any = "w:gz"):
    """Writes (name or TarInfo, content) in order."""
    with tarfile.open(path, mode) as tar:
        for name, content in members:
            member = (
                name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            )
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def write_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, content in members:
            bundle.writestr(name, content)


def contents(folder):
    """Every file below a folder, hidden ones included."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if not path.is_dir()
    }


KINDS = {
    "pictures.tgz": write_tar,
    "pictures.tar": lambda path, members: write_tar(path, members, "w:"),
    "pictures.tar.xz": lambda path, members: write_tar(path, members, "w:xz"),
    "pictures.zip": write_zip,
    "no suffix": write_zip,
}
packed = pytest.mark.parametrize(("name", "write"), KINDS.items(), ids=KINDS)


@pytest.fixture
def folder(tmp_path):
    """Destination, below a folder that is otherwise empty."""
    return tmp_path / "room" / "jpg"


@packed
def test_an_archive_is_unpacked_completely(tmp_path, folder, name, write):
    write(tmp_path / name, FILES.items())
    calls = []
    unpack_archive(
        tmp_path / name, str(folder), progress=lambda *call: calls.append(call)
    )
    assert contents(folder) == FILES
    assert list(folder.parent.iterdir()) == [folder]
    assert {task for task, _, _ in calls} == {f"unpacking {name} (MB)"}
    assert calls[-1][1] == calls[-1][2]
    assert [done for _, done, _ in calls] == sorted(done for _, done, _ in calls)


def test_folders_are_made_and_files_get_default_permissions(tmp_path, folder):
    closed, tool = tarfile.TarInfo("closed"), tarfile.TarInfo("closed/tool")
    closed.type, closed.mode, tool.mode = tarfile.DIRTYPE, 0o000, 0o4777
    write_tar(tmp_path / "a.tar", [(closed, b""), (tool, b"#!")])
    unpack_archive(tmp_path / "a.tar", folder)
    assert (folder / "closed" / "tool").read_bytes() == b"#!"
    assert not (folder / "closed" / "tool").stat().st_mode & stat.S_ISUID


def test_a_second_archive_is_added_to_the_first(tmp_path, folder):
    write_tar(tmp_path / "1.tgz", [("paris/a/1.jpg", b"1"), ("same.txt", b"old")])
    write_zip(tmp_path / "2.zip", [("paris/b/2.jpg", b"2"), ("same.txt", b"new")])
    unpack_archive(tmp_path / "1.tgz", folder)
    unpack_archive(tmp_path / "2.zip", folder)
    joined = {"paris/a/1.jpg": b"1", "paris/b/2.jpg": b"2", "same.txt": b"new"}
    assert contents(folder) == joined
    assert list(folder.parent.iterdir()) == [folder]


def member(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


HOSTILE = {
    "up": ["../escaped.txt"],
    "up later": ["a/../../escaped.txt"],
    "absolute": ["{outside}/escaped.txt"],
    "of another system": ["..\\escaped.txt"],
    "drive": ["C:/escaped.txt"],
    "link up": [member("a", tarfile.SYMTYPE, ".."), "a/escaped.txt"],
    "link out": [member("a", tarfile.SYMTYPE, "{outside}"), "a/escaped.txt"],
    "link to file": [member("b", tarfile.SYMTYPE, "{outside}/kept.txt"), "b"],
    "hard link": [member("b", tarfile.LNKTYPE, "../../kept.txt"), "b"],
    "link within": [member("a", tarfile.SYMTYPE, "."), "a/escaped.txt"],
    "device": [member("tty", tarfile.CHRTYPE)],
    "pipe": [member("pipe", tarfile.FIFOTYPE)],
}
ZIPPED = ("up", "up later", "absolute", "of another system", "drive")


def hostile_members(names, outside):
    """Members after a harmless one, whose links and paths lead to `outside`."""
    yield "first.jpg", b"\xff\xd8"
    for name in names:
        if isinstance(name, str):
            yield name.format(outside=outside), b"escaped"
        else:
            copy = tarfile.TarInfo(name.name)
            copy.type = name.type
            copy.linkname = name.linkname.format(outside=outside)
            yield copy, b""


@pytest.fixture
def outside(tmp_path):
    """Folder with a file that no archive may change."""
    (tmp_path / "kept.txt").write_text("kept")
    return tmp_path


@pytest.mark.parametrize("exists", [False, pytest.param(True, marks=pytest.mark.full)])
@pytest.mark.parametrize(
    ("write", "case"),
    [(write_tar, case) for case in HOSTILE] + [(write_zip, case) for case in ZIPPED],
)
def test_a_hostile_archive_is_refused_completely(outside, folder, write, case, exists):
    archive = outside / "hostile"
    write(archive, hostile_members(HOSTILE[case], outside))
    if exists:
        folder.mkdir(parents=True)
        (folder / "mine.txt").write_text("mine")
    before = contents(outside)
    with pytest.raises(
        ValueError, match="no archive that can be unpacked: '"
    ) as caught:
        unpack_archive(archive, folder)
    assert "\n" not in str(caught.value)
    assert contents(outside) == before
    assert folder.exists() == exists


def test_a_link_in_a_zip_is_refused_too(outside, folder):
    link = zipfile.ZipInfo("a")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    write_zip(outside / "a.zip", [(link, str(outside))])
    with pytest.raises(ValueError, match="'a' is neither a file nor a folder"):
        unpack_archive(outside / "a.zip", folder)
    assert not folder.exists()


@packed
def test_an_archive_cut_short_leaves_nothing(tmp_path, folder, name, write):
    write(tmp_path / name, FILES.items())
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(ValueError, match="no archive that can be unpacked: ") as caught:
        unpack_archive(tmp_path / name, folder)
    assert str(caught.value).startswith(f"{tmp_path / name}: ")
    assert list(folder.parent.iterdir()) == []


@pytest.mark.parametrize("name", ["pictures.tgz", "pictures.tar.xz", "pictures.zip"])
def test_a_damaged_byte_is_refused(tmp_path, folder, name):
    # In incompressible data, which still unpacks with another byte.
    KINDS[name](tmp_path / name, [("noise.jpg", FILES["paris/eiffel/2.jpg"])])
    content = bytearray((tmp_path / name).read_bytes())
    content[40_000] ^= 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}: no archive .* unpacked: .*[a-z]"):
        unpack_archive(tmp_path / name, folder)
    assert not folder.exists()


def test_a_missing_checksum_is_refused(tmp_path, folder):
    write_tar(tmp_path / "a.tgz", FILES.items())
    content = (tmp_path / "a.tgz").read_bytes()
    (tmp_path / "a.tgz").write_bytes(content[:-8])
    with pytest.raises(ValueError, match="unpacked: Compressed file ended before"):
        unpack_archive(tmp_path / "a.tgz", folder)
    assert not folder.exists()


def test_other_files_and_missing_files_are_errors(tmp_path, folder):
    (tmp_path / "page.html").write_text("<html>302 Found</html>")
    with pytest.raises(ValueError, match=r"page.html: no archive that can be unpacked"):
        unpack_archive(tmp_path / "page.html", folder)
    with pytest.raises(FileNotFoundError, match=r"absent.tgz"):
        unpack_archive(tmp_path / "absent.tgz", folder)


@contextlib.contextmanager
def file_limit(size):
    """Limit on the size of files, which acts like a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@packed
def test_a_full_disk_is_an_error_in_a_line_and_leaves_nothing(
    tmp_path, folder, name, write
):
    write(tmp_path / name, FILES.items())
    with file_limit(65_000), pytest.raises(OSError, match="File too large") as caught:
        unpack_archive(tmp_path / name, folder)
    assert caught.value.errno == errno.EFBIG
    assert caught.value.filename == str(folder)
    assert "\n" not in str(caught.value)
    assert list(folder.parent.iterdir()) == []
    unpack_archive(tmp_path / name, folder)
    assert contents(folder) == FILES


def test_leftovers_of_a_killed_process_are_removed_by_the_next_call(tmp_path, folder):
    write_tar(tmp_path / "a.tgz", FILES.items())

    class Stopped(BaseException):
        pass

    def stop(*_):
        partial = folder.parent / ".jpg.a.tgz.part"
        assert partial.is_dir()  # Hidden, so that its pictures are not indexed.
        assert not folder.exists()
        raise Stopped

    with pytest.raises(Stopped):
        unpack_archive(tmp_path / "a.tgz", folder, progress=stop)
    assert list(folder.parent.iterdir()) == []
    # Killed: nothing could be removed.
    partial = folder.parent / ".jpg.a.tgz.part"
    partial.mkdir()
    (partial / "half.jpg").write_bytes(b"\xff")
    unpack_archive(tmp_path / "a.tgz", folder)
    assert contents(folder) == FILES
    assert list(folder.parent.iterdir()) == [folder]
