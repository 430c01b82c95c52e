#!/usr/bin/env bash
# Sets up all that Empelt needs on a machine that has Python >= 3.11 and make; says what it does; does nothing twice.
#   infra/setup.sh            the two Python environments (.venv, .venv-serving) and vLLM's one system library
#   infra/setup.sh --tests    also what only tests use: Chromium, PostgreSQL, Redis and HAProxy, from Debian packages
# EMPELT_SERVING=cpu|gpu|none picks vLLM's build (default: gpu where nvidia-smi answers, else cpu).
set -euo pipefail
cd "$(dirname "$0")/.."
say() { printf '\033[1m[setup]\033[0m %s\n' "$*"; }
fail() { printf '[setup] %s\n' "$*" >&2; exit 1; }

# --- Python and uv -----------------------------------------------------------------------------------------------------
python=""
for candidate in "${PYTHON:-}" python3.11 python3 python3.12 python3.13; do
  [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 || continue
  if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$(command -v "$candidate"); break; fi
done
[ -n "$python" ] || fail "no Python >= 3.11 found; install one, or name it: PYTHON=/path/to/python3.11 make setup"
if command -v uv >/dev/null 2>&1; then uv=uv; else
  if [ ! -x .venv-tools/bin/uv ]; then
    say "uv is not installed: putting it into .venv-tools"
    "$python" -m venv .venv-tools && .venv-tools/bin/pip install --quiet --disable-pip-version-check 'uv>=0.9'
  fi
  uv=$PWD/.venv-tools/bin/uv
fi
# A folder of wheels that pip is told about (a CPU build of torch, say) is unknown to uv: pass it on.
if [ -z "${UV_FIND_LINKS:-}" ]; then
  links=${PIP_FIND_LINKS:-$("$python" -m pip config get global.find-links 2>/dev/null || true)}
  if [ -n "$links" ]; then UV_FIND_LINKS=$(printf '%s' "$links" | tr ' ' ','); export UV_FIND_LINKS; fi
fi
export UV_LINK_MODE=${UV_LINK_MODE:-hardlink} UV_PYTHON_DOWNLOADS=${UV_PYTHON_DOWNLOADS:-never}

# --- Debian packages ---------------------------------------------------------------------------------------------------
debian() {  # debian PACKAGE PROOF...: installs PACKAGE unless one of the proofs (a path) exists
  local package=$1; shift
  for proof in "$@"; do compgen -G "$proof" >/dev/null && return 0; done
  missing+=("$package")
}
missing=()
debian libnuma1 '/usr/lib/*/libnuma.so.1' '/lib/*/libnuma.so.1'
if [ "${1:-}" = --tests ]; then
  debian chromium /usr/bin/chromium /usr/bin/chromium-browser
  debian postgresql '/usr/lib/postgresql/*/bin/initdb'
  debian redis-server /usr/bin/redis-server /usr/local/bin/redis-server
  debian haproxy /usr/sbin/haproxy  # what `make bench-gateway` compares with
fi
if [ ${#missing[@]} -gt 0 ]; then
  sudo=""; [ "$(id -u)" = 0 ] || sudo="sudo -n"
  if command -v apt-get >/dev/null 2>&1 && { [ -z "$sudo" ] || $sudo true 2>/dev/null; }; then
    say "installing Debian packages: ${missing[*]}"
    $sudo apt-get update -qq >/dev/null
    DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
  else
    say "cannot install Debian packages without root: ${missing[*]} (tests that need them will skip and say so)"
  fi
fi

# --- the two environments ----------------------------------------------------------------------------------------------
build() {  # build VENV STAMP_SOURCE... -- INSTALL ARGS...: makes VENV unless it was made from these very files
  local venv=$1; shift; local sources=(); while [ "$1" != -- ]; do sources+=("$1"); shift; done; shift
  local stamp; stamp=$(cat "${sources[@]}" infra/setup.sh | sha256sum | cut -c1-64)
  [ "$(cat "$venv/.empelt-stamp" 2>/dev/null)" = "$stamp" ] && return 0
  say "making $venv (python $("$python" -V | cut -d' ' -f2))"
  [ -x "$venv/bin/python" ] || "$uv" venv --quiet --python "$python" "$venv"
  "$uv" pip install --quiet --python "$venv/bin/python" "$@"
  if [ "$venv" = .venv ]; then "$uv" pip install --quiet --python .venv/bin/python --no-deps --editable .; fi
  echo "$stamp" > "$venv/.empelt-stamp"
}
build .venv infra/pipeline/requirements.lock pyproject.toml -- \
  --override infra/pipeline/overrides.txt -r infra/pipeline/requirements.lock
serving=${EMPELT_SERVING:-$(command -v nvidia-smi >/dev/null 2>&1 && echo gpu || echo cpu)}
if [ "$serving" != none ]; then
  [ -f "infra/serving/$serving/requirements.lock" ] || fail "EMPELT_SERVING=$serving: expected cpu, gpu or none"
  overrides=(); [ -f "infra/serving/$serving/overrides.txt" ] && overrides=(--override "infra/serving/$serving/overrides.txt")
  build .venv-serving "infra/serving/$serving/requirements.lock" -- "${overrides[@]}" -r "infra/serving/$serving/requirements.lock"
fi
say "ready: .venv (pipeline) and .venv-serving (vLLM, $serving)"
