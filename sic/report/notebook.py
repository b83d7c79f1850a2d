"""One notebook run: papermill, then equal inputs give equal bytes.

    python -m sic.report.notebook notebooks/42_fusion.ipynb reports/fusion/m3-q1 item=m3-q1
    python -m sic.report.notebook --extract notebooks build/code

The only module that knows of notebooks.  Executed copies are products: they lose what differs
between two equal runs (times, progress bars, random cell ids), and appear whole or not at all.
"""

import argparse
import copy
import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from sic import progress, source
from sic.errors import STOPPED, SicError, exit_on_error
from sic.files import replacing, write_text

# A stage that is stopped while it starts shall say one line: what takes long is imported later.
if TYPE_CHECKING:
    from jupyter_client.manager import AsyncKernelManager
    from nbformat import NotebookNode

#: What decides no result of a stage, by its notebook: messages, how files are written, the reader
#: of params.yaml (DVC tracks its values one by one); of training, drawings neither.
LEAVE = {"*": source.PLUMBING, "4[0-3]*": ("sic.report",)}
#: Where an object lies in memory, as Python shows objects that have no better name.
ADDRESS = re.compile(r" at 0x[0-9a-f]+")
#: What a progress bar leaves behind when its widget is gone.
WIDGET = "application/vnd.jupyter.widget-view+json"
#: Where the copy of a failed run is left for the reader, outside of DVC's products.
FAILED = Path("build/failed")
#: Whether somebody has stopped this process.
_STOPPED = threading.Event()
#: The Python of this environment, by the name that it has in JupyterLab.
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}


def execute(notebook: Path, folder: Path, parameters: dict[str, Any]) -> None:
    """Run a notebook and write ``folder/notebook.ipynb`` and ``folder/index.html``.

    What the notebook writes to stderr goes to this process's stderr as it comes, and so do bars.
    The parameters go into its cell tagged `parameters`: they name the item of a sweep, while
    numbers of the study come from params.yaml.  Raises SicError with the line of the SicError that
    the notebook ended with, or the last line of its traceback and the place of the failed copy.
    """
    import nbformat
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    content = read(notebook)
    attempt = FAILED / f"{'-'.join(folder.parts)}.ipynb"
    attempt.parent.mkdir(parents=True, exist_ok=True)
    noise = attempt.with_suffix(".log")
    try:
        with _stop_is_a_stop():
            papermill.execute_notebook(
                content,
                attempt,
                parameters,
                progress_bar={**progress.look(), "desc": _stage(notebook), "unit": "cell"},
                log_output=False,
                stderr_file=sys.stderr,
                kernel_manager_class=_kernel(noise),
            )
    except KeyboardInterrupt:
        logging.getLogger("asyncio").disabled = True  # of what waits for the kernel that is gone
        attempt.unlink(missing_ok=True)
        raise
    except PapermillExecutionError as error:
        if error.ename == SicError.__name__:
            attempt.unlink()
            raise SicError(error.evalue) from None
        raise SicError(
            f"{notebook} failed in cell {error.exec_count}: {error.ename}: {error.evalue}; "
            f"its traceback is in {attempt}"
        ) from None
    except DeadKernelError:
        sys.stderr.write(noise.read_text(errors="replace"))
        raise SicError(
            f"the kernel of {notebook} died (killed, or out of memory); run the same command "
            "again: training continues from its last checkpoint"
        ) from None
    finally:
        noise.unlink(missing_ok=True)
    executed = clean(nbformat.read(attempt, as_version=4))
    with replacing(folder / "notebook.ipynb") as temporary:
        nbformat.write(executed, temporary)
    write_text(folder / "index.html", html(executed, folder))
    attempt.unlink()


def read(path: Path) -> "NotebookNode":
    """A notebook, to be run by this environment's Python whoever saved it last.  Raises SicError if
    there is none, or the file is something else."""
    import nbformat

    try:
        text = path.read_text(encoding="utf-8-sig")
        if "\n<<<<<<< " in text:
            raise SicError(f"{path} holds both sides of a merge; choose one and save it")
        notebook = nbformat.reads(text, as_version=4)
        notebook.metadata.kernelspec = KERNEL
    except OSError as error:
        raise SicError(
            f"cannot read {path}: {error.strerror}; run from the study's folder"
        ) from None
    except (ValueError, AttributeError, KeyError, nbformat.ValidationError):
        raise SicError(f"{path} is not a notebook; take the file from git again") from None
    return notebook


