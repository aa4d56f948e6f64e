"""`python -m expunge.worker.loops`: dispatcher, stale messages, reaper, sweeper, verifier, webhooks and red
team, each in a thread. Run as many copies as you like: each loop runs in one of them at a time.
"""

import signal
import sys
import threading

import structlog
from obstore.exceptions import BaseError as BlobError
from sqlalchemy.exc import SQLAlchemyError

from expunge.store import deployment, logs, tracing
from expunge.store.errors import ForeignStore
from expunge.store.settings import Settings, read
from expunge.worker import dispatcher, metrics, reaper, red_team, stale_messages, sweeper, verifier
from expunge.worker.leader import lead
from expunge.worker.webhooks import Deliverer

log = structlog.get_logger("worker")
MINUTE, HOUR = 60.0, 3600.0


def main() -> None:
    # Set up what the loops share.
    settings, stop = read(), threading.Event()
    logs.configure(settings, "loops", lambda: sys.stdout)
    tracing.configure("loops")
    metrics.serve(settings)
    check_store(settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())

    # Run each loop in a thread of its own, until a signal stops them all.
    loops = [
        ("dispatcher", settings.dispatch_seconds, dispatcher.turn),
        ("stale_messages", settings.redispatch_after_seconds, stale_messages.turn),
        ("reaper", settings.reaper_seconds, reaper.turn),
        ("sweeper", HOUR, sweeper.turn),
        ("webhooks", settings.webhook_seconds, Deliverer().turn),
        ("verifier", MINUTE, verifier.turn),
        ("red_team", settings.red_team_seconds, red_team.turn),
    ]
    threads = [
        threading.Thread(target=lead, args=(name, settings, every, turn, stop), name=name)
        for name, every, turn in loops
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def check_store(settings: Settings) -> None:
    """Exit where the artifact store belongs to another deployment.

    One that is unreachable is checked again before anything is deleted.
    """
    try:
        deployment.open_store(settings)
    except ForeignStore as error:
        log.error("foreign_store", error=str(error))
        raise SystemExit(1) from error
    except (BlobError, SQLAlchemyError) as error:
        log.warning("store_not_checked", error=type(error).__name__)


if __name__ == "__main__":
    main()
