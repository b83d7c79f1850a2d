"""The command line: ``python -m sic encode | decode | info | segment | edges | train | …``.

Each command is a function of its words; heavy modules are imported inside it.  Exit codes: 0 done,
1 an error (one line on stderr), 2 wrong usage, 130 stopped.
"""

import argparse
import os
import re
import signal
import sys
import warnings
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from sic import work
from sic.errors import STOPPED, SicError, exit_on_error
from sic.files import need_weights
from sic.stream import files as stream_files
from sic.stream.container import nearest_step
from sic.stream.rate import Target

if TYPE_CHECKING:
    from sic.stream.rate import Step, Unit
    from sic.stream.scalable import Reader


def encode(words: Namespace) -> None:
    """`encode photo.png -o photo.sic --base B --enhancement E`: one picture, or a folder."""
    from sic.images import SUFFIXES

    if words.split and words.enhancement is None:
        raise SicError("--split needs an --enhancement to split off")
    if words.enhancement is None and (words.base_step, words.base_bpp) != (None, None):
        raise SicError("--base-step and --base-bpp need an --enhancement; of one layer give --step")
    steps = _step(words, "step", "bpp", "psnr", "bytes"), _step(words, "base_step", "base_bpp")
    jobs = stream_files.pair(words.source, words.output, SUFFIXES, stream_files.SUFFIX)
    do = partial(stream_files.encode, split=words.split, steps=steps)
    _each(words, jobs, do, "encode", words.output if words.source.is_dir() else None)


def decode(words: Namespace) -> None:
    """`decode photo.sic -o out.png --base B --enhancement E --layer human`: a file, or a folder."""
    layer: Reader = words.layer or ("human" if words.enhancement else "machine")
    if layer == "human" and words.enhancement is None:
        raise SicError("--layer human needs --enhancement, the weights of the second layer")
    jobs = stream_files.pair(words.source, words.output, {stream_files.SUFFIX}, ".png")
    _each(words, jobs, partial(stream_files.decode, layer=layer), "decode")


def info(words: Namespace) -> None:
    """`info photo.sic`: the parts of files."""
    for source in words.source:
        for path in stream_files.listing(source, {stream_files.SUFFIX}):
            print(stream_files.describe(path))


def verify_streams(words: Namespace) -> None:
    """`verify-streams`: decode the test vectors of the format, and exit with 1 if one stage of one
    stream is not as it must be."""
    from sic.stream import vectors

    right = []
    for ok, line in vectors.check(words.vectors or vectors.VECTORS):
        print(line)
        right.append(ok)
    if not all(right):
        raise SicError(
            f"{right.count(False)} of {len(right)} streams do not decode here as they must; "
            "docs/format.md, section 9, says what each stage is"
        )


def import_weights(words: Namespace) -> None:
    """`import-weights icm.pth.tar --as base`: check a published checkpoint against the codec it
    should be, and write it in our format."""
    if (words.role == "additional") != (words.m is not None):
        raise SicError("--m goes with --as additional, and is needed there: the number of slices")
    if not words.source.is_file():
        raise SicError(f"no file {words.source}; give the path of the published checkpoint")
    from sic.codec import weights
    from sic.files import sha256

    sizes = {"N": words.N, "M": words.M, "num_slices": words.num_slices}
    sizes |= {} if words.m is None else {"m": words.m}
    kind = {"base": "tcm", "lic": "tcm"}.get(words.role, words.role)
    try:
        codec = weights.KINDS[kind](**sizes)
    except ValueError as error:
        raise SicError(f"no codec has these sizes: {error}") from None
    # Of the name only what tells the format goes: published names have dots in numbers too.
    name = re.sub(r"(?i)(?<=.)(\.(pth|pt|tar|ckpt|safetensors))+$", "", words.source.name)
    output = words.output or Path("data/weights") / f"{name}.safetensors"
    origin = {"imported": words.source.name, "sha256": sha256(words.source), "as": words.role}
    if output.exists() and not weights.is_from(output, origin):
        raise SicError(f"{output} is there already, with other weights; name another with -o")
    weights.import_published(words.source, codec)
    weights.save(output, codec, origin)
    print(f"{output}: {weights.label(codec)}, {weights.settings(codec)}")


