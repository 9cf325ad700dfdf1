"""How good a network is: candidates, ranks, metrics, groups of users, comparison of runs."""
