#!/usr/bin/env bash
# Trains on every host of a Cloud TPU slice:
#
#   bash launch/tpu_pod.sh COMMAND NAME [OPTIONS]
#
#   create NAME --type=TYPE --version=VERSION [--spot]   create a slice now, e.g. of type v5litepod-16
#   queue NAME --type=TYPE --version=VERSION [--spot]    create a slice when there is capacity (queued resource)
#   status NAME                                          print the state of a queued resource
#   install NAME                                         copy the repository to all hosts and install it
#   train NAME [--restarts=R] -- train --config=FILE --workdir=DIR ...    start training in the background
#   logs NAME [--worker=I]                               follow the log of host I; default 0
#   stop NAME                                            SIGTERM to all processes: save and end
#   delete NAME [--queued]                               delete the slice, or the queued resource and its slice
#
#   --zone=ZONE, --project=PROJECT  default: those of the configuration of gcloud
#   --dry_run                       print the commands instead of running them
#   --help                          print this text
#
# VERSION is a runtime version, e.g. v2-alpha-tpuv5-lite. FILE is relative to the root of the
# repository; DIR must be on a file system that all hosts share, or a URL in object storage.
# The hosts need Python 3.11 or newer, or uv. Each host restarts its process as
# launch/multiprocess.sh does. After the loss of a spot slice, the same commands continue the
# run on another slice.
set -euo pipefail
# shellcheck source=launch/commands.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/commands.sh"

while is_common_option "${1:-}"; do shift; done
[ $# -ge 2 ] || fail "expected COMMAND and NAME, found $# arguments; see --help"
COMMAND=$1 NAME=$2
shift 2
case $NAME in -*) fail "expected the name of a slice after $COMMAND, found $NAME; see --help" ;; esac

TYPE="" VERSION="" SPOT="" QUEUED="" RESTARTS=10 WORKER=0
place=()
while [ $# -gt 0 ]; do
  case $COMMAND,$1 in
    create,--type=* | queue,--type=*) TYPE=${1#*=} ;;
    create,--version=* | queue,--version=*) VERSION=${1#*=} ;;
    create,--spot | queue,--spot) SPOT=yes ;;
    delete,--queued) QUEUED=yes ;;
    train,--restarts=*) RESTARTS=${1#*=} ;;
    logs,--worker=*) WORKER=${1#*=} ;;
    *,--zone=* | *,--project=*) place+=("$1") ;;
    train,--)
      shift
      break
      ;;
    *) is_common_option "$1" || fail "$COMMAND has no option $1; see --help" ;;
  esac
  shift
done
require_program gcloud "install the Google Cloud CLI and run gcloud auth login"

tpus() { execute gcloud compute tpus "$@" ${place[@]+"${place[@]}"}; }

# Runs shell text $1 on all hosts.
on_all_hosts() { tpus tpu-vm ssh "$NAME" --worker=all --command="$1"; }

require_type() {
  [ -n "$TYPE" ] && [ -n "$VERSION" ] || fail "$COMMAND needs --type=TYPE and --version=VERSION, e.g. --type=v5litepod-16 --version=v2-alpha-tpuv5-lite"
}

# Shell text for the hosts, which expand $(...) and $!.
# shellcheck disable=SC2016
IS_ALONE='! kill -0 "$(cat jaxdp.pid 2>/dev/null)" 2>/dev/null || { echo "jaxdp: already training; stop it first" >&2; exit 2; }' \
  KEEP_ID='echo $! >jaxdp.pid' STOP='kill -TERM "$(cat jaxdp.pid)"'

case $COMMAND in
  create)
    require_type
    tpus tpu-vm create "$NAME" --accelerator-type="$TYPE" --version="$VERSION" ${SPOT:+--spot}
    ;;
  queue)
    require_type
    tpus queued-resources create "$NAME" --node-id="$NAME" --accelerator-type="$TYPE" --runtime-version="$VERSION" ${SPOT:+--spot}
    ;;
  status) tpus queued-resources describe "$NAME" --format="value(state.state)" ;;
  install)
    execute cd -- "$REPOSITORY"
    on_all_hosts "mkdir -p jaxdp"
    tpus tpu-vm scp --recurse pyproject.toml README.md LICENSE jaxdp configs launch "$NAME:jaxdp/" --worker=all
    on_all_hosts "cd jaxdp && bash launch/local.sh --version"
    ;;
  train)
    require_number --restarts "$RESTARTS" 0
    require_train "$@"
    # nohup: the process must not end with the connection.
    start="nohup $(show_command bash launch/multiprocess.sh --restarts="$RESTARTS" -- "$@")"
    on_all_hosts "cd jaxdp && { $IS_ALONE; } && { $start >>jaxdp.log 2>&1 </dev/null & $KEEP_ID; }"
    ;;
  logs) tpus tpu-vm ssh "$NAME" --worker="$WORKER" --command="tail -n 100 -F jaxdp/jaxdp.log" ;;
  stop) on_all_hosts "cd jaxdp && $STOP" ;;
  delete)
    if [ -n "$QUEUED" ]; then
      tpus queued-resources delete "$NAME" --force --quiet
    else
      tpus tpu-vm delete "$NAME" --quiet
    fi
    ;;
  *) fail "expected create, queue, status, install, train, logs, stop or delete, found $COMMAND; see --help" ;;
esac
