"""A comparison as CSV: a row for each figure of each job, safe to open in a spreadsheet."""

import csv
import io
import unicodedata

from expunge.api.schemas.compare import Comparison

HEADER = (
    "concept",
    "role",
    "metric",
    "attack",
    "better",
    "job",
    "job_id",
    "kind",
    "method",
    "verdict",
    "value",
    "ci_low",
    "ci_high",
    "n",
    "mark",
    "better_than",
    "worse_than",
    "conclusion",
    "differs",
)
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "|", "%")


def to_csv(comparison: Comparison) -> str:
    """The rows; the column `differs` repeats in each what makes the jobs less comparable."""
    differs = "; ".join(dict.fromkeys(each.differs for each in comparison.differences))
    jobs = {job.name: job for job in comparison.jobs}
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")  # RFC 4180
    writer.writerow(HEADER)
    for row in comparison.metrics:
        for each in row.values:
            job = jobs[each.job]
            about = (row.concept, row.role, row.metric, row.attack, row.better)
            by = (job.name, str(job.id), job.kind, job.method, job.verdict)
            marks = (
                each.mark,
                " ".join(each.better_than),
                " ".join(each.worse_than),
                row.conclusion,
                differs,
            )
            texts = [[harmless(text) for text in group] for group in (about, by, marks)]
            numbers = [each.value, each.ci_low, each.ci_high, each.n]
            writer.writerow([*texts[0], *texts[1], *numbers, *texts[2]])
    return out.getvalue()


def harmless(text: str | None) -> str:
    """A text that no spreadsheet takes for a formula: one that begins like it gets an apostrophe before it.

    Full-width signs count too, and so do signs behind spaces or characters that cannot be seen.
    """
    if text is None:
        return ""
    seen = unicodedata.normalize("NFKC", text).lstrip(" \u200b\u2060\ufeff")
    return f"'{text}" if seen.startswith(FORMULA) or text.startswith(FORMULA) else text
