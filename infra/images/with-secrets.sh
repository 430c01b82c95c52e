#!/bin/sh
# Entry point of the pipeline's image: `NAME_FILE=/run/secrets/x` becomes `NAME=<what is in it>` for Prefect, which reads its
# secrets from variables only. (Empelt's own settings know EMPELT_*_FILE themselves.)
set -eu
for name in PREFECT_SERVER_DATABASE_CONNECTION_URL PREFECT_SERVER_DOCKET_URL PREFECT_REDIS_MESSAGING_URL \
  PREFECT_SERVER_API_AUTH_STRING PREFECT_API_AUTH_STRING; do
  eval "file=\${${name}_FILE:-}"
  [ -n "$file" ] || continue
  value=$(cat "$file") || { echo "$0: ${name}_FILE names $file, which cannot be read" >&2; exit 2; }
  export "$name=$value"
  unset "${name}_FILE"
done
# A secret that nobody has is an empty file here; Empelt refuses one, since elsewhere it is a mistake.
if [ -n "${EMPELT_HUB_TOKEN_FILE:-}" ] && [ ! -s "$EMPELT_HUB_TOKEN_FILE" ]; then unset EMPELT_HUB_TOKEN_FILE; fi
exec "$@"
