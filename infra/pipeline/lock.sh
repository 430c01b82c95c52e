#!/usr/bin/env bash
# Makes infra/pipeline/requirements.lock again from pyproject.toml. Run it when a dependency changes, and commit the result.
# torch loses its local label and its hash: "torch==2.13.0" is met by a CPU wheel from a folder (UV_FIND_LINKS, 2.13.0+cpu)
# as well as by the index's own build. Everything else is pinned by hash.
set -euo pipefail
cd "$(dirname "$0")/../.."
lock=infra/pipeline/requirements.lock
uv pip compile pyproject.toml --extra dev --override infra/pipeline/overrides.txt --python-version 3.11 \
  --no-emit-package empelt --generate-hashes --no-header --no-annotate --quiet -o "$lock.new"
awk '/^torch==/ {print "torch==2.13.0"; skip=1; next} skip && /^    --hash/ {next} {skip=0; print}' "$lock.new" > "$lock"
rm "$lock.new"
sed -i '1i # Made by infra/pipeline/lock.sh for CPython 3.11 on Linux x86-64; installed by infra/setup.sh.' "$lock"
if grep -nE 'file:|find-links|index-url|@ /' "$lock"; then echo "the lock holds a local path" >&2; exit 1; fi
