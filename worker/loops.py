"""`python -m worker.loops`: dispatcher, reaper, sweeper and verifier beside each other. Run it as often as you like: one of each leads."""

import signal
import threading

from store.settings import Settings
from worker import dispatcher, logs, reaper, sweeper, verifier
from worker.leader import lead

MINUTE, HOUR = 60.0, 3600.0


def main() -> None:
    logs.configure()
    settings, stop = Settings(), threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    loops = [
        ("dispatcher", settings.dispatch_seconds, dispatcher.turn),
        ("reaper", settings.reaper_seconds, reaper.turn),
        ("sweeper", HOUR, sweeper.turn),
        ("verifier", MINUTE, verifier.turn),
    ]
    threads = [threading.Thread(target=lead, args=(name, settings, every, turn, stop), name=name) for name, every, turn in loops]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
