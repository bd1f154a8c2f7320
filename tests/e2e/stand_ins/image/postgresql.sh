#!/bin/sh
# Debian's PostgreSQL as the official image runs: its data folder is made once, and databases.sh is run then.
set -eu
bin=/usr/lib/postgresql/15/bin
data=/var/lib/postgresql/data
export PGDATA=$data/15
mkdir -p "$data" /run/postgresql
chown postgres "$data" /run/postgresql
as() { setpriv --reuid=postgres --regid=postgres --init-groups env PATH="$bin:$PATH" "$@"; }
if [ ! -d "$PGDATA" ]; then
    as sh -c 'umask 077; echo "$POSTGRES_PASSWORD" >/tmp/password'
    as initdb --encoding=UTF8 --locale=C.UTF-8 --username="$POSTGRES_USER" --pwfile=/tmp/password --auth-local=trust --auth-host=scram-sha-256 >/dev/null
    as pg_ctl --wait --options="-c listen_addresses=" start >/dev/null
    as /bin/sh /docker-entrypoint-initdb.d/databases.sh
    as pg_ctl --wait stop >/dev/null
    echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
fi
exec setpriv --reuid=postgres --regid=postgres --init-groups "$bin/postgres" -c "listen_addresses=*"
