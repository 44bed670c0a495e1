"""Videos as folders of frames: their order, which frames are taken, what they are asked, what is refused."""

from __future__ import annotations

import zipfile
from fractions import Fraction

import pytest
import tiny

from biaslab.core.images import load_image
from biaslab.datasets.calibration import calibration, source_folder
from biaslab.datasets.videos import evenly, find_videos, frames_of, natural
from biaslab.errors import InputError


@pytest.fixture
def videos(tmp_path):
    """Three videos of 3, 12 and 1 frames; numbers in the names sort otherwise than their letters."""
    folder = tmp_path / "videos"
    for name, n in (("clip2", 3), ("clip10", 12), ("more/clip1", 1)):
        (folder / name).mkdir(parents=True)
        for k, image in enumerate(tiny.images(n, sizes=[(60, 60)])):
            image.save(folder / name / f"frame{k + 7}.png")
    (folder / "clip2" / "notes.txt").write_text("no image")
    return folder


def names(frames):
    return [frame.name for frame in frames]


def test_each_folder_of_pictures_is_a_video_in_natural_order(videos):
    found = find_videos(videos)
    assert [(video.name, len(video.frames)) for video in found] == [("clip2", 3), ("clip10", 12), ("more/clip1", 1)]
    assert names(found[1].frames) == [f"frame{k + 7}.png" for k in range(12)]
    assert [video.name for video in find_videos(videos, n=2)] == ["clip2", "clip10"]
    assert names(frames_of([videos / "clip10"])) == names(found[1].frames)
    given = [videos / "clip2" / "frame9.png", videos / "clip2" / "frame7.png"]
    assert frames_of(given) == given  # as given, not sorted
    archive = videos.parent / "videos.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for video in found:
            for frame in video.frames:
                file.write(frame, f"all/{video.name}/{frame.name}")
    packed = find_videos(archive)
    assert [video.name for video in packed] == ["all/clip2", "all/clip10", "all/more/clip1"]
    assert load_image(packed[1].frames[3]).tobytes() == load_image(found[1].frames[3]).tobytes()


def test_frames_are_the_middles_of_equal_stretches():
    for total in range(1, 30):
        for n in range(1, 12):
            taken = evenly(range(total), n)
            if total <= n:
                assert taken == list(range(total))
                continue
            assert len(set(taken)) == n and taken == sorted(taken)
            middles = [Fraction(2 * k + 1, 2) * total / n for k in range(n)]  # frame i is the stretch from i to i + 1
            assert all(frame <= middle < frame + 1 for frame, middle in zip(taken, middles, strict=True))
            reverse = [total - 1 - frame for frame in reversed(taken)]
            assert all(abs(a - b) <= 1 for a, b in zip(taken, reverse, strict=True))  # neither end is favoured
    assert sorted(["b2", "a10", "a9", "A1", "1"], key=natural) == ["1", "A1", "a9", "a10", "b2"]


def test_a_calibration_set_of_videos(videos, tmp_path):
    vlm = tiny.vlm("internvl")
    with pytest.warns(UserWarning, match="2 of 3 videos with fewer than 4 frames: all of theirs are taken"):
        made = calibration(vlm, videos, frames=4)
    assert made.frames and made.ids == ["clip2", "clip10", "more/clip1"] and made.counted(3) == "3 videos"
    assert names(made.images[1]) == ["frame8.png", "frame11.png", "frame14.png", "frame17.png"]
    assert made.prompts == "Please describe the provided video." and made.asked is None
    assert calibration(vlm, videos, frames="all", prompt="What moves?").prompts == "What moves?"
    asked = tmp_path / "questions.csv"
    asked.write_text("image,text\nclip10,What moves?\nclip2,Who is it?\nclip10,Is it red?\n")
    with pytest.warns(UserWarning, match="says nothing of 1 video: left out"):
        made = calibration(vlm, videos, frames=2, prompts=asked, questions=2)
    assert made.ids == ["clip2", "clip10", "clip10#2"]
    assert made.prompts == ["Who is it?", "What moves?", "Is it red?"]  # word by word, no grounding prompt
    assert made.counted(3) == "3 questions on 2 videos" and made.asked["questions"] == 2
    assert source_folder(videos, frames=2) == videos


def test_what_holds_no_videos_is_said_in_one_line(videos, tmp_path):
    clip = tmp_path / "clips" / "cat.mp4"
    clip.parent.mkdir()
    clip.write_bytes(b"\0\0\0\x18ftypmp42")
    empty = tmp_path / "empty"
    empty.mkdir()
    one = videos / "clip2" / "frame7.png"
    for call, said in (
        (lambda: find_videos(videos / "clip2"), "itself holds images .frame7.png.: give a folder"),
        (lambda: find_videos("scenes"), "scenes holds no videos: give a folder"),
        (lambda: find_videos(one), "holds no videos"),
        (lambda: find_videos("owner/name"), "holds no videos"),
        (lambda: find_videos("nowhere"), "no videos 'nowhere' .looked at nowhere"),
        (lambda: find_videos(empty), "no image in"),
        (lambda: find_videos(clip), "is a video file: cut it into images, `mkdir .*clips/cat && ffmpeg -i .*cat.mp4"),
        (lambda: find_videos(clip.parent), "cat.mp4 is a video file"),
        (lambda: load_image(clip), "cat.mp4 is a video file"),
        (lambda: source_folder(clip), "cat.mp4 is a video file"),
        (lambda: frames_of([clip]), "cat.mp4 is a video file"),
        (lambda: frames_of([videos]), "holds 3 folders of images .clip2, clip10, more/clip1 ....: name the folder"),
        (lambda: frames_of([one]), "is one image: give the folder of the frames"),
        (lambda: frames_of([one, videos / "clip2"]), "is a folder: give one folder of frames, or images alone"),
        (lambda: frames_of([videos / "nowhere"]), "no folder of frames"),
        (lambda: source_folder(videos, frames=0), "frames is a whole number of frames of each video, or 'all'; got 0"),
        (lambda: source_folder(videos, frames="few"), "got 'few'"),
        (lambda: source_folder(videos, frames=2, prompts="generic"), "asks for boxes in one image"),
        (lambda: source_folder(videos, frames=2, questions=2), "say what is asked by a file"),
        (lambda: source_folder(videos, frames=2, split="test"), "videos are no data set"),
        (lambda: source_folder(videos, frames=2, columns="image=a,expression=b"), "columns are of a file"),
    ):
        with pytest.raises(InputError, match=said) as caught:
            call()
        assert "\n" not in str(caught.value)
