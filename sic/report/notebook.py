"""One notebook run: papermill, then equal inputs give equal bytes.

    python -m sic.report.notebook notebooks/42_fusion.ipynb reports/fusion/m3-q1 m=3 quality=q1
    python -m sic.report.notebook --extract notebooks build/code

The only module that knows of notebooks.  Executed copies are products: they lose what differs
between two equal runs (times, progress bars, random cell ids), and appear whole or not at all.
"""

import argparse
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from sic import source
from sic.errors import SicError, exit_on_error
from sic.files import replacing, write_text
from sic.report import pages

#: What decides no result of a stage, by its notebook: messages, how files are written, the reader
#: of params.yaml (DVC tracks its values one by one); of training, drawings neither.
LEAVE = {"*": source.PLUMBING, "4*": ("sic.report",)}

#: Where an object lies in memory, as Python shows objects that have no better name.
ADDRESS = re.compile(r" at 0x[0-9a-f]+")

#: What a progress bar leaves behind when its widget is gone.
WIDGET = "application/vnd.jupyter.widget-view+json"

#: Where the copy of a failed run is left for the reader, outside of DVC's products.
FAILED = Path("build/failed")


def execute(notebook: Path, folder: Path, parameters: dict[str, Any]) -> None:
    """Run a notebook and write ``folder/notebook.ipynb`` and ``folder/index.html``.

    What the notebook writes to stderr (progress bars) goes to this process's stderr as it comes.

    Args:
        notebook: source notebook with a cell tagged `parameters`.
        folder: where the executed copy goes.
        parameters: values for that cell, naming the item of a sweep; numbers of the study come
            from params.yaml.

    Raises:
        SicError: with the line of the SicError that the notebook ended with, or the last line
            of its traceback and the place of the failed copy.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    if not notebook.exists():
        raise SicError(f"no notebook {notebook}; run from the study's folder")
    attempt = FAILED / f"{'-'.join(folder.parts)}.ipynb"
    attempt.parent.mkdir(parents=True, exist_ok=True)
    try:
        papermill.execute_notebook(
            notebook,
            attempt,
            parameters,
            progress_bar=False,
            log_output=False,
            stderr_file=sys.stderr,
        )
    except PapermillExecutionError as error:
        if error.ename == SicError.__name__:
            attempt.unlink()
            raise SicError(error.evalue) from None
        raise SicError(
            f"{notebook} failed in cell {error.exec_count}: {error.ename}: {error.evalue}; "
            f"its traceback is in {attempt}"
        ) from None
    except DeadKernelError:
        raise SicError(
            f"the kernel of {notebook} died (killed, or out of memory); run the same command "
            "again: training continues from its last checkpoint"
        ) from None
    executed = clean(nbformat.read(attempt, as_version=4))
    with replacing(folder / "notebook.ipynb") as temporary:
        nbformat.write(executed, temporary)
    write_text(folder / "index.html", html(executed, folder))
    attempt.unlink()


def end_with_parent() -> None:
    """End this process, and so the notebook's kernel, when the one that started it is gone.

    A killed `dvc` would leave a training run behind that nobody waits for.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGINT)  # papermill shuts its kernel down

    threading.Thread(target=watch, daemon=True).start()


def clean(notebook: NotebookNode) -> NotebookNode:
    """Drop from an executed notebook, in place, what differs between two equal runs."""
    notebook.metadata.pop("papermill", None)
    notebook.metadata.pop("widgets", None)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if cell.cell_type == "code":
            cell.outputs = [
                output
                for output in cell.outputs
                if output.get("name") != "stderr" and WIDGET not in output.get("data", {})
            ]
            for output in cell.outputs:
                data = output.get("data", {})
                if "text/plain" in data:
                    data["text/plain"] = ADDRESS.sub("", data["text/plain"])
    return notebook


def html(notebook: NotebookNode, folder: Path) -> str:
    """A page that opens without a server or a network, with a way back to the report.

    Args:
        notebook: the executed notebook; its first line is the page's title.
        folder: where the page will lie, below the report's folder.
    """
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(template_name="basic")
    exporter.embed_images = True
    # The first page is read for what was found; its code is in the executed copy beside it.
    exporter.exclude_input = len(folder.parts) == 1
    body, _ = exporter.from_notebook_node(notebook)
    way_back = '<a href="notebook.ipynb">this page as a notebook</a>'
    if len(folder.parts) > 1:
        home = "../" * (len(folder.parts) - 1) + "index.html"
        way_back = f'<a href="{home}">report</a> / {"/".join(folder.parts[1:])} · {way_back}'
    title = notebook.cells[0].source.splitlines()[0].lstrip("# ")
    return pages.page(title, body, way_back)


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
    end_with_parent()
    execute(arguments.source, arguments.folder, parameters)


if __name__ == "__main__":
    exit_on_error(main)
