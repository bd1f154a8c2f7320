#!/bin/sh
# Temporal's own tables, made or brought up to date. It runs before each start: what is there already stays as it is.
set -eu
for database in temporal temporal_visibility; do
    case $database in
    temporal) versions=/etc/temporal/schema/postgresql/v12/temporal/versioned ;;
    *) versions=/etc/temporal/schema/postgresql/v12/visibility/versioned ;;
    esac
    set -- temporal-sql-tool --plugin postgres12 --ep "$POSTGRES_SEEDS" -u "$POSTGRES_USER" --db "$database"
    "$@" create
    "$@" setup-schema -v 0.0
    "$@" update-schema -d "$versions"
done
