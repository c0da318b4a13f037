# shellcheck shell=bash disable=SC2034  # the scripts use the variables
# Options, messages and commands of the launch scripts, which source this file.
#
# JAXDP_DRY_RUN  1: print the commands to stdout instead of running them
#
# Compatible with bash 3.2, which macOS ships.

CDPATH=""
NEWLINE=$'\n'
REPOSITORY=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)

is_dry_run() { [ "${JAXDP_DRY_RUN:-0}" != 0 ]; }

say() {
  if is_dry_run; then printf 'jaxdp (dry run): %s\n' "$*"; else printf 'jaxdp: %s\n' "$*"; fi >&2
}

fail() {
  say "$*"
  exit 2
}

# Prints the comment at the top of the script.
show_help() {
  local line
  while IFS= read -r line; do
    case $line in
      '#!'*) continue ;;
      '#SBATCH'* | [!#]* | "") break ;;
    esac
    line=${line#\#}
    printf '%s\n' "${line# }"
  done <"$0"
}

# Handles an option that every script has; fails for another one.
is_common_option() {
  case ${1:-} in
    --help)
      show_help
      exit 0
      ;;
    --dry_run) export JAXDP_DRY_RUN=1 ;;
    *) return 1 ;;
  esac
}

# Handles an option of a script whose own options end with --; fails for one that is not common.
take_common_option() {
  is_common_option "$1" || fail "expected an option or -- before the arguments of jaxdp, found $1; see --help"
}

# Fails unless program $1 exists; $2 is the reason that it is needed. A dry run needs none.
require_program() {
  is_dry_run || command -v "$1" >/dev/null || fail "$1 is not on the PATH of this machine: $2"
}

# Fails unless the value $2 of option $1 is a whole number of at least $3.
require_number() {
  case $2 in
    "" | *[!0-9]* | ????????*) ;;
    *) [ "$2" -lt "$3" ] || return 0 ;;
  esac
  fail "$1=$2 must be a whole number of at least $3"
}

# Fails unless the arguments, those of jaxdp, start a training; sets WORKDIR to its work directory.
require_train() {
  local argument is_next=""
  [ "${1:-}" = train ] || fail "expected -- train --config=FILE --workdir=DIR after the options, found ${1:-nothing}; see --help"
  WORKDIR=""
  for argument in "$@"; do
    [ -z "$is_next" ] || WORKDIR=$argument
    is_next=""
    case $argument in
      --workdir=*) WORKDIR=${argument#*=} ;;
      --workdir) is_next=yes ;;
    esac
  done
  [ -n "$WORKDIR" ] || fail "--workdir=DIR is missing after -- train; see --help"
}

# Sets GRACE_OPTION to the option of jaxdp for $1 seconds between SIGTERM and the kill;
# to none if the other arguments, those of jaxdp, have it.
set_grace_option() {
  local argument key=--config.checkpoint.grace_secs
  GRACE_OPTION=("$key=$1")
  shift
  for argument in "$@"; do
    case $argument in "$key" | "$key="*) GRACE_OPTION=() ;; esac
  done
}

show_command() {
  local line
  printf -v line '%q ' "$@"
  printf '%s\n' "${line% }"
}

execute() {
  if is_dry_run; then show_command "$@"; else "$@"; fi
}

# Like execute, but replaces this script: the command receives the signals and sets the exit status.
become() {
  is_dry_run || exec "$@"
  show_command "$@"
  exit 0
}
