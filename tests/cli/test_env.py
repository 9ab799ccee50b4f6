"""`env`."""

import json

import torch

from tests.cli.run_cli import run


def test_env_is_json(capsys):
    done = run(capsys, "env", "--json")
    assert json.loads(done.out)["packages"]["torch"] == torch.__version__.split("+")[0]
