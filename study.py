#!/usr/bin/env python3
"""The study's two commands, and a few more.

    python3 study.py                 run the study: only what changed reruns
    python3 study.py test [...]      check and test the code; further words go to pytest
    python3 study.py bench [...]     measure speed and memory; further words go to pytest
    python3 study.py lab [...]       open JupyterLab
    python3 study.py profile NAME    put the numbers of profiles/NAME.yaml into params.yaml
    python3 study.py verify          run what is missing, and hold every claim against expected.yaml
    python3 study.py train-all [N]   train all codecs, N side by side: docs/scale.md
    python3 study.py bundle [FILE]   pack report, numbers and notebooks into one zip
    python3 study.py WORDS           anything else goes to DVC: status, repro -s edges, exp run, ...

Each first makes or refreshes `.venv` from requirements.lock, when that changed.  Needs Python
3.11 or 3.12 with pip; only the standard library is used here, in words that older Pythons
understand, so that they can say what is wrong.
"""

import contextlib
import hashlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, List, NoReturn, Optional, Tuple

ROOT = Path(__file__).resolve().parent
LOCK = ROOT / "requirements.lock"
VENV = ROOT / ".venv"
BIN = VENV / "bin"
STAMP = VENV / "study-stamp"  # written last: an environment without it is not whole
TOOLS = ROOT / ".uv"
REPORT = ROOT / "reports" / "index.html"
BASE = getattr(sys, "_base_executable", sys.executable)  # behind a virtual environment
PYTHONS = ((3, 11), (3, 12))  # as in pyproject.toml: compressai has no wheels above 3.12

# Notebook sources are kept without what a run or JupyterLab adds; cell ids stay, they are ours.
ADDED = "codemirror_mode file_extension mimetype nbconvert_exporter pygments_lexer version"
STRIP = (
    *("nbstripout", "--keep-id", "--extra-keys"),
    " ".join("metadata.language_info." + key for key in ADDED.split()),
)


def main() -> None:
    """Run what the command line says."""
    words = sys.argv[1:]
    if words[:1] in (["-h"], ["--help"], ["help"]):
        print(__doc__.strip())
        return
    check_platform()
    os.chdir(str(ROOT))
    refresh_environment()
    if words[:1] == ["test"]:
        sys.exit(test(words[1:]))
    if words[:1] == ["bench"]:
        sys.exit(bench(words[1:]))
    if words[:1] == ["lab"]:
        become("jupyter", "lab", *words[1:])
    if words[:1] == ["profile"]:
        become("python", "-m", "sic.pipeline", *words)
    settle_git()
    dvc = ("python", "-m", "sic.pipeline")
    if words[:1] == ["verify"]:
        sys.exit(run("python", "-m", "sic.report.verify", *words[1:]))
    if words[:1] == ["bundle"]:
        become("python", "-m", "sic.report.provenance", *words)
    if words:
        become(*dvc, *words)
    status = run(*dvc) or run("python", "-m", "sic.report.provenance")
    if status == 0 and REPORT.is_file():
        say(f"the report is {REPORT.relative_to(ROOT)}")
    sys.exit(status)


def test(words: List[str]) -> int:
    """Format, lint, types, notebooks, tests: all of them, so that one run shows every fault."""
    notebooks = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("notebooks/*.ipynb"))
    # A file's tests stay in one process: several of them share a run of the whole study.
    spread = ("-n", "2", "--dist=loadscope", "--no-loadscope-reorder")
    checks = {
        "format": ("ruff", "format", "--check"),
        "lint": ("ruff", "check"),
        "types": ("mypy",),
        "notebooks": (*STRIP, "--verify", *notebooks),
        "tests": ("pytest", *spread, "--durations=25", *words),
    }
    failed = {}
    for name, check in checks.items():
        say("checking " + name)
        code = run(*check)
        if code >= 128:  # ended by a signal: the person wants no more of it
            return code
        if code:
            failed[name] = code
    if "notebooks" in failed:
        say("strip the notebooks named above: " + strip_command() + " notebooks/*.ipynb")
    if failed:
        say("failed: " + ", ".join(failed))
    return next(iter(failed.values()), 0)


def bench(words: List[str]) -> int:
    """Our paths beside the plain one; the numbers stay in .benchmarks, to compare commits with."""
    table = ("--benchmark-group-by=group", "--benchmark-columns=median,min,rounds")
    how = ("--benchmark-timer=time.process_time", "--benchmark-autosave")
    return run("pytest", "tests/bench.py", *table, *how, *words)


