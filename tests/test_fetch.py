"""Fetching: mirrors in order, resumed, verified, converted once, never half-visible."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from server import Files, serving

from benchmarks import layouts
from zoolib.__main__ import main
from zoolib.data import convert, download, fetch, manifests
from zoolib.data.schema import DatasetManifest, MemberManifest, SourceFile
from zoolib.spec import ZoolibError

CONTENT = os.urandom(10_000)
SHA = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def _quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "PAUSE", 0.001)
    monkeypatch.setattr(download, "CHUNK", 100)
    monkeypatch.setenv("ZOOLIB_BUILD", str(tmp_path / "build"))
    monkeypatch.setenv("ZOOLIB_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nothing listens there


@pytest.fixture
def server() -> Iterator[Files]:
    with serving(file=CONTENT) as files:
        yield files


def one(server: Files, *paths: str, **known: object) -> SourceFile:
    return SourceFile.model_validate({"name": "file", "urls": [f"{server.url}/{path}" for path in paths], **known})


# One file


def test_mirrors_are_tried_in_order_and_the_first_good_one_is_used(server: Files, tmp_path: Path) -> None:
    server.content |= {"/wrong": b"other bytes", "/late": CONTENT}
    url = download.download(one(server, "absent", "wrong", "file", "late", sha256=SHA), tmp_path / "x" / "file")
    assert url.endswith("/file") and (tmp_path / "x" / "file").read_bytes() == CONTENT
    assert [path for path, _ in server.asked] == ["/wrong", "/file"]


@pytest.mark.parametrize("tenth", range(1, 10))
def test_a_download_that_was_cut_at_any_tenth_goes_on_there(tenth: int, server: Files, tmp_path: Path) -> None:
    server.cut["/file"] = len(CONTENT) * tenth // 10
    download.download(one(server, "file", sha256=SHA), tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT
    starts = [start for _, start in server.asked]
    assert starts == list(range(0, len(CONTENT), len(CONTENT) * tenth // 10))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_killed_download_goes_on_in_the_next_process(server: Files, tmp_path: Path) -> None:
    server.content["/file"], whole = CONTENT[:0], CONTENT
    part = tmp_path / f".file.{hashlib.sha256(f'{server.url}/file'.encode()).hexdigest()[:8]}.part"
    part.write_bytes(whole[:4321])
    server.content["/file"] = whole
    download.download(one(server, "file", sha256=SHA), tmp_path / "file")
    assert server.asked == [("/file", 4321)] and (tmp_path / "file").read_bytes() == whole


def test_a_partial_file_that_is_whole_already_is_taken(server: Files, tmp_path: Path) -> None:
    part = tmp_path / f".file.{hashlib.sha256(f'{server.url}/file'.encode()).hexdigest()[:8]}.part"
    part.write_bytes(CONTENT)
    download.download(one(server, "file", sha256=SHA), tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_server_that_cannot_resume_or_whose_file_changed_starts_again(server: Files, tmp_path: Path) -> None:
    server.cut["/file"] = 4000
    with pytest.raises(ZoolibError, match="file: http"):
        server.ranges = False
        download.download(one(server, "file"), tmp_path / "file")
    server.cut.clear()
    download.download(one(server, "file"), tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == CONTENT
    server.ranges, server.cut["/file"] = True, 4000
    (tmp_path / "file").unlink()
    part = tmp_path / f".file.{hashlib.sha256(f'{server.url}/file'.encode()).hexdigest()[:8]}.part"
    part.write_bytes(b"old" * 500)
    part.with_name(part.name + ".etag").write_text('"old"')
    server.cut.clear()
    download.download(one(server, "file"), tmp_path / "file")
    assert server.asked[-1] == ("/file", 0) and (tmp_path / "file").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("known", "message"),
    [
        ({"sha256": "0" * 64}, "its sha256 is"),
        ({"sha1": "0" * 40}, "its sha1 is"),
        ({"md5": "0" * 32}, "its md5 is"),
        ({"size": 9}, "it has 10,000 bytes, not 9"),
    ],
)
def test_wrong_bytes_are_kept_aside_and_never_used(
    known: dict[str, object], message: str, server: Files, tmp_path: Path
) -> None:
    with pytest.raises(ZoolibError, match=message) as error:
        download.download(one(server, "file", **known), tmp_path / "file")
    assert "\n" not in str(error.value) and not (tmp_path / "file").exists()
    (aside,) = (tmp_path / "rejected").iterdir()
    assert aside.read_bytes() == CONTENT and str(aside) in str(error.value)


def test_an_empty_connection_is_given_up_after_a_few_tries(server: Files, tmp_path: Path) -> None:
    server.cut["/file"] = 0
    with pytest.raises(ZoolibError, match="file: http"):
        download.download(one(server, "file"), tmp_path / "file")
    assert len(server.asked) == download.TRIES


def test_a_full_disk_is_not_taken_for_a_bad_mirror(server: Files, tmp_path: Path, monkeypatch, capsys) -> None:
    def full(url: str, part: Path) -> None:
        asked.append(url)
        raise OSError(errno.ENOSPC, "No space left on device")

    asked: list[str] = []
    monkeypatch.setattr(download, "_get", full)
    with pytest.raises(OSError, match="No space left"):
        download.download(one(server, "file", "late"), tmp_path / "file")
    assert len(asked) == 1
    manifest = tiny(server, tmp_path)
    monkeypatch.setattr("zoolib.commands._things", lambda names: [manifest])
    assert main(["fetch", "eurosat"]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("zoolib: disk full: free some space")


# A dataset


def tiny(server: Files | None, tmp_path: Path, **changes: object) -> DatasetManifest:
    """EuroSAT's zip with a few images, its manifest's sizes and sums those of the tiny one."""
    folder = tmp_path / "made"
    folder.mkdir(exist_ok=True)
    items = layouts.samples(5, ("train",), range(10))
    layouts.eurosat(folder, items, 10)
    content = (folder / "EuroSAT.zip").read_bytes()
    if server:
        server.content["/EuroSAT.zip"] = content
    manifest = manifests.dataset("eurosat").model_dump(mode="json")
    manifest["sizes"] = {"train": 30, "val": 10, "test": 10}
    zipped = manifest["sources"][1]
    zipped["options"]["sizes"] = manifest["sizes"]
    zipped["files"][0] |= {"urls": [f"{server.url}/EuroSAT.zip"] if server else [], "md5": None}
    zipped["files"][0]["sha256"] = hashlib.sha256(content).hexdigest()
    manifest["sources"] = [zipped]
    return DatasetManifest.model_validate({**manifest, **changes})


def test_a_dataset_is_downloaded_verified_and_converted_once(server: Files, tmp_path: Path) -> None:
    manifest = tiny(server, tmp_path)
    folder = fetch.fetch(manifest)
    assert folder == tmp_path / "data" / "eurosat" == manifests.find(manifest)
    assert pq.read_table(folder / "train.parquet").num_rows == 30
    assert pq.read_table(folder / "val.parquet").num_rows == 10
    assert "10 test rows; unchanged" in fetch.verify(manifest)
    asked = len(server.asked)
    assert fetch.fetch(manifest) == folder and len(server.asked) == asked
    note = json.loads((folder / "source.json").read_text())
    assert note["source"] == "zip" and note["originals"]["EuroSAT.zip"] == manifest.sources[0].files[0].sha256
    sums = json.loads((tmp_path / "data/originals/eurosat/checksums.json").read_text())
    assert sums["EuroSAT.zip"]["checked_against"] == ["sha256"]


def test_a_run_knows_which_source_its_files_were_fetched_from(server: Files, tmp_path: Path) -> None:
    from zoolib.data import loaders
    from zoolib.spec import Settings

    settings = Settings(image_size=8, decode_size=8, batch_size=2, iterations=1, test_crops=1, val_fraction=0.3)
    manifest = tiny(server, tmp_path)
    assert not manifest.sources[0].official
    folder = fetch.fetch(manifest)
    assert loaders.load(manifest, settings).variant == "zip"
    note = json.loads((folder / "source.json").read_text())
    note["sha256"]["train"] = "0" * 64
    (folder / "source.json").write_text(json.dumps(note))
    sums = {split: manifests.file_sha256(folder / f"{split}.parquet") for split in ("train", "test")}
    assert manifests.fetched_from(folder, sums) is None


def test_a_file_that_changed_after_the_fetch_does_not_verify(server: Files, tmp_path: Path) -> None:
    manifest = tiny(server, tmp_path)
    folder = fetch.fetch(manifest)
    table = pq.read_table(folder / "test.parquet")
    pq.write_table(table.slice(1), folder / "test.parquet")
    with pytest.raises(ZoolibError, match=r"test\.parquet: changed since it was fetched"):
        fetch.verify(manifest)
    (folder / "test.parquet").write_bytes(b"PAR1")
    with pytest.raises(ZoolibError, match=r"test\.parquet: not a readable Parquet file"):
        fetch.verify(manifest)


def test_files_of_unknown_origin_are_compared_with_the_manifest_by_their_numbers_of_rows(
    server: Files, tmp_path: Path
) -> None:
    manifest = tiny(server, tmp_path)
    folder = fetch.fetch(manifest)
    (folder / "source.json").unlink()
    assert "30 train and 10 test rows; files of unknown origin" in fetch.verify(manifest)
    pq.write_table(pq.read_table(folder / "test.parquet").slice(1), folder / "test.parquet")
    assert "9 test rows, where the manifest has 30 and 10; files of unknown origin" in fetch.verify(manifest)


def test_files_put_there_by_hand_are_verified_and_used(tmp_path: Path) -> None:
    manifest, place = tiny(None, tmp_path), tmp_path / "data/originals/eurosat"
    with pytest.raises(ZoolibError) as error:
        fetch.fetch(manifest)
    assert f"EuroSAT.zip can only be put into {place} by hand" in str(error.value) and "\n" not in str(error.value)
    place.mkdir(parents=True)
    (place / "EuroSAT.zip").write_bytes(b"PK not the file")
    with pytest.raises(ZoolibError, match="kept aside as"):
        fetch.fetch(manifest)
    assert not (place / "EuroSAT.zip").exists()
    (place / "EuroSAT.zip").write_bytes((tmp_path / "made/EuroSAT.zip").read_bytes())
    assert fetch.fetch(manifest) == tmp_path / "data/eurosat"


def test_a_file_without_a_published_checksum_records_its_own_and_is_held_to_it(tmp_path: Path) -> None:
    manifest, place = tiny(None, tmp_path).model_dump(mode="json"), tmp_path / "data/originals/eurosat"
    manifest["sources"][0]["files"][0]["sha256"] = None
    place.mkdir(parents=True)
    whole = (tmp_path / "made/EuroSAT.zip").read_bytes()
    (place / "EuroSAT.zip").write_bytes(whole)
    fetch.fetch(DatasetManifest.model_validate(manifest))
    sums = json.loads((place / "checksums.json").read_text())["EuroSAT.zip"]
    assert sums["sha256"] == hashlib.sha256(whole).hexdigest() and "no checksum" in sums["checked_against"]
    for path in (tmp_path / "data/eurosat").iterdir():
        path.unlink()
    (place / "EuroSAT.zip").write_bytes(whole + b"x")
    with pytest.raises(ZoolibError, match="its sha256 is"):
        fetch.fetch(DatasetManifest.model_validate(manifest))


def test_every_source_is_tried_and_named_when_none_works(server: Files, tmp_path: Path, capsys) -> None:
    manifest = manifests.dataset("eurosat").model_dump(mode="json")
    manifest["sources"][1]["files"][0]["urls"] = [f"{server.url}/gone", f"{server.url}/gone2"]
    with pytest.raises(ZoolibError) as error:
        fetch.fetch(DatasetManifest.model_validate(manifest))
    for part in (
        "127.0.0.1:9/api/datasets/timm/eurosat-rgb",
        "/gone (",
        "/gone2 (",
        "originals/eurosat",
        "EuroSAT.zip",
    ):
        assert part in str(error.value)
    assert "\n" not in str(error.value)
    assert main(["fetch", "coco70"]) == 1
    assert "COCO70.tar can only be put into" in capsys.readouterr().err


def test_a_parquet_mirror_is_listed_downloaded_and_read(server: Files, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    items = layouts.samples(3, ("train", "val", "test"), range(10))
    layouts.mirror(tmp_path / "mirror", items, 10)
    listing: dict[str, dict[str, list[str]]] = {"default": {}}
    for path in sorted((tmp_path / "mirror").iterdir()):
        server.content[f"/{path.name}"] = path.read_bytes()
        listing["default"].setdefault(path.name.split("-")[0], []).append(f"{server.url}/{path.name}")
    server.content["/api/datasets/timm/eurosat-rgb/parquet"] = json.dumps(listing).encode()
    listing["default"]["contrast"] = [f"{server.url}/absent.parquet"]  # a split that nobody here asks for
    server.content["/api/datasets/timm/eurosat-rgb/parquet"] = json.dumps(listing).encode()
    sizes = {"train": 30, "val": 30, "test": 30}
    manifest = DatasetManifest.model_validate(manifests.dataset("eurosat").model_dump(mode="json") | {"sizes": sizes})
    folder = fetch.fetch(manifest)
    assert not [path for path, _ in server.asked if "absent" in path]
    assert json.loads((folder / "source.json").read_text())["source"] == "parquet-mirror"
    assert pq.read_table(folder / "train.parquet")["label"].to_pylist().count(9) == 3
    for bad in (b"[1]", b"{}", b'{"default": {"train": ["file:///etc/passwd"]}}', b"not json"):
        server.content["/api/datasets/timm/eurosat-rgb/parquet"] = bad
        with pytest.raises(ZoolibError, match="list of timm/eurosat-rgb's Parquet files is not what it should be"):
            fetch.gather(manifest, manifest.sources[0], tmp_path / "other", fetch.silent)


def test_no_half_written_dataset_is_ever_visible(server: Files, tmp_path: Path, monkeypatch) -> None:
    manifest = tiny(server, tmp_path)
    original = convert._Writer.add
    seen = []

    def failing(self: convert._Writer, row: object) -> None:
        seen.append((tmp_path / "data/eurosat").exists())
        if len(seen) == 45:
            raise OSError(28, "No space left on device")
        original(self, row)  # type: ignore[arg-type]

    monkeypatch.setattr(convert._Writer, "add", failing)
    with pytest.raises(ZoolibError, match="disk full"):
        fetch.fetch(manifest)
    assert not any(seen) and not (tmp_path / "data/eurosat").exists()
    assert not list((tmp_path / "data").glob(".*partial"))
    monkeypatch.undo()
    monkeypatch.setenv("ZOOLIB_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("ZOOLIB_BUILD", str(tmp_path / "build"))
    (tmp_path / "data/.eurosat.0123.partial").mkdir()  # a killed conversion
    assert fetch.fetch(manifest).is_dir() and not list((tmp_path / "data").glob(".*partial"))


def test_a_folder_that_is_there_already_receives_its_training_file_last(tmp_path: Path, monkeypatch) -> None:
    for name in ("train.parquet", "test.parquet", "source.json"):
        (tmp_path / "new").mkdir(exist_ok=True)
        (tmp_path / "new" / name).write_text("new")
    (tmp_path / "old").mkdir()
    (tmp_path / "old/notes.txt").write_text("mine")
    moved = []
    replace = os.replace
    monkeypatch.setattr(fetch.os, "replace", lambda a, b: (moved.append(Path(b).name), replace(a, b)))
    fetch.publish(tmp_path / "new", tmp_path / "old")
    assert moved[-1] == "train.parquet" and (tmp_path / "old/notes.txt").read_text() == "mine"


def test_two_fetches_at_once_download_once_and_agree(server: Files, tmp_path: Path) -> None:
    server.pause = 0.3
    manifest = tiny(server, tmp_path)
    (tmp_path / "m.json").write_text(manifest.model_dump_json())
    code = (
        "import sys; from pathlib import Path; from zoolib.data import fetch; from zoolib.data.manifests import *\n"
        "print(fetch.fetch(DatasetManifest.model_validate_json(Path(sys.argv[1]).read_text())))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "m.json")]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    done = [process.communicate(timeout=60) for process in both]
    assert [out.strip() for out, _ in done] == [str(tmp_path / "data/eurosat")] * 2, done
    assert [path for path, _ in server.asked] == ["/EuroSAT.zip"]
    assert not list((tmp_path / "data").glob(".*partial"))


def test_a_root_that_cannot_be_written_is_an_error_that_names_the_fix(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ZoolibError, match="set ZOOLIB_DATA to a folder of yours"):
        fetch.fetch(tiny(None, tmp_path), tmp_path / "file" / "data")


# Weights


def member(server: Files, **changes: object) -> MemberManifest:
    fields = manifests.hub("resnet50-random").members[0].model_dump(mode="json") | {
        "weights": "fetch:net-x.pth", "download": [f"{server.url}/file"],
    }  # fmt: skip
    return MemberManifest.model_validate({**fields, **changes})


def test_weights_are_checked_against_the_published_start_of_their_checksum(server: Files, tmp_path: Path) -> None:
    path = fetch.fetch_weights(member(server, sha256_prefix=SHA[:8]))
    assert path == tmp_path / "data/weights/net-x.pth" and path.read_bytes() == CONTENT
    assert fetch.stored_weights(member(server)) == path
    path.unlink()
    with pytest.raises(ZoolibError, match="its sha256 is"):
        fetch.fetch_weights(member(server, sha256_prefix="00000000"))
    with pytest.raises(ZoolibError, match="its md5 is"):
        fetch.fetch_weights(member(server, md5_prefix="00000000"))


def test_a_download_of_a_member_that_is_not_fetched_is_refused(server: Files) -> None:
    with pytest.raises(ValueError, match="download needs weights of the form"):
        member(server, weights="random")


# The command line


def test_a_fetch_into_another_place_says_how_to_use_it_or_that_it_was_not_needed(
    server: Files, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setattr("zoolib.commands._things", lambda names: [tiny(server, tmp_path)])
    assert main(["fetch", "eurosat", "--into", str(tmp_path / "aside")]) == 0
    said = capsys.readouterr().out
    assert said.endswith(f"use it: ZOOLIB_DATA={tmp_path / 'aside'}:{tmp_path / 'data'} before a command\n")
    assert main(["fetch", "eurosat"]) == 0
    assert "use it" not in capsys.readouterr().out
    assert main(["fetch", "eurosat", "--into", str(tmp_path / "third")]) == 0
    assert f"eurosat: note: it was here already, so {tmp_path / 'third'} was left as it is" in capsys.readouterr().out
    assert not (tmp_path / "third").exists()


def test_fetch_and_verify_answer_in_one_line_each(tmp_path: Path, capsys) -> None:
    assert main(["fetch", "digits"]) == 1
    assert capsys.readouterr().err == "zoolib: dataset 'digits' is embedded: there is nothing to fetch\n"
    assert main(["verify", "digits"]) == 0
    assert main(["fetch", "carss"]) == 1
    assert "unknown dataset or hub 'carss' (did you mean 'cars'?)" in capsys.readouterr().err
    assert main(["verify", "cars"]) == 1
    assert "python -m zoolib fetch cars" in capsys.readouterr().err
    assert main(["fetch", "digits-zoo"]) == 0
    assert "rotation: packaged:digits-zoo/rotation.safetensors, nothing to fetch" in capsys.readouterr().out
