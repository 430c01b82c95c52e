"""What a decision looks like: two plots as SVG, and one page of HTML that needs nothing else. Plain Python.

Nothing is written here and nothing decided: numbers come from ``tasks.domain``, and the same verdict gives the same
bytes. matplotlib costs about 2 s to import, so only ``tasks.judge.explain`` imports this room, when it runs.
"""
