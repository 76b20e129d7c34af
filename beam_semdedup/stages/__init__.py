"""What one unit of each stage does: read, compute, write one whole file, and say what is in it.

Each unit finds an earlier attempt's finished file first, and then writes nothing. A failure names the unit.
"""
