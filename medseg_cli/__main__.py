"""`python -m medseg_cli` is `medseg`."""

from medseg_cli.app import main

if __name__ == "__main__":
    raise SystemExit(main())
