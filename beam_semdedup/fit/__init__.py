"""The fitted model and the engines that fit it; an engine knows its rows and parameters, not where rows come from."""
