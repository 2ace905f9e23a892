"""``python -m tests.chaos.streams [--minutes 3]``: clients hop between API processes while everything falls.

DATABASE_URL names the server; it is not crashed then. Unset, an embedded one is used. Ends with 1 if a client read
anything else than what is in the tables.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from pathlib import Path
from tempfile import NamedTemporaryFile

from tests.chaos.server import tormented_server
from tests.chaos.streams.storm import storm

MINUTES = 3.0
MAX_MINUTES = 60.0


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos.streams", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "--minutes", type=float, default=float(os.environ.get("MINUTES") or MINUTES), help="0.1 to 60, by default 3"
    )
    minutes = parser.parse_args().minutes
    if not 0.1 <= minutes <= MAX_MINUTES:
        parser.error(f"--minutes {minutes} is not between 0.1 and {MAX_MINUTES:g}")
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)  # It warns of each connection that we cut.
    with tormented_server() as server, NamedTemporaryFile(prefix="howdah-streams-", delete=False) as log:
        done = asyncio.run(storm(server, minutes * 60, log.file, tell=lambda line: print(line, flush=True)))
    struck = ", ".join(f"{strike} {count}" for strike, count in sorted(done.strikes.items()))
    print(f"{done.read:,} events read over {done.streams:,} streams; struck: {struck}")
    for sentence in done.broken:
        print(sentence, file=sys.stderr)
    if done.broken:
        print(f"what the processes wrote is in {log.name}", file=sys.stderr)
        return 1
    Path(log.name).unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
