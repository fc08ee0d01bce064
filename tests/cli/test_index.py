from diffjax.cli._index import default_path


def test_folders_that_differ_after_a_dot_have_indexes_of_their_own(
    tmp_path, monkeypatch
):
    for name in ("photos.2023", "photos.2024", "photos"):
        (tmp_path / name).mkdir()
        assert default_path(tmp_path / name).name == f"{name}.diffjax"
    (tmp_path / "vectors.fp32.npy").touch()
    assert default_path(tmp_path / "vectors.fp32.npy").name == "vectors.fp32.diffjax"
    monkeypatch.chdir(tmp_path / "photos.2024")
    assert default_path(tmp_path / ".").name == f"{tmp_path.name}.diffjax"
