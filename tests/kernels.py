"""Running a notebook in a kernel of the tests' own interpreter, and reading what it shows."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbformat import NotebookNode

ROOT = Path(__file__).parent.parent


class ThisInterpreter(AsyncKernelManager):
    """Starts a kernel in the interpreter of the tests, whichever kernels are registered."""

    @property
    def kernel_spec(self) -> KernelSpec:
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=command, display_name="Python 3", language="python")


def stored(path: Path) -> NotebookNode:
    """The notebook as it is kept."""
    return nbformat.read(path, as_version=4)


def executed(path: Path, question: str, work: Path) -> NotebookNode:
    """The notebook as it comes out of a fresh kernel now, in the folder `work`.

    Its last cell is the code `question`, which is no part of the notebook.
    """
    notebook = stored(path)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    notebook.cells.append(nbformat.v4.new_code_cell(question))
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "IPYTHONDIR": str(work / "ipython"),
    }
    client = NotebookClient(notebook, kernel_manager_class=ThisInterpreter, timeout=300)
    client.execute(env=environment, cwd=str(work))
    return notebook


def pictures(notebook: NotebookNode) -> list[int]:
    """Positions of the cells that show a picture, one for each picture."""
    return [
        i
        for i, cell in enumerate(notebook.cells)
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]


def printed(notebook: NotebookNode) -> str:
    """All text that cells print or show."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "\n".join(
        output["text"] if "text" in output else output.get("data", {}).get("text/plain", "")
        for output in outputs
    )


def assert_complete(path: Path) -> None:
    """Run once, from top to bottom, without an error or a warning left in it, and not too large."""
    notebook = stored(path)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert {output.output_type for cell in code for output in cell.outputs} <= {
        "stream",
        "display_data",
        "execute_result",
    }
    assert not [o for cell in code for o in cell.outputs if o.get("name") == "stderr"]
    assert path.stat().st_size < 1.5e6
