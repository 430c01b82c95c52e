"""What a decision looks like: plots as SVG, and one page of HTML that needs nothing else. Plain Python.

Nothing is written here and nothing decided: numbers come from ``tasks.domain``, and the same verdict gives the same
bytes. matplotlib costs about 2 s to import, so only ``tasks.explained`` imports this room, when it runs.
"""
