#!/bin/sh
# Runs once, when PostgreSQL makes its data folder: Perdure's own role and database, beside Temporal's.
# The password travels in the environment alone: psql reads it from there, so it needs no quoting here.
set -eu
psql --username "$POSTGRES_USER" --dbname postgres --set ON_ERROR_STOP=1 <<'SQL'
\getenv password PERDURE_DATABASE_PASSWORD
CREATE ROLE perdure LOGIN PASSWORD :'password';
CREATE DATABASE perdure OWNER perdure ENCODING 'UTF8' TEMPLATE template0;
SQL
