"""`python -m detcli` and the `detcli` script."""

from detcli.cli.app import main

if __name__ == "__main__":
    main()
