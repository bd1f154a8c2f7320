#!/bin/sh
# PostgreSQL with a client that writes; not as root:  postgresql.sh DATA_FOLDER
. "${0%/*}/gate.sh"
PATH=$(echo /usr/lib/postgresql/*/bin):$PATH
export PGHOST="$data" PGDATABASE=postgres PGDATA="$data/cluster"
initdb --auth=trust --encoding=UTF8 --locale=C.UTF-8 >"$data/initdb" 2>&1 || { cat "$data/initdb"; exit 3; }
postgres -c unix_socket_directories="$data" -c listen_addresses=127.0.0.1 -c checkpoint_timeout=30s \
    -c log_min_messages=warning >"$data/server" 2>&1 &
server=$!
until psql -c 'select 1' >/dev/null 2>&1; do sleep 0.1; done
psql -q -c 'create table chain (round int primary key, digest text not null)' -c "insert into chain values (0, md5('0'))"
{
    while [ ! -e "$data/finish" ]; do
        echo "insert into chain select round + 1, md5(digest || round) from chain order by round desc limit 1;"
        sleep 0.005
    done
} | psql -q -v ON_ERROR_STOP=1 &
writer=$!
rounds() { psql -At -c 'select max(round) from chain'; }
until [ "$(rounds)" -gt 50 ]; do sleep 0.1; done
echo ready
wait "$writer"
echo "writer $?"
psql -At -v ON_ERROR_STOP=1 <<'END'
with recursive model (round, digest) as (
    select 0, md5('0') union all
    select round + 1, md5(digest || round) from model where round < (select max(round) from chain))
select count(*) as wrong from model full join chain using (round) where model.digest is distinct from chain.digest;
create extension amcheck;
select bt_index_check('chain_pkey', true);
END
kill "$server"
wait "$server"
echo "server $?"
grep -E 'WARNING|ERROR|FATAL|PANIC' "$data/server"
:
