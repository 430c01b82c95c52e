#!/bin/sh
# Makes the folder of secrets that infra/compose.yaml mounts: passwords drawn at random, and the addresses that hold them.
#   infra/images/make-secrets.sh infra/secrets        what is there already is left alone
set -eu
folder=${1:?name the folder, for example infra/secrets}
umask 077
mkdir -p "$folder"
draw() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
keep() { [ -s "$folder/$1" ] || printf '%s' "$2" > "$folder/$1"; }
keep db_password "$(draw)"
keep redis_password "$(draw)"
keep prefect_auth "empelt:$(draw)"
[ -e "$folder/hub_token" ] || : > "$folder/hub_token" # yours, if a model is gated
db=$(cat "$folder/db_password") redis=$(cat "$folder/redis_password")
keep ledger_url "postgresql://empelt:$db@db:5432/empelt"
keep prefect_database_url "postgresql+asyncpg://empelt:$db@db:5432/prefect"
keep redis_url "redis://default:$redis@redis:6379/0"
# Containers run as user 10001 and read them through a bind mount: files of another user would be shut.
[ "$(id -u)" != 0 ] || chown -R 10001:10001 "$folder"
