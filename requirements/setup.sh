#!/usr/bin/env bash
# Makes .venv from requirements/all.lock, every file checked against its hash. `make setup` calls it.
#
#   PYTHON              interpreter to use; default: the first of python3.12, python3.11, python3
#                       that fits
#   RECSYS_TORCH_INDEX  address of a wheel index, or a folder of wheels, that has torch (a CPU build,
#                       say); torch is then taken from there without its CUDA libraries
#
# uv does the work; where it is not on PATH, pip fetches the pinned one into .setup/.
set -euo pipefail
cd "$(dirname "$0")/.."

lock=requirements/all.lock
say() { printf '%s\n' "$*" >&2; }
fail() { say "setup: $*"; exit 2; }

# --- the interpreter ------------------------------------------------------------------------
fits='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))'
# Triton's Python backend loads the interpreter as a shared library.
shared='import os, sys, sysconfig as s
name = s.get_config_var("INSTSONAME") or ""
name = name if ".so" in name else "libpython%d.%d.so.1.0" % sys.version_info[:2]
folders = [s.get_config_var("LIBDIR"), sys.base_prefix + "/lib", "/usr/lib/%s" % s.get_config_var("MULTIARCH")]
sys.exit(not any(f and os.path.isfile(os.path.join(f, name)) for f in folders))'
python=""
if [ -n "${PYTHON:-}" ]; then
  "$PYTHON" -c "$fits" 2>/dev/null ||
    fail "wanted Python 3.11 or 3.12, found PYTHON=$PYTHON ($(command -v "$PYTHON" >/dev/null && "$PYTHON" -V 2>&1 || echo 'which does not run')); give the path of another"
  python=$PYTHON
else
  found=""
  for candidate in python3.12 python3.11 python3 python; do
    command -v "$candidate" >/dev/null || continue
    found="$found $candidate ($({ "$candidate" -V 2>&1 || true; } | tail -n 1))"
    "$candidate" -c "$fits" 2>/dev/null || continue
    [ -n "$python" ] || python=$candidate
    if "$candidate" -c "$shared"; then python=$candidate; break; fi
  done
  [ -n "$python" ] || fail "wanted Python 3.11 or 3.12 on PATH, found:${found:- none}; install one, or run make setup PYTHON=/path/to/python3.11"
fi
python=$("$python" -c 'import sys; print(sys.executable)')
"$python" -c "$shared" ||
  say "setup: note: $python has no shared library; the embedded Triton will not run (it says what to do)"

# --- already done? --------------------------------------------------------------------------
fingerprint=$({ cat "$lock" pyproject.toml requirements/setup.sh; "$python" -VV; echo "$python ${RECSYS_TORCH_INDEX:-}"; pwd; } | sha256sum | cut -d' ' -f1)
if [ -x .venv/bin/recsys ] && [ "$(cat .venv/.fingerprint 2>/dev/null)" = "$fingerprint" ]; then
  exit 0
fi

# --- room -----------------------------------------------------------------------------------
wanted_mib=7000
[ -z "${RECSYS_TORCH_INDEX:-}" ] || wanted_mib=2500
free_mib=$(($(df -Pk . | awk 'NR == 2 {print $4}') / 1024))
if [ ! -d .venv ] && [ "$free_mib" -lt "$wanted_mib" ]; then
  fail "wanted $wanted_mib MiB free in $PWD, found $free_mib MiB; free some space, or set RECSYS_TORCH_INDEX to an index of CPU wheels (2500 MiB)"
fi

# --- pip's settings are uv's too, where uv has none -----------------------------------------
pip_setting() { # variable, key of pip's configuration
  local value=${!1:-}
  [ -n "$value" ] || value=$("$python" -m pip config get "global.$2" 2>/dev/null || true)
  printf '%s' "$value"
}
if [ -z "${UV_DEFAULT_INDEX:-}${UV_INDEX_URL:-}" ]; then
  value=$(pip_setting PIP_INDEX_URL index-url); [ -z "$value" ] || export UV_DEFAULT_INDEX=$value
fi
if [ -z "${UV_INDEX:-}${UV_EXTRA_INDEX_URL:-}" ]; then
  value=$(pip_setting PIP_EXTRA_INDEX_URL extra-index-url); [ -z "$value" ] || export UV_INDEX=$value
fi
if [ -z "${UV_FIND_LINKS:-}" ]; then
  value=$(pip_setting PIP_FIND_LINKS find-links); [ -z "$value" ] || export UV_FIND_LINKS=$value
fi
if [ -z "${SSL_CERT_FILE:-}" ]; then
  value=$(pip_setting PIP_CERT cert); [ -z "$value" ] || export SSL_CERT_FILE=$value
fi

# --- uv -------------------------------------------------------------------------------------
mkdir -p .setup
block() { awk -v name="$1" 'index($0, name "==") == 1 {on = 1} on {print} on && !/\\$/ {exit}' "$lock"; }
uv=$(command -v uv || true)
if [ -z "$uv" ] || ! "$uv" --version >/dev/null 2>&1; then
  uv=$PWD/.setup/uv/bin/uv
  if ! "$uv" --version >/dev/null 2>&1; then
    say "setup: fetching uv with pip"
    block uv >.setup/uv.txt
    rm -rf .setup/uv .setup/uv.new
    "$python" -m pip --version >/dev/null 2>&1 ||
      fail "wanted uv on PATH or pip in $python, found neither; install one of them"
    "$python" -m pip install --quiet --no-input --no-deps --require-hashes --disable-pip-version-check \
      --target .setup/uv.new -r .setup/uv.txt || fail "pip could not fetch uv; check the network and pip's settings"
    mv .setup/uv.new .setup/uv
  fi
fi

# --- packages -------------------------------------------------------------------------------
export UV_LINK_MODE=${UV_LINK_MODE:-hardlink} UV_HTTP_TIMEOUT=${UV_HTTP_TIMEOUT:-120}
rm -f .venv/.fingerprint
if [ ! -x .venv/bin/python ] || [ "$(.venv/bin/python -VV 2>/dev/null)" != "$("$python" -VV)" ]; then
  "$uv" venv --quiet --clear --no-project --python "$python" .venv
fi
install() {
  if [ -t 2 ]; then # a terminal shows progress bars
    "$uv" pip "$@" --python .venv/bin/python
  else # a log need not list what the lock lists
    "$uv" pip "$@" --python .venv/bin/python 2>&1 | { grep -v '^ [+~-] ' || true; } >&2
  fi
}
say "setup: $("$uv" --version | cut -d' ' -f1,2) installs $lock for $("$python" -V) into .venv"
if [ -z "${RECSYS_TORCH_INDEX:-}" ]; then
  install sync --require-hashes "$lock"
else
  awk '/^[a-zA-Z0-9]/ {drop = /^(torch|triton|nvidia-|cuda-)/ && !/^tritonclient/} !drop' "$lock" >.setup/without-torch.txt
  torch=$(awk -F'[ ;\\\\]' '/^torch==/ {print $1}' "$lock")
  install sync --require-hashes .setup/without-torch.txt
  if [ -d "$RECSYS_TORCH_INDEX" ]; then
    install install --no-deps --no-index --find-links "$RECSYS_TORCH_INDEX" "$torch"
  else
    install install --no-deps --default-index "$RECSYS_TORCH_INDEX" "$torch"
  fi || fail "wanted $torch, found none for this Python in RECSYS_TORCH_INDEX=$RECSYS_TORCH_INDEX; correct or unset it"
fi
install install --quiet --no-deps --no-build-isolation --editable .
printf '%s\n' "$fingerprint" >.venv/.fingerprint