def _kernel(noise: Path) -> "type[AsyncKernelManager]":
    """A kernel that draws progress on this process's stderr, and says the rest to the file
    ``noise``: of its ports, of being stopped, and why it died."""
    from jupyter_client.manager import AsyncKernelManager

    class Kernel(AsyncKernelManager):
        async def start_kernel(self, **options: Any) -> None:  # type: ignore[override]
            # A copy of stderr: what cells write there comes as messages, late, and stays in the
            # notebook.
            screen = os.dup(2)
            options |= {
                "env": os.environ | {progress.SCREEN: str(screen)},
                "pass_fds": (screen,),
            }
            try:
                with noise.open("wb") as said:
                    await super().start_kernel(stderr=said, **options)
            finally:
                os.close(screen)

    return Kernel


def _stage(notebook: Path) -> str:
    """The name of the stage, as DVC tells it to what it starts."""
    return os.environ.get("DVC_STAGE", notebook.stem)


def end_with_parent() -> None:
    """End this process, and so the notebook's kernel, when the one that started it is gone: a
    killed `dvc` would leave a training run behind that nobody waits for."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGINT)  # papermill shuts its kernel down

    threading.Thread(target=watch, daemon=True).start()


def clean(notebook: "NotebookNode") -> "NotebookNode":
    """Drop from an executed notebook, in place, what differs between two equal runs."""
    notebook.metadata.pop("papermill", None)
    notebook.metadata.pop("widgets", None)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if cell.cell_type != "code":
            continue
        cell.outputs = [
            output
            for output in cell.outputs
            if output.get("name") != "stderr" and WIDGET not in output.get("data", {})
        ]
        for data in (output.data for output in cell.outputs if "data" in output):
            if "text/plain" in data:
                data["text/plain"] = ADDRESS.sub("", data["text/plain"])
    return notebook


def html(notebook: "NotebookNode", folder: Path) -> str:
    """A page that opens without a server or a network, with a way back to the report; ``folder`` is
    where it will lie, and the notebook's first line its title."""
    from nbconvert import HTMLExporter

    from sic.report.page import Formulas, page

    exporter = HTMLExporter(template_name="basic")
    exporter.embed_images = True
    # Some pages are read for what they show; their code is in the executed copy beside them.
    exporter.exclude_input = notebook.metadata.get("hide_input", False)
    shown, formulas = copy.deepcopy(notebook), Formulas()
    for cell in shown.cells:
        if cell.cell_type == "markdown":
            cell.source = formulas.marked(cell.source)
    body, _ = exporter.from_notebook_node(shown)
    way_back = '<a href="notebook.ipynb">this page as a notebook</a>'
    if len(folder.parts) > 1:
        home = "../" * (len(folder.parts) - 1) + "index.html"
        way_back = f'<a href="{home}">report</a> / {"/".join(folder.parts[1:])} · {way_back}'
        # CC BY asks for it wherever a photo is shown, which most pages do.
        whose = home.replace("index.html", "data/index.html#Whose-they-are")
        way_back += f' · <a href="{whose}">whose the photos are</a>'
    title = notebook.cells[0].source.splitlines()[0].lstrip("# ")
    return page(title, formulas.put_in(body), way_back)


def _value(text: str) -> int | str:
    return int(text) if text.lstrip("-").isdigit() else text


def main() -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m sic.report.notebook", description=__doc__)
    parser.add_argument("--extract", action="store_true", help="write code cells, run nothing")
    parser.add_argument("source", type=Path, help="notebook, or with --extract their folder")
    parser.add_argument("folder", type=Path, help="where the products go")
    parser.add_argument("parameters", nargs="*", help="name=value for the parameters cell")
    arguments = parser.parse_args()
    if arguments.extract:
        source.extract(arguments.source, arguments.folder, leave=LEAVE)
        return
    pairs = dict(item.split("=", 1) for item in arguments.parameters)
    parameters = {name: _value(text) for name, text in pairs.items()}
    # nbformat's validator loads it, where it is there, to check links that no notebook has; it
    # takes a second and a half to build its grammar.
    sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]
    end_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        execute(arguments.source, arguments.folder, parameters)
    except KeyboardInterrupt:
        for left in psutil.Process().children(recursive=True):
            left.kill()  # a kernel that was only starting
        stage = _stage(arguments.source)
        progress.say(f"\nsic: {stage} was stopped; run the same command again to go on")
        sys.exit(STOPPED)


def _stop(number: int, frame: Any) -> None:
    """End the notebook, once: a second signal must not break off the end of its kernel."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    _STOPPED.set()
    raise KeyboardInterrupt


@contextmanager
def _stop_is_a_stop() -> Iterator[None]:
    """Raise KeyboardInterrupt for whatever error a library makes of the one that struck it."""
    try:
        yield
    except Exception:
        if _STOPPED.is_set():
            raise KeyboardInterrupt from None
        raise


if __name__ == "__main__":
    exit_on_error(main)
