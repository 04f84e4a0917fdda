"""Real processes that run `safetypin` and kill themselves on demand, without the imports' cost.

A nursery imports the package once and forks a child for every line on its standard input:
{"words": the command, "log": file for its output, "trap": how to end, or null}. It answers with
the child's process id; {"wait": id} answers with the exit code, -9 after a kill.

A trap is sprung at writes, each the moment a file reaches the disk and before it is renamed:
{"at": part of the file's path, "line": how many lines it must have, or null, "do": what}:
`kill` dies there, half of the last line lost; `interrupt` is Ctrl-C; `pause` waits for a kill.
{"once": file} dies once at every write there is, and keeps the list of them in the file.
"""

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path


class Nursery:
    """Starts children; used as a context manager."""

    def __enter__(self):
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *error):
        self._process.stdin.close()
        self._process.wait(timeout=60)
        self._process.stdout.close()

    def start(self, *words, log, trap=None):
        return self._ask({"words": [*map(str, words)], "log": str(log), "trap": trap})

    def wait(self, child):
        return self._ask({"wait": child})

    def run(self, *words, log, trap=None):
        """Return the exit code of `safetypin WORDS`."""
        return self.wait(self.start(*words, log=log, trap=trap))

    def _ask(self, job):
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


def serve():
    from safetypin.cli import main
    from safetypin.cli._lazy import HOMES, LazyCommands

    for name in HOMES:  # which a command would import in every child
        LazyCommands()[name]
    while line := sys.stdin.readline():
        job = json.loads(line)
        if "wait" in job:
            _, status = os.waitpid(job["wait"], 0)
            answer = os.waitstatus_to_exitcode(status)
        elif (answer := os.fork()) == 0:
            live(job, main)
        print(json.dumps(answer), flush=True)  # noqa: T201


def live(job, main):
    """Run the command in a child; never returns."""
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(log, stream)
    sys.argv = ["safetypin", *job["words"]]
    # where the tests are run in the background of a shell, SIGINT is ignored from the start
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if job["trap"]:
        set_trap(job["trap"])
    try:
        main()
        code = 0
    except SystemExit as ended:
        code = ended.code or 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 70
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def path_of(descriptor):
    """Return the path of an open file."""
    if hasattr(fcntl, "F_GETPATH"):  # macOS
        return Path(fcntl.fcntl(descriptor, fcntl.F_GETPATH, bytes(1024)).rstrip(b"\0").decode())
    return Path(f"/proc/self/fd/{descriptor}").readlink()


def set_trap(trap):
    sync, remove = os.fsync, shutil.rmtree

    def fsync(descriptor):
        sync(descriptor)
        spring(trap, path_of(descriptor))

    def rmtree(folder, **options):
        # dies with half of the folder gone
        files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        if files and due(trap, f"removing {Path(folder).name}"):
            files[0].unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        remove(folder, **options)

    os.fsync, shutil.rmtree = fsync, rmtree


def spring(trap, path):
    lines = path.read_bytes().count(b"\n") if path.suffix == ".jsonl" else None
    if "once" in trap:
        if lines is None or lines in {1, 4, 8}:
            name = re.sub(r"\.\d+\.part$", "", path.name)
            key = f"{path.parent.name}/{name}" + (f" line {lines}" if lines else "")
            if due(trap, key):
                die(path)
        return
    if trap["at"] in str(path) and trap.get("line") in {None, lines}:
        {"kill": lambda: die(path), "interrupt": interrupt, "pause": pause}[trap["do"]]()


def due(trap, key):
    if "once" not in trap:
        return False
    book = Path(trap["once"])
    known = book.read_text().splitlines() if book.exists() else []
    if key in known:
        return False
    book.write_text("".join(line + "\n" for line in [*known, key]))
    return True


def die(path):
    if path.suffix == ".jsonl":  # a line that was written half
        last = path.read_bytes().splitlines(keepends=True)[-1]
        os.truncate(path, path.stat().st_size - len(last) // 2)
    os.kill(os.getpid(), signal.SIGKILL)


def interrupt():
    signal.raise_signal(signal.SIGINT)  # to this thread: another might get it late


def pause():
    while True:
        time.sleep(1)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        serve()
