"""Arrays in, arrays out, on NumPy and CuPy alike; no file, no Beam and no parameter is known here."""
