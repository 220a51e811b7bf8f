"""Measuring methods through their protocols: one file a task, `tasks.evaluate` runs them.

Every figure is a `results.Row` with a 95 % interval, its number of measured units and what guessing would give;
values that are shares lie in [0, 1]. An evaluation names the protocol that it wants and never a method.
"""
