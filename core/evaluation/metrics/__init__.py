"""The metrics, one file each: `measure` reads the evidence and writes numbers on its sheet; CONVENTIONS says
how they are measured.
"""
