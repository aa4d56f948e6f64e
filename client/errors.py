"""What can go wrong, for callers who want to tell the cases apart."""

from expunge.client.types import Job, Problem


class ExpungeError(Exception):
    """Every error of this client."""


class ApiError(ExpungeError):
    """The service answered with a problem."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.status = problem.status
        self.code = problem.code
        said = f"{problem.status} {problem.code}: {problem.detail or problem.title}"
        lines = [said]
        for e in problem.errors:
            if e.message == problem.title and not e.remedy:
                continue  # the sort of problem, which the detail has told
            at = "" if e.message in said else f"{e.field}: "  # the detail has the first one's words, mostly
            news = [text for text in (e.message, e.remedy) if text and text not in said]
            lines += [f"  {at}{'. '.join(news)}"] if news else []
        super().__init__("\n".join(lines))


class BadSetting(ExpungeError, ValueError):
    """The service's address, the API key or the proxy cannot be used; the key itself is never shown."""


class BadId(ExpungeError, ValueError):
    """A text is not the id of a job or an artifact."""


class BadFile(ExpungeError, ValueError):
    """A file is not what was asked for."""


class ConnectionFailed(ExpungeError):
    """The service could not be reached, or broke off, after every retry."""


class IntegrityError(ExpungeError):
    """Downloaded bytes do not match the sha256 that the service stated."""


class NoRecoveryKey(ExpungeError):
    """The job has no recovery key."""


class WaitTimeout(ExpungeError):
    """The job had not finished in time; it goes on."""


class JobFailed(ExpungeError):
    """The job did not succeed."""

    def __init__(self, job: Job) -> None:
        self.job = job
        reason = f": {job.error.code}: {job.error.message}" if job.error else ""
        super().__init__(f"job {job.id} {job.status}{reason}")
