"""Files and folders of streams: what is made from what, and what a failure leaves."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data
from test_bitstream import additional, base

from sic import images
from sic.errors import SicError, StreamError
from sic.files import sha256
from sic.stream import files as stream_files
from sic.stream.container import MAX_BYTES
from sic.stream.files import Coded, Job, Sources
from sic.stream.rate import Target
from sic.stream.scalable import ScalableCodec

PNG = {".png"}


@pytest.fixture(scope="module")
def codec() -> ScalableCodec:
    return ScalableCodec(base(), additional(1))


@pytest.fixture
def photo(tmp_path):
    images.write_png(tmp_path / "photo.png", data.chelsea()[:40, :60])
    return Job(tmp_path / "photo.png", tmp_path / "photo.sic")


# ---- what is made from what -----------------------------------------------------------------


def test_a_folder_keeps_its_levels(tmp_path):
    for name in ("b.png", "in/a.PNG", "in/notes.txt", ".hidden.png"):
        (tmp_path / "from" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "from" / name).touch()
    jobs = stream_files.pair(tmp_path / "from", tmp_path / "to", PNG, ".sic")
    assert [job.target.relative_to(tmp_path).as_posix() for job in jobs] == [
        "to/b.sic",
        "to/in/a.sic",
    ]


def test_only_pictures_in_sight_are_meant(tmp_path):
    for name in ("b.png", ".ipynb_checkpoints/b-checkpoint.png", "._b.png", "folder.png/Thumbs.db"):
        (tmp_path / "from" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "from" / name).touch()
    jobs = stream_files.pair(tmp_path / "from", tmp_path / "to", PNG, ".sic")
    assert [job.source.name for job in jobs] == ["b.png"]


@pytest.mark.parametrize(
    ("names", "sources"),
    [
        (("a.sic", "a.enhancement.sic"), ["a.sic"]),
        # Alone it is a file that fails, not one that is passed over.
        (("a.enhancement.sic",), ["a.enhancement.sic"]),
        (("a.sic", "b.enhancement.sic"), ["a.sic", "b.enhancement.sic"]),
    ],
)
def test_second_files_are_decoded_with_their_base(tmp_path, names, sources):
    for name in names:
        (tmp_path / name).touch()
    jobs = stream_files.pair(tmp_path, tmp_path / "to", {".sic"}, ".png")
    assert [job.source.name for job in jobs] == sources


def test_no_picture_takes_the_name_of_a_second_file(tmp_path):
    for name in ("a.png", "a.enhancement.png"):
        (tmp_path / name).touch()
    with pytest.raises(SicError, match=r"a\.enhancement\.png would become .*; rename it"):
        stream_files.pair(tmp_path, tmp_path / "to", PNG, ".sic")


def test_two_sources_of_one_target_are_refused(tmp_path):
    for name in ("a.png", "a.jpg"):
        (tmp_path / name).touch()
    with pytest.raises(SicError, match=r"a\.jpg and .*a\.png would both become .*a\.sic"):
        stream_files.pair(tmp_path, tmp_path / "to", {".png", ".jpg"}, ".sic")


def test_targets_that_make_no_sense_are_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SicError, match=r"should end in \.sic"):
        stream_files.pair(tmp_path / "file", tmp_path / "a.png", PNG, ".sic")
    with pytest.raises(SicError, match=r"cannot read .*a\.png: there is no such file"):
        stream_files.pair(tmp_path / "a.png", tmp_path / "a.sic", PNG, ".sic")
    with pytest.raises(SicError, match="is a folder and"):
        stream_files.pair(tmp_path, tmp_path / "file", PNG, ".sic")
    with pytest.raises(SicError, match=r"holds no file ending in \.png"):
        stream_files.pair(tmp_path, tmp_path / "to", PNG, ".sic")


# ---- coding ---------------------------------------------------------------------------------


def test_one_file_holds_both_layers(codec, photo):
    stream_files.encode(codec, [photo], split=False)
    assert photo.target.read_bytes() == codec.encode(images.read(photo.source))


def test_split_layers_are_found_again_by_name(codec, photo, tmp_path):
    stream_files.encode(codec, [photo], split=True)
    second = tmp_path / "photo.enhancement.sic"
    stream = codec.encode(images.read(photo.source))
    assert photo.target.read_bytes() + second.read_bytes() == stream

    back = Job(photo.target, tmp_path / "back.png")
    stream_files.decode(codec, [back], "human")
    np.testing.assert_array_equal(images.read(back.target), codec.decode(stream, "human"))
    second.unlink()
    with pytest.raises(StreamError, match=r"photo\.sic: the stream has no enhancement layer"):
        stream_files.decode(codec, [back], "human")
    stream_files.decode(codec, [back], "machine")
    np.testing.assert_array_equal(images.read(back.target), codec.decode(stream, "machine"))


def test_what_a_run_before_has_written_is_left(codec, photo, tmp_path):
    for split in (False, True):
        stream_files.encode(codec, [photo], split, Sources(tmp_path))
        written = photo.target.stat().st_mtime_ns
        stream_files.encode(codec, [photo], split, Sources(tmp_path))
        assert photo.target.stat().st_mtime_ns == written


def test_a_file_on_its_own_is_written_whenever_it_is_asked_for(codec, photo):
    photo.target.write_bytes(codec.encode(data.chelsea()[40:80, :60]))
    stream_files.encode(codec, [photo], split=False)
    assert photo.target.read_bytes() == codec.encode(images.read(photo.source))


def test_other_weights_code_again(codec, photo, tmp_path):
    stream_files.encode(codec, [photo], False, Sources(tmp_path))
    other = ScalableCodec(base(), additional(2))
    stream_files.encode(other, [photo], False, Sources(tmp_path))
    assert photo.target.read_bytes() == other.encode(images.read(photo.source))


def test_other_steps_code_again(codec, photo, tmp_path):
    picture = images.read(photo.source)
    for steps in ((1.0, 1.0), (2.0, 1.0), (2.0, 0.5), (1.0, 1.0)):
        stream_files.encode(codec, [photo], False, Sources(tmp_path), steps)
        assert photo.target.read_bytes() == codec.encode(picture, *steps)
        written = photo.target.stat().st_mtime_ns
        stream_files.encode(codec, [photo], False, Sources(tmp_path), steps)
        assert photo.target.stat().st_mtime_ns == written


@pytest.mark.parametrize("step", [2.0, Target("bpp", 4.5)])
@pytest.mark.parametrize("split", [False, True])
def test_other_layers_code_again(codec, photo, tmp_path, split, step):
    alone, picture = ScalableCodec(base()), images.read(photo.source)
    second = stream_files.second_file(photo.target)
    for _ in range(2):
        for layers in (codec, alone):
            both = split and layers is codec
            stream_files.encode(layers, [photo], both, Sources(tmp_path), (step, 1.0))
            written = photo.target.read_bytes() + (second.read_bytes() if both else b"")
            assert written == layers.encode(picture, step)
            assert not stream_files.encode(layers, [photo], both, Sources(tmp_path), (step, 1.0))


def test_a_second_file_that_was_overtaken_is_written_again(codec, photo, tmp_path):
    alone, second = ScalableCodec(base()), stream_files.second_file(photo.target)
    stream_files.encode(codec, [photo], True, Sources(tmp_path))
    stream_files.encode(alone, [photo], False, Sources(tmp_path), (2.0, 1.0))
    stream_files.encode(codec, [photo], True, Sources(tmp_path), (2.0, 1.0))
    codec.decode(photo.target.read_bytes() + second.read_bytes(), "human")
    # The base of another picture, with the same weights and steps: no note tells of the second.
    stream_files.encode(codec, [photo], True, Sources(tmp_path))
    images.write_png(photo.source, data.chelsea()[40:80, :60])
    stream_files.encode(alone, [photo], False, Sources(tmp_path))
    stream_files.encode(codec, [photo], True, Sources(tmp_path))
    stream = photo.target.read_bytes() + second.read_bytes()
    assert stream == codec.encode(images.read(photo.source))


def test_notes_of_an_earlier_version_vouch_for_no_steps(codec, photo, tmp_path):
    # It wrote (step, base_step).
    stream_files.encode(codec, [photo], False, Sources(tmp_path), (2.0, 1.0))
    (tmp_path / ".sources").write_text(f"{sha256(photo.source)} (2.0, 1.0)  photo.sic\n")
    stream_files.encode(codec, [photo], False, Sources(tmp_path), (1.0, 2.0))
    assert photo.target.read_bytes() == codec.encode(images.read(photo.source), 1.0, 2.0)


def test_another_picture_is_coded_again_however_old_it_is(codec, photo, tmp_path):
    stream_files.encode(codec, [photo], False, Sources(tmp_path))
    images.write_png(photo.source, data.chelsea()[40:80, :60])
    os.utime(photo.source, (0, 0))
    stream_files.encode(codec, [photo], False, Sources(tmp_path))
    assert photo.target.read_bytes() == codec.encode(data.chelsea()[40:80, :60])


def test_a_stream_whose_picture_is_not_known_is_written_again(codec, photo, tmp_path):
    photo.target.write_bytes(codec.encode(data.chelsea()[40:80, :60]))
    stream_files.encode(codec, [photo], False, Sources(tmp_path))
    assert photo.target.read_bytes() == codec.encode(images.read(photo.source))


def test_a_run_stopped_between_stream_and_note_vouches_for_nothing(
    codec, photo, tmp_path, monkeypatch
):
    stream_files.encode(codec, [photo], False, Sources(tmp_path))
    first, cat = photo.source.read_bytes(), data.chelsea()[40:80, :60]
    images.write_png(photo.source, cat)
    sources, add = Sources(tmp_path), Sources.add

    def stop(target: Path, digest: str) -> None:
        if digest != Sources.UNKNOWN:
            raise KeyboardInterrupt
        add(sources, target, digest)

    monkeypatch.setattr(sources, "add", stop)
    with pytest.raises(KeyboardInterrupt):
        stream_files.encode(codec, [photo], False, sources)
    assert photo.target.read_bytes() == codec.encode(cat)
    photo.source.write_bytes(first)
    stream_files.encode(codec, [photo], False, Sources(tmp_path))
    assert photo.target.read_bytes() == codec.encode(images.read(photo.source))


#: As bytes: not UTF-8, with line breaks, and what other systems do not allow.
NAMES = [
    b"caf\xe9",
    b"a\nb",
    b"\xe2\x80\xa8",
    b"a:b?",
    b"con",
    b"-o",
    b"%s {x}",
    b"a\\nb",
    b"\xc3\xa9",
]


def test_names_that_are_no_text_are_coded_and_known_again(codec, tmp_path):
    source, target = tmp_path / "from", tmp_path / "to"
    for i, name in enumerate(NAMES):
        images.write_png(source / "x.png", data.chelsea()[i : i + 40, :60])
        try:
            (source / "x.png").rename(source / os.fsdecode(name + b".png"))
        except OSError:
            pytest.skip("this file system has no such names")

    def run() -> dict[bytes, int]:
        jobs = stream_files.pair(source, target, PNG, ".sic")
        sources = Sources(target)
        stream_files.each(
            jobs, lambda some: stream_files.encode(codec, some, False, sources), "encode", 4
        )
        return {
            os.fsencode(job.target.name): job.target.stat().st_mtime_ns
            for job in jobs
            if job.target.read_bytes() == codec.encode(images.read(job.source))
        }

    first = run()
    assert set(first) == {name + b".sic" for name in NAMES}
    assert run() == first, "nothing is coded again"
    for name in NAMES:
        assert stream_files.describe(target / os.fsdecode(name + b".sic")).encode()


def test_damaged_notes_cost_no_more_than_time(codec, photo, tmp_path):
    (tmp_path / ".sources").write_bytes(b"\xff\x00 \n\n")
    stream_files.encode(codec, [photo], False, Sources(tmp_path))
    assert photo.target.read_bytes() == codec.encode(images.read(photo.source))


def test_a_damaged_target_is_written_again(codec, photo, tmp_path):
    stream_files.encode(codec, [photo], False, Sources(tmp_path))
    whole = photo.target.read_bytes()
    photo.target.write_bytes(whole[:-3])
    stream_files.encode(codec, [photo], False, Sources(tmp_path))
    assert photo.target.read_bytes() == whole


def test_a_damaged_stream_leaves_no_picture(codec, photo, tmp_path):
    stream_files.encode(codec, [photo], split=False)
    photo.target.write_bytes(photo.target.read_bytes()[:-3])
    with pytest.raises(StreamError, match=r"photo\.sic: the stream is cut off"):
        stream_files.decode(codec, [Job(photo.target, tmp_path / "back.png")], "human")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["photo.png", "photo.sic"]


def test_a_huge_file_is_refused_unread(tmp_path):
    with (tmp_path / "huge.sic").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(StreamError, match="more than any"):
        stream_files.read(tmp_path / "huge.sic")


# ---- many files -----------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_one_failure_does_not_stop_the_others(tmp_path, capsys, batch):
    done = []

    def work(jobs: list[Job]) -> list[Coded]:
        names = [job.source.name for job in jobs]
        if "bad" in names:
            raise SicError("bad is bad")
        done.extend(names)
        return [Coded(job.source, 1000, 8000) for job in jobs]

    jobs = [Job(tmp_path / name, tmp_path) for name in ("a", "bad", "c")]
    with pytest.raises(SicError, match="1 of 3 files failed"):
        stream_files.each(jobs, work, "test", batch)
    assert done == ["a", "c"]
    written = capsys.readouterr()
    assert written.err.count("sic: bad is bad") == 1
    lines = [re.sub(r"\d+\.\d\d s", "T s", line) for line in written.out.splitlines()]
    assert lines == [
        f"{tmp_path / 'a'}: 1,000 bytes, 1.0000 bpp, T s",
        f"{tmp_path / 'c'}: 1,000 bytes, 1.0000 bpp, T s",
        "2 files: 2,000 bytes, 1.0000 bpp, T s",
    ]


def test_a_name_that_is_no_text_is_printed_all_the_same(capsys):
    job = Job(Path("caf\udce9.png"), Path("caf\udce9.sic"))
    stream_files.each([job], lambda _: [Coded(job.target, 1000, 8000)], "test", 1)
    assert capsys.readouterr().out.startswith("caf\\udce9.sic: 1,000 bytes, 1.0000 bpp, ")


@pytest.mark.parametrize("names", [("a",), ("a", "b")])
def test_what_was_left_is_said(names, tmp_path, capsys):
    jobs = [Job(tmp_path / name, tmp_path) for name in names]
    stream_files.each(jobs, lambda _: [], "test", 1)
    count = len(names)
    said = f"{count} of {count} left as they are: written before of the same pictures\n"
    assert capsys.readouterr().out == said


@pytest.mark.parametrize("shape", [(6000, 6000), (1, 65536)])
@pytest.mark.parametrize("batch", [1, 2])
def test_a_picture_that_no_stream_can_hold_is_named(codec, tmp_path, capsys, shape, batch):
    Image.new("1", shape[::-1]).save(tmp_path / "b.png")
    jobs = [Job(tmp_path / "b.png", tmp_path / "b.sic")]
    size = f"{shape[0]}×{shape[1]}"
    with pytest.raises(SicError, match=rf"^{tmp_path}/b\.png: .* {size} .*; cut or scale it$"):
        stream_files.each(jobs, lambda some: stream_files.encode(codec, some, False), "", batch)
    images.write_png(tmp_path / "a.png", data.chelsea()[:40, :60])
    jobs = [Job(tmp_path / "a.png", tmp_path / "a.sic"), *jobs]
    with pytest.raises(SicError, match="1 of 2 files failed"):
        stream_files.each(jobs, lambda some: stream_files.encode(codec, some, False), "", batch)
    assert f"sic: {tmp_path}/b.png: a picture of {size} pixels" in capsys.readouterr().err
    assert (tmp_path / "a.sic").is_file()


def test_a_folder_is_coded_in_batches(codec, tmp_path):
    photos = [data.chelsea()[i : i + 40, :60] for i in range(3)] + [data.chelsea()[:200, :60]]
    jobs = [Job(tmp_path / f"{i}.png", tmp_path / f"{i}.sic") for i in range(len(photos))]
    for job, photo in zip(jobs, photos, strict=True):
        images.write_png(job.source, photo)
    stream_files.each(jobs, lambda some: stream_files.encode(codec, some, False), "encode", 4)
    streams = [encoding.stream for encoding in codec.encode_batch(photos)]
    assert [job.target.read_bytes() for job in jobs] == streams


def test_a_description_adds_up(codec, photo):
    stream_files.encode(codec, [photo], split=False)
    text = stream_files.describe(photo.target)
    size = photo.target.stat().st_size
    assert f"60×40 pixels, RGB8, {size} bytes, {8 * size / 2400:.4f} bpp" in text
    rows = [line.split() for line in text.splitlines()[2:8]]
    assert [row[:2] for row in rows] == [
        [layer, part] for layer in ("base", "fusion") for part in ("header", "z", "y")
    ]
    assert sum(int(row[2]) for row in rows) == size
    assert text.count("written on") == 2
