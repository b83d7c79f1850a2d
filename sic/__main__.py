"""The command line: ``python -m sic encode | decode | info | segment | edges | train | …``.

A command is a function that adds its arguments and one that runs it; heavy modules are imported
inside the latter.  Exit codes: 0 done, 1 an error (one line on stderr), 2 wrong usage, 130 stopped.
"""

import argparse
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sic import work
from sic.errors import SicError, exit_on_error
from sic.files import need_weights
from sic.stream import files as stream_files

if TYPE_CHECKING:
    from sic.stream.scalable import Reader, ScalableCodec

Commands = argparse._SubParsersAction


def add_encode(commands: Commands) -> None:
    """`encode photo.png -o photo.sic --base B --enhancement E`."""
    parser = commands.add_parser(
        "encode", help="picture(s) to .sic: a base layer for machines, an enhancement for people"
    )
    parser.add_argument("source", type=Path, help="a picture, or a folder of pictures")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, help="the .sic file, or folder, to write"
    )
    _add_weights(parser)
    parser.add_argument(
        "--split",
        action="store_true",
        help="write the enhancement to a second file, NAME.enhancement.sic",
    )
    parser.set_defaults(run=run_encode)


def run_encode(arguments: argparse.Namespace) -> None:
    """Code one picture or a folder of them."""
    if arguments.split and arguments.enhancement is None:
        raise SicError("--split needs an --enhancement to split off")
    from sic.images import SUFFIXES

    jobs = stream_files.pair(arguments.source, arguments.output, SUFFIXES, stream_files.SUFFIX)
    codec = _codec(arguments)
    sources = stream_files.Sources(arguments.output) if arguments.source.is_dir() else None
    stream_files.each(
        jobs,
        lambda some: stream_files.encode(codec, some, arguments.split, sources),
        "encode",
        arguments.batch,
    )


def add_decode(commands: Commands) -> None:
    """`decode photo.sic -o out.png --base B --enhancement E --layer human`."""
    parser = commands.add_parser("decode", help=".sic file(s) to PNG")
    parser.add_argument("source", type=Path, help="a .sic file, or a folder of them")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, help="the .png file, or folder, to write"
    )
    _add_weights(parser)
    parser.add_argument(
        "--layer",
        choices=("machine", "human"),
        help="machine: x̂_t from the base layer; human: x̂ from both "
        "(default: human if --enhancement is given)",
    )
    parser.set_defaults(run=run_decode)


def run_decode(arguments: argparse.Namespace) -> None:
    """Decode one file or a folder of them."""
    layer: Reader = arguments.layer or ("human" if arguments.enhancement else "machine")
    if layer == "human" and arguments.enhancement is None:
        raise SicError("--layer human needs --enhancement, the weights of the second layer")
    jobs = stream_files.pair(arguments.source, arguments.output, {stream_files.SUFFIX}, ".png")
    codec = _codec(arguments)
    stream_files.each(
        jobs, lambda some: stream_files.decode(codec, some, layer), "decode", arguments.batch
    )


def add_info(commands: Commands) -> None:
    """`info photo.sic`."""
    parser = commands.add_parser("info", help="what is in a .sic file, and the bits of each part")
    parser.add_argument("source", type=Path, nargs="+", help=".sic files, or folders of them")
    parser.set_defaults(run=run_info)


def run_info(arguments: argparse.Namespace) -> None:
    """Print the parts of files."""
    for source in arguments.source:
        for path in stream_files.listing(source, {stream_files.SUFFIX}):
            print(stream_files.describe(path))


def add_import_weights(commands: Commands) -> None:
    """`import-weights icm.pth.tar --as base`."""
    parser = commands.add_parser(
        "import-weights", help="published checkpoint (ICM, ICA, LIC-TCM) to one of this study"
    )
    parser.add_argument("source", type=Path, help="the published file, such as icm.pth.tar")
    parser.add_argument(
        "--as",
        dest="role",
        choices=("base", "lic", "additional", "difference"),
        required=True,
        help="what it is: base and lic are both a TCM",
    )
    parser.add_argument("--m", type=int, help="slices of an additional codec")
    parser.add_argument("--N", type=int, default=128, help="(default: 128)")
    parser.add_argument("--M", type=int, default=320, help="(default: 320)")
    parser.add_argument("--num-slices", type=int, default=5, help="n of the base (default: 5)")
    parser.add_argument(
        "-o", "--output", type=Path, help="(default: data/weights/NAME.safetensors)"
    )
    parser.set_defaults(run=run_import_weights)


