"""One unit of each stage: read, compute, write one whole file, say what is in it; no Beam, and no two units at once.

Each unit finds an earlier attempt's finished file first, and then writes nothing. A failure names the unit.
"""
