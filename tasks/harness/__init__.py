"""lm-eval behind two functions: ``run.evaluate`` measures, ``suite.known_benchmarks`` lists.

lm-eval scores items; pairing, intervals and limits are ours (``tasks.domain.statistics``, ``gate``, ``verdict``). Flows
start ``python -m tasks.harness`` as a child (``child.measure``), since lm-eval takes seconds and 190 MB to import.
"""
