"""Ranks of a command line, forked from a process that has imported everything: imports take longer than small fits."""

import multiprocessing
import os
import runpy
import sys
from multiprocessing.connection import Connection

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["fastncf.cli.fitting", "torch.distributed.nn.functional", __name__])


class Rank:
    """A process that runs the command line, with pipes for what it prints.

    Args:
        command: arguments of ``fastncf``.
        variables: of the environment, beside those of this process.
    """

    def __init__(self, command: list[str], variables: dict[str, str]) -> None:
        (stdout, out), (stderr, err) = (multiprocessing.Pipe(duplex=False) for _ in range(2))
        self._process = _CONTEXT.Process(target=_run, args=(command, dict(os.environ) | variables, out, err))
        self._process.start()
        self._pipes = stdout, stderr
        self.stdout, self.stderr = (os.fdopen(pipe.fileno(), encoding="utf-8", closefd=False) for pipe in self._pipes)
        for pipe in (out, err):
            pipe.close()

    def kill(self) -> None:
        """End the process by SIGKILL."""
        self._process.kill()

    def finish(self) -> tuple[int, str, str]:
        """Wait for the end; return the exit code and what is left of the results and notes."""
        texts = []
        for file, pipe in zip((self.stdout, self.stderr), self._pipes, strict=True):
            with pipe, file:
                texts.append(file.read())
        self._process.join()
        code = self._process.exitcode
        self._process.close()
        return code, *texts


def _run(command: list[str], variables: dict[str, str], out: Connection, err: Connection) -> None:
    """Run the command line; runs in the process."""
    os.environ.clear()
    os.environ |= variables
    os.dup2(out.fileno(), 1)
    os.dup2(err.fileno(), 2)
    sys.argv[1:] = command
    runpy.run_module("fastncf", run_name="__main__", alter_sys=True)
