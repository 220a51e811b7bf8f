"""Pipelines that make data better: duplicates and leaks out, pairs scored, captions and pictures filtered.

A task says what is to be found out of each sample (`measure.Look`) and, once all is known, what goes (`decide`). The
first part is done block by block, in this process or by workers on Ray Data (`on_ray`), and kept (`measure.Store`);
the second takes seconds. What stays is copied byte for byte (`write`).
"""
