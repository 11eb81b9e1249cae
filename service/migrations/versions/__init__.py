"""The journal's schema, step by step: 001, 002, ...

While machines are upgraded one after the other, the version before still writes. So a migration adds tables, and
columns that may be empty or have a default of the database's own; what nobody needs any more is dropped one version
later. A version has one migration at most. A test inserts the rows of every schema into the next one.
"""
