"""``python -m lineament``: the command line."""

from lineament.cli import main

if __name__ == "__main__":
    main(prog_name="lineament")
