"""What a trial left behind."""

from __future__ import annotations

import signal

from detcli.engine.ablate.trial import why_failed


def test_why_failed(tmp_path):
    console = tmp_path / "console.txt"
    console.write_text("loading\nerror: rank 0: no such file\nbye\n")
    assert why_failed(3, console) == "rank 0: no such file"
    assert why_failed(-signal.SIGKILL, console) == "killed by SIGKILL (out of memory?)"
    assert why_failed(1, tmp_path / "none").startswith("exit code 1; see")
