"""One notebook over many parameters: resumable, on local processes or an existing cluster, into one table.

``grid`` and ``notebook`` say what to run, ``plan`` names each run by a key, ``folder`` is what is on the disk,
``execute`` runs one notebook, ``workers`` are where runs go, ``sweep`` drives them, ``results`` is the table.
``papermill_engine`` is the engine that all runs use, for plain papermill as well.
"""
