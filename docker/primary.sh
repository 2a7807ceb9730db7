#!/usr/bin/env bash
# Runs once, on the primary's first start: the application's user and database, the replica's user, and TLS for
# everybody who comes over the network.
set -euo pipefail

psql --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres <<'END'
create role app login password 'app-secret';
create role replicator login replication password 'replicator-secret';
create database app owner app;
END

cat > "$PGDATA/pg_hba.conf" <<'END'
local    all          all                    trust
host     all          all    127.0.0.1/32    scram-sha-256
hostssl  all          all    all             scram-sha-256
hostssl  replication  all    all             scram-sha-256
END
