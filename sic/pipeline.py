"""DVC as study.py runs it: params.yaml is checked first, and a stopped run takes no results away.
``python -m sic.pipeline repro -s edges`` stands for ``dvc repro -s edges``."""

import argparse
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from graphlib import TopologicalSorter
from itertools import takewhile
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from sic import progress
from sic.cluster import cores
from sic.errors import STOPPED, SicError, exit_on_error
from sic.files import replacing, write_bytes
from sic.params import PARAMS, load
from sic.work import processes

_RESULTS = Path("results")
_BETWEEN = 252  # DVC's exit code when it is interrupted between two stages
# How DVC tells of a stopped stage.  Python itself ends by SIGINT (-2) instead of with our exit code
# where the interrupt struck code that was compiled from a string, such as a dataclass's methods.
_OF_A_STOP = tuple(f" exited with {code}" for code in (STOPPED, -signal.SIGINT, -signal.SIGTERM))


def main() -> None:
    """Run the study, or DVC with the words of the command line, and end with its exit code."""
    words = sys.argv[1:]
    if not words:
        sys.exit(everything())
    if words[:1] == ["profile"]:
        profile(words[1:])
        return
    if words[:1] == ["train-all"]:
        train_all(words[1:])
        return
    sys.exit(run(words))


def run(words: list[str]) -> int:
    """Run DVC with these words and return its exit code.  Raises SicError as
    :func:`sic.params.load`, and for an experiment that cannot be recorded."""
    before = _results()
    load()  # in a fraction of a second, before DVC removes what a stage is to make anew
    if words[:2] == ["exp", "run"]:
        _check_git()
        words = set_params(words)
    from dvc.cli import main as dvc

    stops: list[logging.LogRecord] = []

    def unless_of_a_stop(record: logging.LogRecord) -> bool:
        if _tells_of_a_stop(record):
            stops.append(record)
        return record not in stops

    for handler in logging.getLogger("dvc").handlers:
        handler.addFilter(unless_of_a_stop)
    code = dvc(words)
    if code == _BETWEEN:
        print("sic: stopped; run the same command again to go on", file=sys.stderr)
    if code:
        _restore(before)
    return STOPPED if stops else code


def _results() -> dict[Path, bytes]:
    """The measurements as they are."""
    return {path: path.read_bytes() for path in _RESULTS.glob("*") if path.is_file()}


