"""`python -m rtdetr` and the console script `rtdetr`."""

from rtdetr.cli.main import main

if __name__ == "__main__":
    main()
