"""Processes share a collection of maps without waiting for each other; the maps are those of one process."""

from __future__ import annotations

import numpy as np
import pytest
import tiny

from biaslab._util.launch import Launch
from biaslab.errors import InputError, RunFolderError
from biaslab.maps import parts
from biaslab.maps.collect import collect
from biaslab.maps.parts import PartMaps
from biaslab.maps.stored import StoredMaps, load_maps

N, SIZE = 11, 2  # six batches


@pytest.fixture(scope="module")
def vlm():
    return tiny.vlm("internvl")


@pytest.fixture(scope="module")
def whole(vlm, tmp_path_factory):
    """The same maps by one process that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "maps"
    gather(vlm, folder)
    return folder


def rank(index, world):
    return Launch(rank=index, world_size=world, local_rank=index, local_world_size=world, id="test")


def gather(vlm, folder, launch=None, images=None, **options):
    """Collect images of two layouts with prompts of several lengths: what a map is depends on its batch."""
    images = tiny.images(N) if images is None else images
    settings = {"layers": [0, 2], "batch_size": SIZE, "progress": False, "ids": [f"{i}.jpg" for i in range(N)]}
    options.setdefault("prompt", ["Where is it? " * (1 + i % 3) for i in range(N)])
    return collect(vlm, images, out=folder, launch=launch, **(settings | options))


def files(folder):
    names = ("maps.json", "images.jsonl", "layer-000.f32", "layer-002.f32")
    assert sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) == sorted(names)
    return {name: (folder / name).read_bytes() for name in names}


def interrupted_after(monkeypatch, images):
    """Interrupt in the middle of a batch, when so many images of it were written."""
    written, add = [], StoredMaps.add

    def counted(self, record, attention):
        if len(written) == images:
            raise KeyboardInterrupt
        written.append(record.id)
        add(self, record, attention)

    monkeypatch.setattr(StoredMaps, "add", counted)


def test_the_last_of_three_puts_together_what_one_process_would_have_collected(vlm, tmp_path, whole, caplog):
    folder = tmp_path / "maps"
    for index in (2, 0):
        maps = gather(vlm, folder, rank(index, 3))
        assert isinstance(maps, PartMaps) and maps.whole is None and 0 < maps.n < N
    assert "of 11 images of all ranks are in, the one that ends last finishes the work" in caplog.messages[-1]
    maps = gather(vlm, folder, rank(1, 3))
    assert type(maps) is StoredMaps and maps.n == N
    assert files(folder) == files(whole)
    again = [gather(vlm, folder, rank(index, 3)) for index in range(3)]
    assert [isinstance(maps, PartMaps) for maps in again] == [False, True, True]  # nothing to do: the first one goes on
    assert type(gather(vlm, folder)) is StoredMaps and files(folder) == files(whole)


def test_any_number_of_processes_goes_on_with_what_others_left(vlm, tmp_path, whole, monkeypatch):
    folder = tmp_path / "maps"
    for launch, images in ((None, 3), (rank(2, 3), 1), (rank(0, 3), 1), (Launch(), 1), (rank(1, 2), 1)):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            interrupted_after(patch, images)
            gather(vlm, folder, launch)
    assert StoredMaps(folder).n == 3  # of the first one, which was alone
    for index in range(2):
        maps = gather(vlm, folder, rank(index, 2))
    assert type(maps) is StoredMaps and files(folder) == files(whole)


def test_a_process_that_is_killed_while_it_puts_together_loses_nothing(vlm, tmp_path, whole, monkeypatch, caplog):
    folder = tmp_path / "maps"
    gather(vlm, folder, rank(1, 2))
    (folder / "parts" / "host-7").mkdir(parents=True)  # of one that was killed before its first image
    (folder / "parts" / "host-7" / "maps.json").write_bytes((folder / "maps.json").read_bytes())
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupted_after(patch, 6 + 4)  # six of its own, four of the maps
        gather(vlm, folder, rank(0, 2))
    assert load_maps(folder).n == 4
    assert "has 11 images more in parts that were not put together" in caplog.text
    assert type(gather(vlm, folder)) is StoredMaps and files(folder) == files(whole)


def test_two_that_end_at_the_same_time_do_not_leave_it_to_each_other(vlm, tmp_path, whole, monkeypatch):
    """One looks whether all are in, and before it has looked to the end the other one ends."""
    folder, settled, other = tmp_path / "maps", parts._settled, []

    def slow(*prompt):
        if not other:
            other.append("at work")
            other.append(gather(vlm, folder, rank(1, 2)))
        return settled(*prompt)

    monkeypatch.setattr(parts, "_settled", slow)
    assert isinstance(gather(vlm, folder, rank(0, 2)), PartMaps) and type(other[1]) is StoredMaps
    assert files(folder) == files(whole)


def test_an_image_that_fails_is_one_line_and_costs_only_itself(vlm, tmp_path, whole):
    folder, images = tmp_path / "maps", list(tiny.images(N))
    images[4] = tmp_path / "missing.jpg"
    assert isinstance(gather(vlm, folder, rank(0, 2), images), PartMaps)
    with pytest.warns(UserWarning, match=r"1 image skipped, the first: .*missing\.jpg"):
        maps = gather(vlm, folder, rank(1, 2), images)
    assert [name for name, _ in maps.failures] == ["4.jpg"] and maps.n == N - 1
    alone = tmp_path / "alone"
    with pytest.warns(UserWarning):
        gather(vlm, alone, images=images)
    assert files(folder) == files(alone)
    images[4] = tiny.images(N)[4]  # mended: the next command collects it
    gather(vlm, folder, rank(0, 2), images)
    assert gather(vlm, folder, rank(1, 2), images).whole is None
    assert StoredMaps(folder).n == N and StoredMaps(folder).ids()[-1] == "4.jpg"


def test_no_image_at_all_is_an_error(vlm, tmp_path):
    images = [tmp_path / f"{i}.jpg" for i in range(N)]
    gather(vlm, tmp_path / "maps", rank(0, 2), images)
    with pytest.raises(InputError, match="no image to collect from; 11 images skipped"):
        gather(vlm, tmp_path / "maps", rank(1, 2), images)


def test_two_commands_do_not_share_a_folder(vlm, tmp_path, monkeypatch):
    folder, refused = tmp_path / "maps", []
    monkeypatch.setattr(parts, "_WAIT_SECONDS", 0.1)
    add = StoredMaps.add

    def at_work(self, record, attention):
        add(self, record, attention)
        if not refused:
            refused.append(1)
            for launch in (rank(0, 2), rank(0, 3), rank(2, 3), Launch(), None):
                with pytest.raises(RunFolderError, match="another command is at work in"):
                    gather(vlm, folder, launch)
            gather(vlm, folder, rank(1, 2))  # of the same command

    monkeypatch.setattr(StoredMaps, "add", at_work)
    assert type(gather(vlm, folder, rank(0, 2))) is StoredMaps and refused


def test_ranks_wait_for_nobody_who_is_alone_in_the_folder(vlm, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "_WAIT_SECONDS", 0.1)
    gather(vlm, tmp_path / "maps", ids=[f"{i}.jpg" for i in range(N)])
    with StoredMaps(tmp_path / "maps").writing(), pytest.raises(RunFolderError, match="another process is writing"):
        gather(vlm, tmp_path / "maps", rank(0, 2))


def test_other_settings_are_refused_by_any_part(vlm, tmp_path):
    gather(vlm, tmp_path / "maps", rank(0, 2))
    for launch in (rank(1, 2), rank(4, 5), None):
        with pytest.raises(RunFolderError, match="was collected with layers"):
            gather(vlm, tmp_path / "maps", launch, layers=[1])
    with pytest.raises(InputError, match="rank 0 of 2 shares the images with the others in a folder: pass maps="):
        gather(vlm, None, rank(0, 2))


def test_every_batch_is_that_of_one_process_whoever_does_it(vlm, tmp_path, whole, monkeypatch):
    """Interrupted within a batch, the batch is done again as a whole: maps do not depend on interruptions."""
    seen, prepare = [], type(vlm).prepare

    def counted(self, images, *rest, **options):
        seen.append(len(images))
        return prepare(self, images, *rest, **options)

    monkeypatch.setattr(type(vlm), "prepare", counted)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupted_after(patch, 3)
        gather(vlm, tmp_path / "maps")
    assert seen == [2, 2]
    seen.clear()
    gather(vlm, tmp_path / "maps")
    assert seen == [2, 2, 2, 2, 1] and files(tmp_path / "maps") == files(whole)
    other = gather(vlm, tmp_path / "wide", batch_size=3).values(1)
    assert not np.array_equal(other, StoredMaps(whole).values(1))  # equal maps need equal batches


def test_shares_are_even(vlm, tmp_path):
    counts = []
    for index in range(3):
        maps = PartMaps(tmp_path / "maps", {"layers": [0], "folds": 5, "heads": "mean"}, rank(index, 3))
        source = type("Source", (), {"prompts": []})()
        counts.append(maps.share_in(source, 100, 8))
        assert [batch for batch in range(7) if source.takes(batch)] == list(range(index, 7, 3))
    assert counts == [36, 32, 32] and sum(counts) == 100


def test_a_list_without_pictures_is_a_failure_and_a_finished_picture_that_is_gone_is_none(vlm, tmp_path, monkeypatch):
    images, texts, names = tiny.images(3), tiny.texts(4), ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
    for ids, name in ((names, "2.jpg"), (None, "2")):
        with pytest.warns(
            UserWarning, match="1 image skipped, the first: an empty list among the images: leave it out"
        ):
            maps = gather(vlm, None, images=[*images[:2], [], images[2]], prompt=texts, ids=ids)
        assert [failed for failed, _ in maps.failures] == [name] and maps.n == 3
    images[0].save(tmp_path / "0.png")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupted_after(patch, 1)
        gather(vlm, tmp_path / "maps", images=[tmp_path / "0.png", images[1]], prompt=texts[:2], ids=names[:2])
    (tmp_path / "0.png").unlink()
    maps = gather(vlm, tmp_path / "maps", images=[tmp_path / "0.png", images[1]], prompt=texts[:2], ids=names[:2])
    assert maps.n == 2 and not maps.failures
