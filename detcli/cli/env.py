"""`detcli env`."""

from __future__ import annotations

from detcli.cli.options import Json, Quiet
from detcli.cli.output import print_json, print_table


def command(as_json: Json = False, quiet: Quiet = False) -> None:
    """Show package versions, CPUs and GPUs of this machine, for bug reports."""
    from detcli.engine.run.environment import environment

    found = environment()
    if as_json:
        print_json(found)
        return
    rows = [(key, str(found[key])) for key in ("python", "platform", "cpus", "torch_threads")]
    rows += [(name, version or "not installed") for name, version in found["packages"].items()]
    rows.append(("cuda", found["cuda"] or "not available"))
    rows += [
        (f"device {index}", f"{device['name']}, {device['memory_gib']} GiB")
        for index, device in enumerate(found["devices"])
    ]
    print_table(("", ""), rows)
