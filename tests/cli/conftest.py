"""A run that several files of tests look at."""

import pytest

from tests.recipes import write_tiny


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A finished tiny run, and the recipe it was made from."""
    from detcli.cli.app import main

    folder = tmp_path_factory.mktemp("run")
    recipe = write_tiny(folder, train={"val_loss": True}, model={"score_threshold": 0.01})
    with pytest.raises(SystemExit) as done:
        main(["train", str(recipe), "--out", str(folder / "run"), "--quiet"])
    assert not done.value.code
    return recipe, folder / "run"
