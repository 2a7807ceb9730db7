#!/usr/bin/env bash
# The replica's entrypoint: on its first start it copies the primary, then it is an ordinary server.
set -euo pipefail

if [ ! -s "$PGDATA/PG_VERSION" ]; then
    install --directory --owner=postgres --group=postgres --mode=700 "$PGDATA"
    # A copy that was cut short leaves files behind, and pg_basebackup wants none.
    find "$PGDATA" -mindepth 1 -delete
    gosu postgres pg_basebackup --checkpoint=fast --write-recovery-conf --pgdata="$PGDATA" \
        --dbname="host=primary user=replicator application_name=replica sslmode=verify-full sslrootcert=/certificates/ca.pem"
fi
exec docker-entrypoint.sh "$@"