def set_params(words: list[str]) -> list[str]:
    """Do what ``dvc exp run -S KEY=VALUE`` asks for, and return the words without it: DVC would
    write params.yaml anew, in a form of its own.  What only DVC can do is left to it: to add and
    remove keys, to try several values, to work in another folder.  All pairs are written or none:
    raises SicError for what is no pair or no YAML, a key that is not in params.yaml, and values
    that it cannot have together."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-S", "--set-param", action="append", default=[])
    known, others = parser.parse_known_args(words)
    pairs = [pair.removeprefix("params.yaml:").partition("=") for pair in known.set_param]
    several = ("choice(", "range(")
    theirs = any(key[:1] in "+~" or value.startswith(several) for key, _, value in pairs)
    if not pairs or theirs or {"--queue", "--temp"} & set(others):
        return words
    _put_all([_change(*pair) for pair in pairs])
    return others


def _change(key: str, equals: str, value: str) -> tuple[str, dict[str, Any]]:
    """What -S KEY=VALUE is called in an error, and the sections and the value that it stands
    for."""
    source = f"-S {key}{equals}{value}"
    if not equals:
        raise SicError(f"{source}: write -S KEY=VALUE, as in -S edges.alpha=0.8")
    if key.startswith("fusion.codecs."):  # of which _put makes the only one
        raise SicError(f"{source}: set fusion.codecs as a whole, or edit params.yaml")
    try:
        values: Any = round_trip().load(value)
    except (YAMLError, ValueError) as error:  # the latter of 2024-02-30
        problem = " ".join(str(error).split())
        raise SicError(f"{source}: the value is not YAML: {problem}") from None
    for name in reversed(key.split(".")):
        values = {name: values}
    return source, values


def _check_git() -> None:
    """Stop unless git is there and knows who works here: an experiment is a commit."""
    if not Path(".git").exists():
        raise SicError("experiments need git: clone the study, or use repro instead of exp run")
    for key in ("name", "email"):
        config = subprocess.run(["git", "config", f"user.{key}"], capture_output=True, check=False)
        if config.returncode and not os.environ.get(f"GIT_COMMITTER_{key.upper()}"):
            raise SicError(
                f"an experiment is a commit, and git has no {key} of yours to write into it; "
                f'say it once: git config user.{key} "..."'
            )


def _tells_of_a_stop(record: logging.LogRecord) -> bool:
    """Whether DVC reports an interrupt: the stage, or :func:`main`, has said it in better words."""
    error = record.exc_info[1] if record.exc_info else None
    while error:
        if isinstance(error, KeyboardInterrupt) or str(error).endswith(_OF_A_STOP):
            return True
        error = error.__cause__
    return False


def _restore(before: Mapping[Path, bytes]) -> None:
    """Bring back what DVC removed for a stage that did not end well, and the measurements that were
    there before it, which git keeps and DVC has no copy of."""
    for path, content in before.items():
        if not path.exists():
            write_bytes(path, content)
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo() as repo:
            outs = [out for out in repo.index.outs if out.use_cache and out.hash_info]
            if missing := [str(out) for out in outs if not out.exists]:
                repo.checkout(missing, allow_missing=True)
    except DvcException:  # not in the cache either, or no pipeline to read
        return


#: The stages that train codecs, and where what stages that run side by side say is kept.
_CODECS, _LOGS = ("sa_icm", "lic", "fusion", "difference"), Path("checkpoints/stages")
_DVC = (sys.executable, "-m", "dvc")
_PAUSE = 30.0  # seconds without an end after which stages tell how far they are
_SAID = 90  # characters that are shown of a line of theirs


def everything() -> int:
    """`study.py`: run what changed, and what depends on it, stages that do not need each other side
    by side: one for each GPU, or for each core as far as there is memory.  Returns the exit code.

    Where a stage fails, those that need it are left, the others end, and SicError is raised.  One
    at a time is `dvc repro`, which also has the word if there is nothing to do.  Raises SicError as
    :func:`run`."""
    load()
    places = _places()
    if len(places) < 2 or not (needs := _to_run()):
        return run(["repro"])
    _side_by_side(needs, places)
    return 0


def train_all(words: list[str]) -> None:
    """`study.py train-all [N]`: the same for the stages that train codecs and what these need, N
    side by side if N is given."""
    if words[1:] or not all(word.isdecimal() and int(word) for word in words):
        raise SicError("train-all takes one number: how many codecs train side by side")
    load()
    _side_by_side(_to_run(_CODECS), _places(*map(int, words)))


def _to_run(kinds: Collection[str] = ()) -> dict[str, set[str]]:
    """By DVC's names, each stage that changed or takes a product of one that did, with those that
    it takes products of; of some kinds (`fusion` of `fusion@m5-q1`), these and what they need."""
    from dvc.repo import Repo

    # Whether the others have to run is not known before there is the code that they depend on.
    if code := run(["repro", "code"]):
        sys.exit(code)
    with Repo() as repo:
        changed, found = set(repo.status()), dict[str, set[str]]()
    needs = _needs(kinds)
    for name in TopologicalSorter(needs).static_order():
        if name in changed or needs[name] & found.keys():
            found[name] = needs[name]
    return found


def _needs(kinds: Collection[str] = ()) -> dict[str, set[str]]:
    """The same for all stages, whether they changed or not."""
    from dvc.repo import Repo
    from networkx import descendants, relabel_nodes

    with Repo() as repo:
        graph = relabel_nodes(
            repo.index.graph, {each: each.addressing for each in repo.index.graph}
        )
    names = {name for name in graph if name.partition("@")[0] in kinds} if kinds else set(graph)
    names = names.union(*(descendants(graph, name) for name in names))
    return {name: set(graph.successors(name)) for name in graph if name in names}


def _places(asked: int = 0) -> list[dict[str, str]]:
    """What the environment of each of those that run side by side adds: its GPU, or its share of
    the threads; a person's own OMP_NUM_THREADS holds."""
    import torch

    if gpus := torch.cuda.device_count():
        return [{"CUDA_VISIBLE_DEVICES": str(n % gpus)} for n in range(asked or gpus)]
    many = asked or processes(load().codec.N, "cpu") or cores()
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, cores() // many)))
    return many * [{"OMP_NUM_THREADS": threads}]


def _side_by_side(needs: Mapping[str, set[str]], places: list[dict[str, str]]) -> None:
    """Run the stages as :func:`_in_order`; what was there before one that did not end well comes
    back.  Raises SicError where one failed, and SystemExit where somebody stopped them."""
    before = _results()
    try:
        failed = _in_order(needs, places)
    except KeyboardInterrupt:
        _restore(before)
        print("sic: stopped; run the same command again to go on", file=sys.stderr)
        sys.exit(STOPPED)
    if failed:
        _restore(before)
        raise SicError(f"{', '.join(failed)}: {len(failed)} not made; {_LOGS} has what they said")


