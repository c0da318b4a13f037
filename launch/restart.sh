#!/usr/bin/env bash
# Trains on this machine and restarts after failures that a restart fixes:
#
#   bash launch/restart.sh [--dry_run] [--restarts=R] [--processes=P] ARGUMENTS
#
# ARGUMENTS are those of `jaxdp train`. R (default 10) is the maximum number of
# restarts after exit codes 70 (no progress, or an internal error), 134 (lost
# another process), 137 (killed), 75 (stopped by SIGTERM and saved) and 143 (SIGTERM
# before Python ran). SIGTERM, SIGHUP and Ctrl-C to this script are forwarded and
# end it. P (default 1) is the number of processes that train together, for example
# with --cpu_devices=2 each; when one of them fails, the others are killed after a
# minute, even if they are suspended.
set -euo pipefail
# shellcheck source=launch/environment.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

RESTARTS=10 PROCESSES=1
END_SECS=${JAXDP_END_SECS:-60}
while [ $# -gt 0 ]; do
  case $1 in
    --dry_run) export JAXDP_DRY_RUN=1 ;;
    --restarts=*) RESTARTS=${1#*=} ;;
    --processes=*) PROCESSES=${1#*=} ;;
    *) break ;;
  esac
  shift
done
case $RESTARTS,$PROCESSES in
  *[!0-9,]* | ,* | *, | *,0) fail "--restarts=$RESTARTS and --processes=$PROCESSES must be whole numbers, at least 0 and 1" ;;
esac
[ $# -gt 0 ] || fail "expected the arguments of jaxdp train, such as --config=FILE --workdir=DIR"

# Prints the options of process $1; $2 is the port of this start.
meeting() {
  [ "$PROCESSES" -eq 1 ] || printf '%s\n' "--coordinator=127.0.0.1:$2" "--num_processes=$PROCESSES" "--process_index=$1"
}

# Starts all processes with the given arguments; sets PIDS.
start_all() {
  local index port own option
  # A random port below the ephemeral ports of the system.
  port=$((20000 + RANDOM % 12000))
  PIDS=""
  index=0
  while [ "$index" -lt "$PROCESSES" ]; do
    own=()
    while IFS= read -r option; do own+=("$option"); done < <(meeting "$index" "$port")
    if is_dry_run; then
      show_command jaxdp train "$@" ${own[@]+"${own[@]}"}
    else
      jaxdp train "$@" ${own[@]+"${own[@]}"} &
      PIDS="$PIDS $!"
    fi
    index=$((index + 1))
  done
}

# Waits for all of PIDS; sets STATUS to the exit code that determines a restart.
wait_all() {
  local pid code running failing_since=""
  while :; do
    running=""
    for pid in $PIDS; do
      if kill -0 "$pid" 2>/dev/null; then
        running="$running $pid"
      elif [ -z "$failing_since" ] && ! wait "$pid"; then
        failing_since=$SECONDS
      fi
    done
    [ -n "$running" ] || break
    if [ -n "$failing_since" ] && [ $((SECONDS - failing_since)) -ge "$END_SECS" ]; then
      say "ending the processes that are left:$running"
      # shellcheck disable=SC2086  # a list of numbers
      kill -KILL $running 2>/dev/null || true
      failing_since=$SECONDS
    fi
    sleep 0.2
  done
  STATUS=0
  for pid in $PIDS; do
    code=0
    wait "$pid" || code=$?
    # Exit codes that a restart does not fix take precedence.
    if [ "$code" -ne 0 ] && { [ "$STATUS" -eq 0 ] || { is_worth_a_restart "$STATUS" && ! is_worth_a_restart "$code"; }; }; then
      STATUS=$code
    fi
  done
}

is_worth_a_restart() {
  case $1 in 70 | 75 | 134 | 137 | 143) return 0 ;; *) return 1 ;; esac
}

# Only this script receives SIGTERM, all processes of the terminal receive Ctrl-C, and SIGHUP may
# reach either. Under nohup SIGHUP stays ignored, here and in the processes.
STOP_SIGNAL=""
pass_on_term() {
  STOP_SIGNAL=TERM
  # shellcheck disable=SC2086  # a list of numbers
  [ -z "$PIDS" ] || kill -TERM $PIDS 2>/dev/null || true
}

make_environment "$(hardware_extra)"
if is_dry_run; then
  start_all "$@"
  say "again up to $RESTARTS times after exit codes 70, 75, 134, 137 and 143"
  exit 0
fi

PIDS=""
trap pass_on_term TERM HUP
trap 'STOP_SIGNAL=INT' INT
count=0
while :; do
  start_all "$@"
  wait_all
  if [ "$STATUS" -eq 0 ] || [ -n "$STOP_SIGNAL" ] || ! is_worth_a_restart "$STATUS"; then
    exit "$STATUS"
  fi
  if [ "$count" -ge "$RESTARTS" ]; then
    say "exit code $STATUS; restarted $count times, the maximum of --restarts=$RESTARTS"
    exit "$STATUS"
  fi
  count=$((count + 1))
  say "exit code $STATUS; restarting ($count of $RESTARTS)"
  sleep "${JAXDP_PAUSE_SECS:-1}"
  [ -z "$STOP_SIGNAL" ] || exit "$STATUS"
done
