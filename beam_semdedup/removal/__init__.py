"""The dataset without its duplicates, matched by id; what a duplicate is, is not known here."""