def _in_order(needs: Mapping[str, set[str]], places: list[dict[str, str]]) -> list[str]:
    """Run the stages, as many side by side as there are places; return those that failed, and those
    that were left because they build on one."""
    order = TopologicalSorter({name: others & needs.keys() for name, others in needs.items()})
    order.prepare()
    free: SimpleQueue[dict[str, str]] = SimpleQueue()
    for place in places:
        free.put(place)
    running: dict[Future[int], str] = {}
    made: set[str] = set()
    pool = ThreadPoolExecutor(len(places))
    try:
        with progress.bar(total=len(needs), desc="stages", unit="stage") as bar:
            while True:
                running |= {pool.submit(_stage, n, free): n for n in order.get_ready()}
                if not running:
                    return [name for name in needs if name not in made]
                ended = wait(running, _PAUSE, return_when=FIRST_COMPLETED).done
                for each in () if ended else filter(Future.running, running):
                    if said := _said(running[each]):
                        progress.say(f"{running[each]}: {said[-1][:_SAID]}")
                for done in ended:
                    name = running.pop(done)
                    if done.result():
                        why = [line for line in _said(name) if line.startswith("sic: ")]
                        progress.say("\n".join([*why, f"sic: {name} failed; see {_log(name)}"]))
                        continue
                    order.done(name)
                    made.add(name)
                    progress.say(f"{name}: done")
                    bar.update()
    finally:
        # Ctrl-C reaches those that run as well: they end on their own.
        pool.shutdown(cancel_futures=True)


def _stage(name: str, free: "SimpleQueue[dict[str, str]]") -> int:
    """Run a stage in the next place that is free; its exit code."""
    place = free.get()
    try:
        progress.say(f"{name}: begins")
        log = _log(name)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as file:
            # DVC holds its lock between stages only.
            command = [*_DVC, "--wait-for-lock", "repro", "-s", name]
            done = subprocess.run(command, env=os.environ | place, stdout=file, stderr=file)
        return done.returncode
    finally:
        free.put(place)


def _log(name: str) -> Path:
    return _LOGS / f"{name.replace('@', '-')}.log"


def _said(name: str) -> list[str]:
    """The lines that a stage has said so far."""
    log = _log(name)
    return log.read_text("utf-8", "replace").strip().splitlines() if log.exists() else []


#: A profile is a small YAML file here with the keys in which sizes of the study differ.  DVC reads
#: params.yaml alone, so choosing a profile means writing its numbers there.
PROFILES = Path("profiles")


def apply(name: str, params: Path = PARAMS, profiles: Path = PROFILES) -> None:
    """Put the numbers of ``profiles/NAME.yaml`` into params.yaml.  Raises SicError if there is no
    such profile, and as :func:`put`."""
    source = profiles / f"{name}.yaml"
    if not source.is_file():
        raise SicError(f"no profile {name}: there are {_known(profiles)}")
    put(round_trip().load(source.read_text(encoding="utf-8")), str(source), params)


def put(values: Mapping[str, Any], source: str, params: Path = PARAMS) -> None:
    """Overwrite keys of params.yaml, section by section; comments and the rest stay.  Raises
    SicError for a key that is not there, and for a params.yaml wrong before or after."""
    _put_all([(source, values)], params)


def _put_all(changes: Sequence[tuple[str, Mapping[str, Any]]], params: Path = PARAMS) -> None:
    """The same for several, each with its source: they are checked together, as one may be right
    only with another."""
    load(params)
    yaml = round_trip()
    content = yaml.load(params.read_text(encoding="utf-8"))
    for source, values in changes:
        _put(content, values, source)
    with replacing(params) as temporary:
        with temporary.open("w", encoding="utf-8") as file:
            yaml.dump(content, file)
        try:
            load(temporary)
        except SicError as error:
            sources = " ".join(source for source, _ in changes)
            raise SicError(str(error).replace(str(temporary), sources)) from None


def profile(words: list[str]) -> None:
    """`study.py profile NAME`: put it in place and say what it needs."""
    if len(words) != 1:
        raise SicError(f"name one profile: {_known(PROFILES)}")
    apply(words[0])
    text = (PROFILES / f"{words[0]}.yaml").read_text(encoding="utf-8")
    head = takewhile(lambda line: line.startswith("#"), text.splitlines())
    print("\n".join(line.removeprefix("#").removeprefix(" ") for line in head), end="\n\n")
    print(f"params.yaml now has the numbers of profiles/{words[0]}.yaml")


def _known(profiles: Path) -> str:
    return ", ".join(sorted(path.stem for path in profiles.glob("*.yaml"))) or "none"


def round_trip() -> YAML:
    """A reader and writer that keeps comments, spacing and the spelling of numbers."""
    yaml = YAML()
    yaml.width = 4096
    yaml.preserve_quotes = True
    # Its own way to write null is to write nothing.
    yaml.representer.add_representer(
        type(None), lambda writer, _: writer.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    return yaml


def _put(target: Any, values: Mapping[str, Any], source: str, path: str = "") -> None:
    """Overwrite keys of ``target``, section by section; a profile brings no new ones."""
    if not isinstance(target, dict):
        name = path.removesuffix(".")
        raise SicError(f"{source}: {name} in params.yaml has no keys below it; set {name} itself")
    for key, value in values.items():
        if key not in target:
            raise SicError(f"{source}: params.yaml has no key {path}{key}")
        # The names of the codecs are the profile's own: its list takes the place of the other.
        if isinstance(value, dict) and key != "codecs":
            _put(target[key], value, source, f"{path}{key}.")
        else:
            target[key] = value


if __name__ == "__main__":
    exit_on_error(main)
