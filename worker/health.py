"""`python -m expunge.worker.health` exits with 0 while a worker of this host is ready (or still testing
itself) and its heartbeat is recent; else with 1, and says why.
"""

import socket
import sys

from sqlalchemy.exc import SQLAlchemyError

from expunge.store import db, workers
from expunge.store.settings import read


def main() -> int:
    settings, host = read(secret=False), socket.gethostname()
    try:
        with db.transaction(settings.database_url.get_secret_value()) as session:
            found = [(row.state, row.pid, row.reason) for row in workers.list_on_host(session, host)]
    except SQLAlchemyError as error:
        sys.stdout.write(
            f"the database does not answer ({type(error).__name__}), so the state of the workers is unknown\n"
        )
        return 1
    for state, pid, reason in found:
        sys.stdout.write(f"worker {host}:{pid} is {state}" + (f": {reason}\n" if reason else "\n"))
    if not found:
        sys.stdout.write(f"no worker of {host} has sent a heartbeat within its lease\n")
    return 0 if any(state != workers.SUSPENDED for state, *_ in found) else 1


if __name__ == "__main__":
    raise SystemExit(main())
