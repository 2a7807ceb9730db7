"""A PostgreSQL proxy that applications take for PostgreSQL.

The packages, in reading order (each imports only from those above it):

wire      bytes: cutting streams into frames, building and reading messages
auth      who is it: SCRAM, md5, trust, both sides
protocol  conversations without I/O: startup, settings, the reply ledger, cancel keys
cluster   which servers exist and how to reach them
pool      who gets which connection, when one is opened and when it is closed
routing   where a statement should go
observe   what is going on: metrics, query log, HTTP
net       sockets, TLS and the relay: the only place that does I/O
process   wiring and signals
"""

__version__ = "0.1.0"
