"""Train recognisers for rare conditions from a handful of real faces.

The library: every stage can be called from a notebook. It never imports Prefect and never reads
the environment; `tasks` and `flows` wire it up.
"""

__version__ = "0.1.0"
