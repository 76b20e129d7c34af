"""`python -m beam_semdedup` is the command `semdedup`."""

from beam_semdedup.cli.commands import main

if __name__ == "__main__":
    main()
