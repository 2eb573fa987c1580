"""What ssh asks (ssh(1), SSH_ASKPASS), put to whoever sits at the terminal: one question at a time, however many hosts ask at once.

Two ssh processes that read the same terminal would each get half of what is typed; and a message to touch the key would go where ssh's
errors go, unseen. Run by ssh as a program of its own: it only needs the standard library.
"""

import fcntl
import getpass
import os
import signal
import sys


def main(question: str, kind: str, lock: str) -> int:
    """Ask, and say the answer; `kind` is ssh's SSH_ASKPASS_PROMPT."""
    if kind == "none":  # no answer is wanted; ssh ends us when the key was touched
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the terminal ends us, too, although whoever began all this ignores it (nohup)
        with open("/dev/tty", "w") as terminal:
            print(question, file=terminal)
        signal.pause()
    with open(lock, "w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        answer = getpass.getpass(question if question.endswith((" ", "\n")) else f"{question} ")
    if kind == "confirm":
        return answer not in ("y", "yes")
    print(answer)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[2], os.environ.get("SSH_ASKPASS_PROMPT", ""), sys.argv[1]))
