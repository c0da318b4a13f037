# shellcheck shell=bash
# Python environment of the launch scripts, which source this file:
# make_environment EXTRA installs this repository editable with that extra
# ("" for none) and puts it on the PATH.
#
# JAXDP_VENV     directory of the environment; default: .venv in the repository
#
# Package indexes come from the configuration of pip and uv.

# shellcheck source=launch/commands.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/commands.sh"

ENVIRONMENT=${JAXDP_VENV:-$REPOSITORY/.venv}
case $ENVIRONMENT in /*) ;; *) ENVIRONMENT=$PWD/$ENVIRONMENT ;; esac
INSTALL_LOG=$ENVIRONMENT/jaxdp_install.log
# Exists during an installation, and after one that was killed. It is a symbolic
# link, since a link is created atomically with its content: process and machine.
INSTALLING=$ENVIRONMENT/jaxdp_installing
# Exists in environments that these scripts have created; only those are ever emptied.
MADE_HERE=$ENVIRONMENT/jaxdp_environment

# Runs a command in the repository with its output in the log.
logged() {
  if is_dry_run; then
    show_command "$@"
    return 0
  fi
  { printf '\n$ ' && show_command "$@"; } >>"$INSTALL_LOG"
  (cd -- "$REPOSITORY" && "$@") >>"$INSTALL_LOG" 2>&1 </dev/null
}

# ---- The hardware -----------------------------------------------------------

# Succeeds if this machine has Cloud TPUs; $1 is a prefix of /dev and /sys.
has_tpu() {
  local root=$1 chip vendor
  [ -z "${TPU_ACCELERATOR_TYPE:-}${TPU_WORKER_HOSTNAMES:-}" ] || return 0
  for chip in "$root"/dev/accel[0-9]*; do
    [ ! -e "$chip" ] || return 0
  done
  # VFIO passes any device through, so the vendor must be Google.
  for chip in "$root"/dev/vfio/[0-9]*; do
    [ -e "$chip" ] || continue
    for vendor in "$root"/sys/bus/pci/devices/*/vendor; do
      [ "$(cat "$vendor" 2>/dev/null)" != 0x1ae0 ] || return 0
    done
  done
  return 1
}

# Prints cuda13, cuda12 or nothing; the reason for nothing goes to stderr.
nvidia_extra() {
  local report cuda major minor
  command -v nvidia-smi >/dev/null || return 0
  if ! report=$(nvidia-smi 2>&1 </dev/null); then
    say "nvidia-smi fails, so no NVIDIA GPU is used; its output: ${report%%"$NEWLINE"*}"
    return 0
  fi
  # Drivers since 590 write "CUDA UMD Version".
  cuda=$(printf '%s\n' "$report" | sed -n 's/.*CUDA [A-Z ]*Version *: *\([0-9][0-9]*\)\..*/\1/p')
  cuda=${cuda%%"$NEWLINE"*}
  if [ "${cuda:-0}" -lt 12 ]; then
    say "the NVIDIA driver offers CUDA ${cuda:-of unknown version}, JAX needs 12 or newer, so no GPU is used; install driver 525 or newer (580 for CUDA 13)"
    return 0
  fi
  # CUDA 13 does not support compute capability below 7.5 (Volta and older); the
  # same driver does.
  while IFS=. read -r major minor; do
    case $major$minor in "" | *[!0-9]*) continue ;; esac
    [ $((10 * major + minor)) -ge 75 ] || cuda=12
  done < <(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null </dev/null)
  if [ "$cuda" -ge 13 ]; then echo cuda13; else echo cuda12; fi
}

hardware_extra() {
  if has_tpu ""; then echo tpu; else nvidia_extra; fi
}

# Prints the extras of a training: that of the hardware, and storage if WORKDIR is a URL.
training_extras() {
  local extras
  extras=$(hardware_extra)
  case $WORKDIR in *://*) extras=${extras:+$extras,}storage ;; esac
  echo "$extras"
}

