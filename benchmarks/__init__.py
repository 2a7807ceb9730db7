"""Side-by-side load tests: no proxy, PgBouncer and pgambassador, in turn, in one run."""