def segment(_: Namespace) -> None:
    """`segment`: segment the pictures of data/images.json as params.yaml says."""
    from sic import params
    from sic.masks import segment

    header = segment.run(params.load())
    print(f"{header['records']:,} segments of {header['images']:,} images in data/segments")


def edges(_: Namespace) -> None:
    """`edges`: draw as the stage would, which then finds the masks and takes them up."""
    from sic import params
    from sic.masks import edges

    folder = edges.draw(params.load())
    print(f"the masks are drawn in {folder}; `dvc repro` takes them up")


def train(words: Namespace) -> None:
    """`train fusion/m5-q2`, or `torchrun --nproc-per-node 8 -m sic train fusion/m5-q2`: train as
    the stage would, which then finds the run finished and takes it up."""
    from sic import params
    from sic.training import jobs

    job = jobs.job(params.load(), words.codec)
    job.train()
    if work.Worker.from_environment().rank == 0:
        print(f"{job.run.name} is trained; `dvc repro` takes it up")


def ship(words: Namespace) -> None:
    """`ship`, `ship sa_icm/q3`: round trained codecs, and write them where `init` finds them."""
    from sic import params
    from sic.training import jobs

    study = params.load()
    names = words.codec or study.codecs
    print(f"{len(names)} codecs shipped; {jobs.ship(names, study)} describes them")


def _step(words: Namespace, *options: str) -> "Step":
    """A layer's step, or what it is to reach, by the one of these options that is given; else 1."""
    given = [option for option in options if getattr(words, option) is not None]
    if len(given) > 1:
        names = " and ".join("--" + option.replace("_", "-") for option in given)
        raise SicError(f"{names} each choose the step of the same layer; give one of them")
    for option in given:
        unit, value = option.removeprefix("base_"), getattr(words, option)
        return nearest_step(value) if unit == "step" else Target(cast("Unit", unit), value)
    return 1.0


def _each(
    words: Namespace,
    jobs: list[stream_files.Job],
    do: Callable[..., list[stream_files.Coded]],
    verb: str,
    folder: Path | None = None,
) -> None:
    """Do the jobs with the codec of the words; the sources of a folder that is written count."""
    base = words.base or _shipped_base()
    for path in filter(None, (base, words.enhancement)):
        need_weights(path)
    task = stream_files.Work(do, base, words.enhancement, words.device, folder)
    stream_files.each(jobs, task, verb, words.batch, task.processes())


def _shipped_base() -> Path:
    from sic import params

    if not params.PARAMS.is_file():
        raise SicError(f"--base: name the base's weights; there is no {params.PARAMS} to name them")
    return work.WEIGHTS / f"{params.load().base}.safetensors"


