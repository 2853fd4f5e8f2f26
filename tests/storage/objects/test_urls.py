"""URLs and the paths that stand for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from a2s.storage.objects import urls


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("A2S_CACHE", str(tmp_path / "my cache"))
    return tmp_path / "my cache" / urls.MARK


@pytest.mark.parametrize(
    "url", ["s3://b", "s3://b/x y/ä.tar", "gs://b/a", "https://host:80/a/m.safetensors?x=1"]
)
def test_a_url_survives_its_path(url: str, cache_folder: Path) -> None:
    path = urls.local_path(url)
    assert path.is_relative_to(cache_folder / "read")
    assert urls.url_of(path) == url
    # As pydantic hands it over: `Path` makes one slash of two.
    assert urls.local_path(str(Path(url))) == path
    assert urls.in_tree(path, "work").is_relative_to(cache_folder / "work")


@pytest.mark.parametrize("url", ["s3://b/../x", "s3:///", "s3://b/./x", "s3://b/\0"])
def test_a_url_cannot_leave_its_folder(url: str) -> None:
    with pytest.raises(ValueError, match="no address"):
        urls.local_path(url)


@pytest.mark.parametrize("path", ["/a/s3/b", "s3/x", "file:///x", "ftp://h/x", "c:/x"])
def test_other_paths_stand_for_nothing(path: str) -> None:
    assert urls.here(path) is None
    assert urls.url_of(path) is None


def test_a_path_of_another_machine_is_found_here(cache_folder: Path) -> None:
    other = f"/scratch/node7/{urls.MARK}/read/s3/b/shard-000000.tar"
    assert urls.here(other) == str(cache_folder / "read/s3/b/shard-000000.tar")
    assert urls.here(other.encode()) == urls.here("s3://b/shard-000000.tar")
    assert urls.portable(other.encode()) == b"s3://b/shard-000000.tar"
    assert urls.portable(b"/data/x.jpg") == b"/data/x.jpg"


def test_people_read_urls(cache_folder: Path) -> None:
    text = f"wrote {cache_folder}/work/s3/b/x to {cache_folder}/read/gs/c"
    assert urls.shown(text) == "wrote s3://b/x to gs://c"
    assert urls.shown(f"'/n/{urls.MARK}/work/s3/b/x'") == "'s3://b/x'"
    assert urls.shown("s3/b") == "s3/b"


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("S3://Bucket/X", "s3://Bucket/X"),
        ("s3:///b/x/", "s3://b/x"),
        ("s3:/b/x", "s3://b/x"),
        ("s3://b//x//y.tar", "s3://b/x/y.tar"),
        ("HTTPS://h/a//b/?q=1", "https://h/a//b/?q=1"),
    ],
)
def test_one_form_of_a_url(written: str, normal: str) -> None:
    assert urls.normal(written) == normal
    assert urls.url_of(urls.local_path(written)) == urls.url_of(urls.local_path(normal))


@pytest.mark.parametrize("text", ["s3:bucket/x", "s3:/bucket/x", "s3:", "HTTPS:h/x", "az:c"])
def test_what_was_meant_for_a_url_is_no_path(text: str) -> None:
    with pytest.raises(ValueError, match=rf"^{text} is no URL; write \w+://"):
        urls.check_written(text)
    urls.check_written(f"./{text}")


@pytest.mark.parametrize("scheme", ["s3", "https", "GS"])
def test_no_password_is_in_a_url_nor_in_what_is_said_of_it(scheme: str) -> None:
    url = f"{scheme}://me:hunter2@host/x"
    for refused in (urls.local_path, urls.normal, urls.check_written):
        with pytest.raises(ValueError, match="no user or password") as caught:
            refused(url)
        assert "hunter2" not in str(caught.value)
    text = f"see {url} and {scheme}:/me:hunter2@host and {urls.shown(url)}"
    assert "hunter2" not in urls.shown(text)
    # A part of a name is none.
    assert urls.shown("s3://b/user@x") == "s3://b/user@x"


def test_signatures_are_not_shown() -> None:
    url = "https://h/x.jpg?X-Amz-Signature=abc&size=7&X-Amz-Credential=me%2F1&sig=def"
    assert urls.shown(f"'{url}'") == (
        "'https://h/x.jpg?X-Amz-Signature=***&size=7&X-Amz-Credential=***&sig=***'"
    )
    # The token with which a person opens the page of a review.
    page = "http://127.0.0.1:8342/?token=abc"
    assert urls.shown(page) == page
