"""`semdedup-plan`: what a run will take, from rates and the sizes that a run chooses; no pipeline runs here."""