def _parser() -> ArgumentParser:
    description = "Scalable image coding for humans and machines."
    whole = ArgumentParser(prog="sic", description=description)
    commands = whole.add_subparsers(dest="command", required=True, metavar="command")

    def command(name: str, run: Callable[[Namespace], None], what: str) -> ArgumentParser:
        parser = commands.add_parser(name, help=what)
        parser.set_defaults(run=run)
        return parser

    parser = command(
        "encode", encode, "picture(s) to .sic: a base layer for machines, an enhancement for people"
    )
    parser.add_argument("source", type=Path, help="a picture, or a folder of pictures")
    _add_coding(parser, "the .sic file, or folder, to write")
    what = "write the enhancement to a second file, NAME.enhancement.sic"
    parser.add_argument("--split", action="store_true", help=what)
    what = "quantisation step of the last layer: above 1 fewer bits, below 1 more (default: 1)"
    parser.add_argument("--step", type=float, metavar="STEP", help=what)
    what = "choose the step for a file of at most so many {}, both layers together"
    parser.add_argument("--bpp", type=float, metavar="BITS", help=what.format("bits per pixel"))
    parser.add_argument("--bytes", type=float, metavar="N", help=what.format("bytes"))
    what = "choose the step for a picture of at least so many dB"
    parser.add_argument("--psnr", type=float, metavar="DB", help=what)
    what = "the same for the base below an enhancement"
    parser.add_argument("--base-step", type=float, metavar="STEP", help=what)
    parser.add_argument("--base-bpp", type=float, metavar="BITS", help=what)
    parser = command("decode", decode, ".sic file(s) to PNG")
    parser.add_argument("source", type=Path, help="a .sic file, or a folder of them")
    _add_coding(parser, "the .png file, or folder, to write")
    what = "machine: x̂_t from the base layer; human: x̂ from both "
    what += "(default: human if --enhancement is given)"
    parser.add_argument("--layer", choices=("machine", "human"), help=what)
    parser = command("info", info, "what is in a .sic file, and the bits of each part")
    parser.add_argument("source", type=Path, nargs="+", help=".sic files, or folders of them")
    what = "decode the format's test vectors, and name the first stage that differs here"
    parser = command("verify-streams", verify_streams, what)
    what = "(default: data/streams/vectors.zip)"
    parser.add_argument("vectors", type=Path, nargs="?", help=what)
    what = "published checkpoint (ICM, ICA, LIC-TCM) to one of this study"
    parser = command("import-weights", import_weights, what)
    parser.add_argument("source", type=Path, help="the published file, such as icm.pth.tar")
    roles = ("base", "lic", "additional", "difference")
    what = "what it is: base and lic are both a TCM"
    parser.add_argument("--as", dest="role", choices=roles, required=True, help=what)
    parser.add_argument("--m", type=int, help="slices of an additional codec")
    parser.add_argument("--N", type=int, default=128, help="(default: 128)")
    parser.add_argument("--M", type=int, default=320, help="(default: 320)")
    parser.add_argument("--num-slices", type=int, default=5, help="n of the base (default: 5)")
    what = "(default: data/weights/NAME.safetensors)"
    parser.add_argument("-o", "--output", type=Path, help=what)
    command("segment", segment, "the study's segment stage without its notebook")
    command("edges", edges, "edge masks of data/segments, for the edges stage")
    many = "torchrun or srun may start many processes"
    parser = command("train", train, f"one codec of the study without its notebook; {many}")
    what = "by its folder in artifacts: sa_icm/q3 | lic/q1 | fusion/m5-q1 | difference/q1"
    parser.add_argument("codec", help=what)
    what = "trained codecs of the study as float16 weights in data/weights, with cards"
    parser = command("ship", ship, what)
    what = "sa_icm/Q | lic/Q | fusion/mM-Q | difference/Q (default: all)"
    parser.add_argument("codec", nargs="*", help=what)
    return whole


def _add_coding(parser: ArgumentParser, output: str) -> None:
    """Add what encode and decode have in common."""
    parser.add_argument("-o", "--output", type=Path, required=True, help=output)
    what = "checkpoint of the base (.safetensors); default: of those in data/weights the one that "
    what += "sa_icm.base in params.yaml names"
    parser.add_argument("--base", type=Path, help=what)
    what = "checkpoint of the additional or the difference codec"
    parser.add_argument("--enhancement", type=Path, help=what)
    devices = ("auto", "cpu", "cuda")
    what = "where the transforms run (default: auto, a GPU if there is one)"
    parser.add_argument("--device", choices=devices, default="auto", help=what)
    what = "files of a folder whose transforms run together, if they have one size; a GPU is "
    what += "quicker so, a CPU is not (default: 1)"
    parser.add_argument("--batch", type=_count, default=1, help=what)


def _count(word: str) -> int:
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"{word!r} is no whole number from 1 on")
    return int(word)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command, of these words or of those of this process."""
    chosen = _parser().parse_args(arguments)
    # Libraries warn of their own future when imported; the user's errors are one line.
    warnings.simplefilter("ignore", FutureWarning)
    try:
        exit_on_error(lambda: chosen.run(chosen))
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, as in `sic info … | head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except KeyboardInterrupt:
        print("sic: stopped", file=sys.stderr)
        sys.exit(STOPPED)


if __name__ == "__main__":
    main()
