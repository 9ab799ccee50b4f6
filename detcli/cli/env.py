"""`detcli env`."""

from __future__ import annotations

from detcli.cli.output import Json, Quiet, print_json, print_table


def command(as_json: Json = False, quiet: Quiet = False) -> None:
    """Versions, processors and accelerators of this machine: paste it into a bug report."""
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
