"""The papermill engine ``labkit``: a notebook with Output widgets does not hang in it, and every cell has a time limit.

    papermill IN.ipynb OUT.ipynb --engine labkit --execution-timeout 600

papermill imports this module by its entry point, so whoever imports it must have imported papermill before.
"""

import os
from pathlib import Path
from typing import Any

import click
import nbformat
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine
from papermill.log import logger

from ..errors import ConfigError
from .notebook import Notebook
from .polling import PollingKernelManager
from .results import VARIABLE

CELL_TIMEOUT = 600  # seconds, where nobody names a limit


class LabkitEngine(NBClientEngine):
    """papermill's own engine with a client that polls, a time limit, and a place for the notebook's results."""

    @classmethod
    def execute_managed_notebook(
        cls,
        nb_man: Any,
        kernel_name: str,
        log_output: bool = False,
        stdout_file: Any = None,
        stderr_file: Any = None,
        start_timeout: int = 60,
        execution_timeout: int | None = None,
        env: dict[str, str] | None = None,
        cwd: str | None = None,
        stderr: int | None = None,
        **other: Any,
    ) -> Any:
        """Run all cells.

        Args:
            execution_timeout: seconds for one cell.
            env: the kernel's environment; None: this process's, and the results go beside the output notebook.
            cwd: the kernel's folder; None: this process's.
            stderr: where the kernel process itself complains (subprocess.DEVNULL); not what cells print.
        """
        check_parameters(nb_man.nb)
        if env is None:
            env = dict(os.environ)
            if isinstance(nb_man.output_path, str) and VARIABLE not in env:
                env[VARIABLE] = str(Path(nb_man.output_path).resolve().with_suffix(".results.json"))
        client = PapermillNotebookClient(
            nb_man,
            kernel_manager_class=PollingKernelManager,
            kernel_name=kernel_name,
            timeout=execution_timeout or CELL_TIMEOUT,
            startup_timeout=start_timeout,
            log=logger,
            log_output=log_output,
            stdout_file=stdout_file,
            stderr_file=stderr_file,
        )
        return client.execute(env=env, cwd=cwd, stderr=stderr)


def check_parameters(notebook: Any) -> None:
    """Before anything runs: papermill itself only warns of a parameter that the notebook does not have.

    Raises:
        click.ClickException: an unknown name or a wrong type; papermill's command prints it as one line.
    """
    facts = notebook.metadata.get("papermill", {})
    if given := facts.get("parameters"):
        try:
            Notebook(Path(facts.get("input_path") or "notebook"), nbformat.writes(notebook)).check(given)
        except ConfigError as error:
            raise click.ClickException(str(error)) from None
