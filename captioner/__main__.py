"""``python -m captioner``: the command line."""

from captioner.cli import program

if __name__ == "__main__":
    program()