def strip_command() -> str:
    """The line that strips notebook sources, from the study's folder."""
    return ".venv/bin/" + " ".join(shlex.quote(word) for word in STRIP)


# ---- the environment -------------------------------------------------------------------------


def check_platform() -> None:
    """Stop with one line unless the study can run under this Python and system."""
    if os.name != "posix":
        fail("needs Linux or macOS; on Windows run it inside WSL")
    if sys.version_info[:2] in PYTHONS:
        return
    wanted = " or ".join("{}.{}".format(*version) for version in PYTHONS)
    remedy = "install one of them and run study.py with it"
    for version in PYTHONS:
        name = "python{}.{}".format(*version)
        # pyenv has shims for Pythons that are not switched on: ask the Python itself.
        if shutil.which(name):
            nowhere = subprocess.DEVNULL
            answer = subprocess.run([name, "-c", ""], stdout=nowhere, stderr=nowhere, check=False)
            if answer.returncode == 0:
                remedy = "run: " + " ".join([name, "study.py", *sys.argv[1:]])
                break
    here = ".".join(str(part) for part in sys.version_info[:2])
    fail(f"needs Python {wanted}, and this is Python {here}; {remedy}")


def refresh_environment() -> None:
    """Make `.venv`, or bring it to the lock; nothing if it is there and up to date."""
    python = f"{sys.version.split()[0]} {os.path.realpath(sys.base_prefix)} {ROOT}"
    stamp = (python, digest(LOCK), digest(ROOT / "pyproject.toml"))
    if read_stamp() == stamp:
        return
    with only_one_at_a_time():
        found = read_stamp()  # another study.py may have done it meanwhile
        if found == stamp:
            return
        uv = install_uv()
        if found[0] != python:
            say(
                "making the environment in .venv; the first time this fetches several gigabytes "
                "of packages and takes some minutes"
            )
            install(uv, "venv", "--quiet", "--clear", "--python", BASE, str(VENV))
        else:
            say("requirements changed: refreshing .venv")
            STAMP.unlink()
        target = ("--python", str(BIN / "python"))
        if found[:2] != stamp[:2]:
            # One package comes as source only: what builds it is pinned by the same lock.
            pinned = ("--require-hashes", "--build-constraints", str(LOCK))
            install(uv, "pip", "sync", *pinned, *target, str(LOCK))
        # The build tool is in the lock, so that the package itself needs nothing fetched.
        alone = ("--quiet", "--offline", "--no-deps", "--no-build-isolation")
        install(uv, "pip", "install", *alone, *target, "--editable", str(ROOT))
        strip_notebooks_in_git()
        STAMP.write_text("\n".join(stamp))
        say("the environment is ready")


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_stamp() -> Tuple[str, ...]:
    """What `.venv` was made from: Python, lock, pyproject.toml.  Blanks if it is not whole."""
    stamp = STAMP.read_text().splitlines() if STAMP.is_file() else []
    return tuple(stamp) if len(stamp) == 3 and (BIN / "python").exists() else ("", "", "")


@contextlib.contextmanager
def only_one_at_a_time() -> Iterator[None]:
    """Hold a lock that ends with this process, however it ends."""
    import fcntl  # not on Windows, where check_platform has the last word

    TOOLS.mkdir(exist_ok=True)
    with (TOOLS / "lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another study.py, which is making the environment")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def install_uv() -> str:
    """Install the uv that the lock pins, checked by its hashes, into a folder of its own."""
    pin = re.search(r"^uv==(\S+)(?: \\\n +--hash=\S+)+", LOCK.read_text(), re.MULTILINE)
    if not pin:
        fail("requirements.lock has no pin of uv; take the file from the repository again")
    home = TOOLS / pin.group(1)
    if not (home / "bin" / "uv").exists():
        say(f"installing uv {pin.group(1)}")
        part = TOOLS / "part"
        shutil.rmtree(str(part), ignore_errors=True)
        requirement = TOOLS / "uv.lock"
        requirement.write_text(pin.group(0) + "\n")
        options = ["--quiet", "--no-deps", "--require-hashes", "--target", str(part)]
        # A person's own defaults for pip may forbid or misplace what goes into a folder.
        own = {"PIP_USER": "0", "PIP_REQUIRE_VIRTUALENV": "0", "PIP_ROOT_USER_ACTION": "ignore"}
        own.update(PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_NO_INPUT="1")
        install(*find_pip(), "install", *options, "-r", str(requirement), extra=own)
        part.rename(home)  # whole or not there
    return str(home / "bin" / "uv")