# Prints the number of NVIDIA GPUs that CUDA_VISIBLE_DEVICES leaves.
num_gpus() {
  local gpus
  if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
    gpus=${CUDA_VISIBLE_DEVICES//[!,]/}
    echo $((${#gpus} + (${#CUDA_VISIBLE_DEVICES} > 0)))
  elif command -v nvidia-smi >/dev/null; then
    { nvidia-smi -L 2>/dev/null </dev/null || true; } | grep -c '^GPU' || true
  else
    echo 0
  fi
}

# ---- The interpreter --------------------------------------------------------

# Prints version, path and those of the given modules that are missing.
PROBE='
import sys
print("%d.%d.%d" % sys.version_info[:3])
if sys.version_info < (3, 11): sys.exit(0)
import importlib.util
print(sys.executable)
print(" ".join(name for name in sys.argv[1:] if importlib.util.find_spec(name) is None))
'
# Modules that are optional when Python is compiled and required by the dependencies.
NEEDED_MODULES="_bz2 _ctypes _lzma _ssl"
PASSED_OVER=""

# Sets VERSION and PYTHON if the interpreter $1 is suitable; otherwise records the reason.
probe() {
  local report version="" python="" missing="" reason=""
  # shellcheck disable=SC2086  # a list of words
  if ! report=$("$1" -c "$PROBE" $NEEDED_MODULES 2>/dev/null </dev/null); then
    reason="does not run"
  else
    { read -r version && read -r python && read -r missing; } <<<"$report" || missing=""
    if [ -z "$python" ]; then
      reason="is Python $version, older than 3.11"
    elif [ -n "$missing" ]; then
      reason="is Python $version without ${missing// /, }"
    fi
  fi
  if [ -z "$reason" ]; then
    VERSION=$version PYTHON=$python
    return 0
  fi
  PASSED_OVER="$PASSED_OVER
  $1 $reason"
  return 1
}

# Sets PYTHON and VERSION to the first suitable interpreter on the PATH.
find_interpreter() {
  local name path
  # uv creates environments without these modules.
  [ -n "$UV" ] || NEEDED_MODULES="$NEEDED_MODULES ensurepip venv"
  for name in python3.14 python3.13 python3.12 python3.11 python3 python; do
    while IFS= read -r path; do
      ! probe "$path" || return 0
    done < <(type -aP "$name")
  done
  if [ -n "$UV" ]; then
    path=$("$UV" python find '>=3.11' 2>/dev/null) && probe "$path" && return 0
    say "no Python 3.11 or newer on the PATH; asking uv for one"
    if is_dry_run; then
      show_command "$UV" python install 3.12
      PYTHON=3.12 VERSION=3.12
      return 0
    fi
    "$UV" python install 3.12 >&2 &&
      path=$("$UV" python find '>=3.11') && probe "$path" && return 0
  fi
  fail "no suitable Python 3.11 or newer; checked:${PASSED_OVER:-
  nothing: no python3 or python is on the PATH}
Install one (Debian, Ubuntu: apt install python3 python3-venv; macOS: brew install python;
pyenv: pyenv install 3.12 && pyenv global 3.12) or uv, and run this again."
}

# ---- The environment --------------------------------------------------------

# Prints the text that must be unchanged for an installation to be current.
stamp_text() {
  printf '%s\n' "$VERSION" "$REPOSITORY" "$ENVIRONMENT" "$(cksum <"$REPOSITORY/pyproject.toml")"
}

stamp_file() { printf '%s\n' "$ENVIRONMENT/jaxdp_stamp${1:+_$1}"; }

is_current() { [ "$(cat "$(stamp_file "$1")" 2>/dev/null)" = "$(stamp_text)" ]; }

# Waits while another process of this machine, or of another one within the last
# hour, installs into the same environment. Sets INTERRUPTED to the mark of an
# installation that did not finish.
await_other_installation() {
  local holder process host reported=""
  INTERRUPTED=""
  while holder=$(readlink "$INSTALLING"); do
    process=${holder%% *} host=${holder#* }
    if [ "$host" = "$(uname -n)" ]; then
      kill -0 "$process" 2>/dev/null || INTERRUPTED=$holder
    elif [ -n "$(find "$INSTALLING" -mmin +60 2>/dev/null)" ]; then
      INTERRUPTED=$holder
    fi
    [ -z "$INTERRUPTED" ] || return 0
    [ -n "$reported" ] || say "waiting for process $process on $host, which installs into $ENVIRONMENT (if it does not, remove $INSTALLING)"
    reported=yes
    sleep 1
  done
}

# Sets STATE of the environment for extra $1: current, incomplete or unusable.
examine_environment() {
  STATE=unusable
  if [ ! -e "$ENVIRONMENT/pyvenv.cfg" ]; then
    [ -z "$(ls -A "$ENVIRONMENT" 2>/dev/null)" ] || [ -L "$INSTALLING" ] ||
      fail "$ENVIRONMENT is not empty and no Python environment; set JAXDP_VENV to another directory"
  elif [ -n "$INTERRUPTED" ] && [ -e "$MADE_HERE" ]; then
    : # Partially written packages look installed, so the environment is made again.
  elif ! probe "$ENVIRONMENT/bin/python"; then
    [ -e "$MADE_HERE" ] ||
      fail "an environment that these scripts did not create is not suitable:$PASSED_OVER
Remove it or set JAXDP_VENV to another directory."
  elif [ -z "$INTERRUPTED" ] && is_current "$1"; then
    STATE=current
  else
    STATE=incomplete
  fi
}

# Claims the installation of extra $1 for this process; fails if another process
# has changed the environment since it was examined.
claim_installation() {
  local seen=$STATE
  if ! mkdir -p "$ENVIRONMENT" 2>/dev/null || [ ! -w "$ENVIRONMENT" ]; then
    fail "cannot write to $ENVIRONMENT; set JAXDP_VENV to a writable directory"
  fi
  if [ -n "$INTERRUPTED" ]; then
    [ "$(readlink "$INSTALLING")" = "$INTERRUPTED" ] || return 1
    rm -f "$INSTALLING"
  fi
  ln -s "$$ $(uname -n)" "$INSTALLING" 2>/dev/null || return 1
  examine_environment "$1"
  if [ "$STATE" != "$seen" ]; then
    rm -f "$INSTALLING"
    return 1
  fi
  # Without a trap bash continues after a child that handles Ctrl-C itself.
  trap 'say "interrupted; the next run starts the installation again"; exit 130' INT
  trap 'exit 143' TERM
}

create_environment() {
  if ! is_dry_run; then
    : >"$MADE_HERE"
    find "$ENVIRONMENT/" -mindepth 1 -maxdepth 1 ! -name "${INSTALLING##*/}" \
      ! -name "${MADE_HERE##*/}" -exec rm -rf {} +
  fi
  if [ -n "$UV" ] && logged "$UV" venv --allow-existing --python "$PYTHON" "$ENVIRONMENT"; then
    return 0
  fi
  logged "$PYTHON" -m venv "$ENVIRONMENT"
}

install_package() {
  local python=$ENVIRONMENT/bin/python package=.${1:+[$1]}
  if [ -n "$UV" ]; then
    ! logged "$UV" pip install --python "$python" --editable "$package" || return 0
    say "uv cannot install it; trying pip"
  fi
  # Environments of uv have no pip.
  is_dry_run || "$python" -c 'import pip' 2>/dev/null || logged "$python" -m ensurepip || return 1
  logged "$python" -m pip install --disable-pip-version-check --no-input --editable "$package"
}

show_log_and_fail() {
  tail -n 30 "$INSTALL_LOG" >&2
  # The failed command has undone its changes, so the previous state is valid.
  rm -f "$INSTALLING"
  fail "$1 failed; its last lines are above, all of them in $INSTALL_LOG"
}

# Puts the environment on the PATH.
use_environment() {
  # shellcheck disable=SC2016  # the shell that runs the printed line expands it
  ! is_dry_run || printf 'export PATH=%q:$PATH\n' "$ENVIRONMENT/bin"
  export PATH="$ENVIRONMENT/bin:$PATH"
}

# Creates or completes the environment with extra $1 and puts it on the PATH.
make_environment() {
  local extra=$1 began=$SECONDS
  PASSED_OVER="" INTERRUPTED=""
  is_dry_run || await_other_installation
  examine_environment "$extra"
  if [ "$STATE" = current ]; then
    use_environment
    return 0
  fi

  UV=$(command -v uv || true)
  [ -z "$INTERRUPTED" ] || say "an earlier installation was interrupted; starting it again"
  [ "$STATE" != unusable ] || find_interpreter
  if ! is_dry_run && ! claim_installation "$extra"; then
    make_environment "$extra"
    return
  fi
  if [ "$STATE" = unusable ]; then
    say "creating $ENVIRONMENT with Python $VERSION ($PYTHON)"
    create_environment || show_log_and_fail "creating the environment"
  fi
  say "installing jaxdp${extra:+[$extra]} and its dependencies; the first time this takes minutes (log: $INSTALL_LOG)"
  install_package "$extra" || show_log_and_fail "installing jaxdp${extra:+[$extra]}"
  use_environment
  ! is_dry_run || return 0
  stamp_text >"$(stamp_file "$extra")"
  # An installation with any extra includes the package itself.
  stamp_text >"$(stamp_file "")"
  rm -f "$INSTALLING"
  trap - INT TERM
  say "installed in $((SECONDS - began)) s"
}
