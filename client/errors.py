"""The client's errors; all are `ExpungeError`s."""

from expunge.client.types import Job, Problem


class ExpungeError(Exception):
    """Base class of every error of this client."""


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
                continue
            # The detail mostly repeats the first field's message
            unsaid = [text for text in (e.message, e.remedy) if text and text not in said]
            field = "" if e.message in said else f"{e.field}: "
            if unsaid:
                lines.append(f"  {field}{'. '.join(unsaid)}")
        super().__init__("\n".join(lines))


class BadSetting(ExpungeError, ValueError):
    """The service's address, the API key or the proxy is unusable; the key itself is never shown."""


class BadId(ExpungeError, ValueError):
    """A text cannot be the id of a job or an artifact."""


class BadFile(ExpungeError, ValueError):
    """A file cannot be uploaded as what it should be."""


class ConnectionFailed(ExpungeError):
    """The service could not be reached, or broke off, after all retries."""


class IntegrityError(ExpungeError):
    """Downloaded bytes do not match the sha256 that the service stated."""


class NoRecoveryKey(ExpungeError):
    """The job has no recovery key."""


class WaitTimeout(ExpungeError):
    """The job did not finish in the time given; it goes on."""


class JobFailed(ExpungeError):
    """The job did not succeed."""

    def __init__(self, job: Job) -> None:
        self.job = job
        reason = f": {job.error.code}: {job.error.message}" if job.error else ""
        super().__init__(f"job {job.id} {job.status}{reason}")