def find_pip() -> List[str]:
    """The pip of this Python, or of the one behind it: some virtual environments have none."""
    nowhere = subprocess.DEVNULL
    for python in (sys.executable, BASE):
        pip = [python, "-m", "pip"]
        answer = subprocess.run([*pip, "--version"], stdout=nowhere, stderr=nowhere, check=False)
        if answer.returncode == 0:
            return pip
    fail("this Python has no pip; install it (Debian, Ubuntu: apt install python3-pip)")


def install(*command: str, extra: Optional[Dict[str, str]] = None) -> None:
    """Run one step of the installation; stop with a line if it fails."""
    environment = clean_environment()
    environment.update(UV_PYTHON_DOWNLOADS="never", **(extra or {}))
    index = pip_index()
    if index:
        environment.setdefault("UV_DEFAULT_INDEX", index)
    code = supervise(command, environment)
    if code >= 128:
        sys.exit(code)
    if code:
        fail("the environment could not be made (see above); then run the same command again")


def pip_index() -> str:
    """The package index that pip is set up with, which uv does not ask for; empty: the usual."""
    answer = subprocess.run(
        [sys.executable, "-m", "pip", "config", "get", "global.index-url"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    return os.environ.get("PIP_INDEX_URL") or answer.stdout.decode().strip()


def strip_notebooks_in_git() -> None:
    """Let git see notebook sources without outputs (.gitattributes names this filter)."""
    if (ROOT / ".git").exists() and shutil.which("git"):
        key = "filter.sic-notebook.clean"
        subprocess.run(["git", "-C", str(ROOT), "config", key, strip_command()], check=False)


def settle_git() -> None:
    """Tell DVC whether there is a git repository: a downloaded archive has none."""
    local = ROOT / ".dvc" / "config.local"
    told = local.is_file() and "no_scm = true" in local.read_text()
    archive = not (ROOT / ".git").exists()
    if archive and not told:
        say("no git repository here: DVC runs without one (dvc exp needs git)")
        run("dvc", "config", "--local", "core.no_scm", "true")
    elif told and not archive:
        run("dvc", "config", "--local", "--unset", "core.no_scm")


# ---- processes -------------------------------------------------------------------------------


def clean_environment() -> Dict[str, str]:
    """The surroundings without any other Python environment's traces."""
    leaks = ["VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME", "CONDA_PREFIX", "CONDA_DEFAULT_ENV"]
    # Containers often set it, and each of a run's processes would compile PyTorch and all anew.
    leaks.append("PYTHONDONTWRITEBYTECODE")
    return {key: value for key, value in os.environ.items() if key not in leaks}


def own_environment() -> Dict[str, str]:
    """The surroundings in which `python`, `dvc`, `papermill`, `jupyter` are those of `.venv`."""
    environment = clean_environment()
    environment["VIRTUAL_ENV"] = str(VENV)
    environment["PATH"] = os.pathsep.join((str(BIN), environment.get("PATH", os.defpath)))
    # A kernel of the same name in the person's home must not take the place of ours.
    environment["JUPYTER_PREFER_ENV_PATH"] = "1"
    environment["PYTHONNOUSERSITE"] = "1"
    # Threads that wait for others sleep, as in sic/__init__.py, whatever a notebook imports first.
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return environment


def become(program: str, *words: str) -> None:
    """Give this process to a program of the environment: terminal, signals, exit code and all."""
    sys.stdout.flush()
    os.execve(str(BIN / program), [program, *words], own_environment())


def run(program: str, *words: str) -> int:
    """Run a program of the environment to its end."""
    return supervise((str(BIN / program), *words), own_environment())


def supervise(command: Tuple[str, ...], environment: Dict[str, str]) -> int:
    """Run a command in a process group of its own; return its exit code, 128 + n for signal n.

    Whatever asks this process to stop reaches the whole group once, as Ctrl-C: DVC on its own
    would leave the stage it runs behind.
    """
    stopped = []  # type: List[int]
    children = []  # type: List[subprocess.Popen[bytes]]

    def interrupt() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(children[0].pid, signal.SIGINT)

    def stop(number: int, frame: Any) -> None:
        stopped.append(number)
        if children:
            interrupt()

    asked = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, stop) for number in asked}
    try:
        sys.stdout.flush()
        children.append(
            subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True
            )
        )
        if stopped:  # it came while the child was starting
            interrupt()
        code = children[0].wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if stopped:
        return 128 + stopped[0]
    return code if code >= 0 else 128 - code


def say(message: str) -> None:
    """Print a line at once."""
    print("study: " + message, flush=True)


def fail(message: str) -> NoReturn:
    """End with one line and exit code 1."""
    sys.exit("study.py: " + message)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
