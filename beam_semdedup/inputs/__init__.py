"""One file for each format behind one interface, and the dataset as a whole; the configuration is not known here."""
