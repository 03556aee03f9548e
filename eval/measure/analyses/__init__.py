"""The paper's analyses of a network under a patch: one file each, numbers only, no pictures.

Each module has ``KIND`` (of its record) and ``analyse(network, sample, settings)``, which returns
the payload's own part; :mod:`eval.stages.analyze` adds what every record carries.
"""
