"""`python -m expunge.worker.loops`: dispatcher, bells, reaper, sweeper, verifier and webhooks beside each
other. Run it as often as you like: one of each leads.
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
from expunge.worker import dispatcher, metrics, reaper, stale_messages, sweeper, verifier
from expunge.worker.leader import lead
from expunge.worker.webhooks import Deliverer

log = structlog.get_logger("worker")
MINUTE, HOUR = 60.0, 3600.0


def main() -> None:
    settings, stop = read(), threading.Event()
    logs.configure(settings, "loops", lambda: sys.stdout)
    tracing.configure("loops")
    metrics.serve(settings)
    own_store(settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    loops = [
        ("dispatcher", settings.dispatch_seconds, dispatcher.turn),
        ("bells", settings.redispatch_after_seconds, stale_messages.turn),
        ("reaper", settings.reaper_seconds, reaper.turn),
        ("sweeper", HOUR, sweeper.turn),
        ("webhooks", settings.webhook_seconds, Deliverer().turn),
        ("verifier", MINUTE, verifier.turn),
    ]
    threads = [
        threading.Thread(target=lead, args=(name, settings, every, turn, stop), name=name)
        for name, every, turn in loops
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def own_store(settings: Settings) -> None:
    """End when the artifact store is another deployment's.

    One that is away is looked at again before anything is deleted.
    """
    try:
        deployment.open_store(settings)
    except ForeignStore as error:
        log.error("foreign_store", error=str(error))
        raise SystemExit(1) from error
    except (BlobError, SQLAlchemyError) as error:
        log.warning("store_unknown", error=type(error).__name__)


if __name__ == "__main__":
    main()
