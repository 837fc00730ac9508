"""`python -m benchmarks.peers`."""

from benchmarks.common import main
from benchmarks.peers import arguments, run

if __name__ == "__main__":
    main(run, arguments)
