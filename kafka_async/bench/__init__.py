"""What ``python -m kafka_async bench`` runs: clients side by side on one broker, in rounds.

`catalog` says what is measured of whom, `rounds` runs it, each sample in a process of its own (`sample`), and `report`
and `plots` show what came out. The samples are in `producing`, `consuming`, `crossing`, `awaiting` and `footprint`;
`clients` opens the clients, and is where their settings can be compared.
"""
