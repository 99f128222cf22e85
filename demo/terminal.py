"""Runs a program in a pseudo-terminal and answers its questions, as a person at the keyboard would."""

import fcntl
import os
import pty
import select
import struct
import termios
import time


def converse(words, environment, answers, timeout=30):
    """Runs a program. `answers` are pairs of a question and what to type when it appears, in order. Returns what
    the terminal showed and the exit code."""
    pid, terminal = pty.fork()
    if pid == 0:
        try:
            os.execve(words[0], list(words), environment)
        finally:
            os._exit(127)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))
    shown, seen, waiting = "", 0, list(answers)
    deadline = time.monotonic() + timeout
    try:
        while chunk := _read(terminal, deadline - time.monotonic()):
            shown += chunk
            if waiting and (at := shown.find(waiting[0][0], seen)) >= 0:
                question, answer = waiting.pop(0)
                seen = at + len(question)
                os.write(terminal, f"{answer}\n".encode())
    finally:
        os.close(terminal)
        _, status = os.waitpid(pid, 0)
    if waiting:
        raise RuntimeError(f"the program did not ask {waiting[0][0]!r}:\n{shown}")
    return shown.replace("\r", ""), os.waitstatus_to_exitcode(status)


def _read(terminal, seconds):
    """What comes next; nothing when the program is done."""
    if not select.select([terminal], [], [], max(seconds, 0))[0]:
        raise TimeoutError("the program waits for something that was not foreseen")
    try:
        return os.read(terminal, 4096).decode(errors="replace")
    except OSError:  # Linux reports the end of a terminal so.
        return ""