def run_import_weights(arguments: argparse.Namespace) -> None:
    """Check a published checkpoint against the codec it should be, and write it in our format."""
    if (arguments.role == "additional") != (arguments.m is not None):
        raise SicError("--m goes with --as additional, and is needed there: the number of slices")
    if not arguments.source.is_file():
        raise SicError(f"no file {arguments.source}; give the path of the published checkpoint")
    from sic.codec import weights
    from sic.files import sha256

    sizes = {"N": arguments.N, "M": arguments.M, "num_slices": arguments.num_slices}
    sizes |= {} if arguments.m is None else {"m": arguments.m}
    kind = {"base": "tcm", "lic": "tcm"}.get(arguments.role, arguments.role)
    try:
        codec = weights.KINDS[kind](**sizes)
    except ValueError as error:
        raise SicError(f"no codec has these sizes: {error}") from None
    # Of the name only what tells the format goes: published names have dots in numbers too.
    name = re.sub(r"(?i)(?<=.)(\.(pth|pt|tar|ckpt|safetensors))+$", "", arguments.source.name)
    output = arguments.output or Path("data/weights") / f"{name}.safetensors"
    origin = {"imported": arguments.source.name, "sha256": sha256(arguments.source)}
    origin["as"] = arguments.role
    if output.exists() and not weights.is_from(output, origin):
        raise SicError(f"{output} is there already, with other weights; name another with -o")
    weights.import_published(arguments.source, codec)
    weights.save(output, codec, origin)
    print(f"{output}: {weights.label(codec)}, {weights.settings(codec)}")


def add_segment(commands: Commands) -> None:
    """`segment`, or `torchrun --nproc-per-node 8 -m sic segment`."""
    parser = commands.add_parser(
        "segment",
        help="the study's segment stage without its notebook; torchrun or srun may start many",
    )
    parser.set_defaults(run=run_segment)


def run_segment(_: argparse.Namespace) -> None:
    """Segment the pictures of data/images.json as params.yaml says; see docs/masks.md."""
    from sic import params
    from sic.masks import segment

    header = segment.run(params.load())
    if header is not None:  # None in a process that only helped
        print(f"{header['records']:,} segments of {header['images']:,} images in data/segments")


def add_edges(commands: Commands) -> None:
    """`edges`, or `torchrun --nproc-per-node 8 -m sic edges`."""
    parser = commands.add_parser(
        "edges",
        help="edge masks of data/segments, for the edges stage; torchrun or srun may start many",
    )
    parser.set_defaults(run=run_edges)


def run_edges(_: argparse.Namespace) -> None:
    """Draw as the stage would; it then finds the masks and takes them up.  See docs/masks.md."""
    from sic import params
    from sic.masks import edges

    folder = edges.draw(params.load())
    if folder is not None:  # None in a process that only helped
        print(f"the masks are drawn in {folder}; `dvc repro` takes them up")


def add_train(commands: Commands) -> None:
    """`train fusion/m5-q2`, or `torchrun --nproc-per-node 8 -m sic train fusion/m5-q2`."""
    parser = commands.add_parser(
        "train",
        help="one codec of the study without its notebook; torchrun or srun may start many",
    )
    parser.add_argument(
        "codec", help="by its folder in artifacts: sa_icm | lic/q1 | fusion/m5-q1 | difference/q1"
    )
    parser.set_defaults(run=run_train)


def run_train(arguments: argparse.Namespace) -> None:
    """Train as the stage would; it then finds the run finished and takes it up."""
    from sic import params
    from sic.training import jobs

    job = jobs.job(params.load(), arguments.codec)
    job.train()
    if work.Worker.from_environment().rank == 0:
        print(f"{job.run.name} is trained; `dvc repro` takes it up")


def add_ship(commands: Commands) -> None:
    """`ship`, `ship sa_icm`."""
    parser = commands.add_parser(
        "ship", help="trained codecs of the study as float16 weights in data/weights, with cards"
    )
    parser.add_argument(
        "codec", nargs="*", help="sa_icm | lic/Q | fusion/mM-Q | difference/Q (default: all)"
    )
    parser.set_defaults(run=run_ship)


def run_ship(arguments: argparse.Namespace) -> None:
    """Round trained codecs and write them where `init` of params.yaml finds them."""
    from sic import params
    from sic.training import jobs

    study = params.load()
    names = arguments.codec or study.codecs
    print(f"{len(names)} codecs shipped; {jobs.ship(names, study)} describes them")


def _add_weights(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--base", type=Path, required=True, help="checkpoint of the base (.safetensors)"
    )
    parser.add_argument(
        "--enhancement", type=Path, help="checkpoint of the additional or the difference codec"
    )
    parser.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="where the transforms run (default: auto, a GPU if there is one)",
    )
    parser.add_argument(
        "--batch",
        type=_count,
        default=1,
        help="files of a folder whose transforms run together, if they have one size; a GPU is "
        "quicker so, a CPU is not (default: 1)",
    )


def _count(word: str) -> int:
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"{word!r} is no whole number from 1 on")
    return int(word)


def _codec(arguments: argparse.Namespace) -> "ScalableCodec":
    for path in filter(None, (arguments.base, arguments.enhancement)):
        need_weights(path)
    from sic.stream.scalable import ScalableCodec

    device = work.device(arguments.device, "--device")
    return ScalableCodec.load(arguments.base, arguments.enhancement, device)


#: Every command, in the order of the help text.
COMMANDS: tuple[Callable[[Commands], None], ...] = (
    add_encode,
    add_decode,
    add_info,
    add_import_weights,
    add_segment,
    add_edges,
    add_train,
    add_ship,
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command.

    Args:
        arguments: the words after the program's name; None for those of this process.
    """
    parser = argparse.ArgumentParser(
        prog="sic", description="Scalable image coding for humans and machines."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for add in COMMANDS:
        add(commands)
    chosen = parser.parse_args(arguments)
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
        sys.exit(130)


if __name__ == "__main__":
    main()
