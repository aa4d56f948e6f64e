"""What must survive a crash: the tables, every query on them, and the artifact bytes.

The queue is these files, in the order in which a job meets them:

queue_quotas.py         whether its tenant may have one more job
jobs.py                 jobs as clients see them: created, listed, cancelled, retried; all changes of status
queue_announcements.py  which queued jobs a worker is woken for
queue_pauses.py         whose jobs are not started for now
queue_claims.py         which job a worker takes: tenants in turn
attempts.py             what the worker writes from the claim to the end, checked by the fence
queue_recovery.py       what becomes of jobs whose worker died, or whose deadline passed
"""

from expunge import extras

extras.require("expunge.store", "service", "sqlalchemy")
